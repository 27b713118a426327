package awsjson_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsjson"
)

const keyArn = "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

const generateMacBody = `{"KeyId":"alias/app","Message":"SGVsbG8=","MacAlgorithm":"HMAC_SHA_256"}`

func generateMacOutput() *kms.GenerateMacOutput {
	return &kms.GenerateMacOutput{
		KeyId: aws.String(keyArn), Mac: make([]byte, 32), MacAlgorithm: types.MacAlgorithmSpecHmacSha256,
	}
}

func TestAllocations(t *testing.T) {
	out := generateMacOutput()
	body := []byte(generateMacBody)
	buffer := make([]byte, 0, 512)
	encode := testing.AllocsPerRun(100, func() { _, _ = awsjson.Encode(out) })
	appended := testing.AllocsPerRun(100, func() { _, _ = awsjson.Append(buffer, out) })
	var in kms.GenerateMacInput
	decode := testing.AllocsPerRun(100, func() { _ = awsjson.Decode(body, &in) })

	assert.LessOrEqual(t, encode, 2.0, "Encode: the body and nothing else")
	assert.Zero(t, appended, "Append into a buffer with room")
	assert.LessOrEqual(t, decode, 4.0, "Decode: KeyId's pointer and text, Message, one to spare")
}

// against times ours, and in turns with it the same work by encoding/json, and reports how many times as long that took.
// The turns are short so that other load on the machine falls on both.
func against(b *testing.B, ours, theirs func() error) {
	const turn = 100
	require.NoError(b, ours())
	require.NoError(b, theirs())
	b.ReportAllocs()
	var rival time.Duration
	done := 0
	for ; b.Loop(); done++ {
		_ = ours()
		if done%turn == 0 {
			b.StopTimer()
			start := time.Now()
			for range turn {
				_ = theirs()
			}
			rival += time.Since(start)
			b.StartTimer()
		}
	}
	turns := (done + turn - 1) / turn
	b.ReportMetric(float64(rival)/float64(turns*turn)/(float64(b.Elapsed())/float64(done)), "x-encoding/json")
}

func BenchmarkDecode(b *testing.B) {
	for _, size := range []struct{ name, message string }{
		{"5B", "SGVsbG8="}, {"4096B", strings.Repeat("SGVs", 4096/3) + "SA=="},
	} {
		body := []byte(strings.Replace(generateMacBody, "SGVsbG8=", size.message, 1))
		b.Run("GenerateMac/"+size.name, func(b *testing.B) {
			against(b,
				func() error { return awsjson.Decode(body, &kms.GenerateMacInput{}) },
				func() error { return json.Unmarshal(body, &kms.GenerateMacInput{}) })
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	outputs := map[string]any{
		"GenerateMac": generateMacOutput(),
		"DescribeKey": &kms.DescribeKeyOutput{KeyMetadata: sampleMetadata()},
	}
	for name, out := range outputs {
		b.Run(name, func(b *testing.B) {
			against(b,
				func() error { _, err := awsjson.Encode(out); return err },
				func() error { _, err := json.Marshal(out); return err })
		})
	}
}
