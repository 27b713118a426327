package sigv4_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/stretchr/testify/require"
)

// BenchmarkVerify verifies a GenerateMac request with the signing key at hand. In the same run the SDK's signer signs the
// same request, with its own cache of signing keys, and both are timed at their fastest: "best-ns/op" is Verify's, and
// "sdk/verify" says how many times as long the signer takes.
func BenchmarkVerify(b *testing.B) {
	r, body := signedRequest(b)
	key := sigv4.SigningKey(secret, "20250102", "us-east-1", "kms")
	verifier := newVerifier()
	verifier.Lookup = func(context.Context, *sigv4.Claim) (sigv4.Key, string, error) { return key, "", nil }
	verify := func() error {
		_, err := verifier.Verify(context.Background(), r, body)
		return err
	}
	b.ReportAllocs()
	for b.Loop() {
		if verify() != nil {
			b.Fatal("refused a good request")
		}
	}
	b.StopTimer()
	best := fastest(b, verify)
	b.ReportMetric(float64(best.Nanoseconds())/batch, "best-ns/op")
	b.ReportMetric(float64(fastest(b, newSDKSigner(b)))/float64(best), "sdk/verify")
}

func newSDKSigner(b *testing.B) func() error {
	b.Helper()
	signer := v4.NewSigner()
	r := newRequest(b, sampleBody)
	credentials := aws.Credentials{AccessKeyID: accessKeyID, SecretAccessKey: secret}
	return func() error {
		hash := sha256.Sum256([]byte(sampleBody))
		return signer.SignHTTP(context.Background(), credentials, r, hex.EncodeToString(hash[:]), "kms", "us-east-1", noon)
	}
}

const batch = 100

// fastest returns the time of the fastest of many short batches, which others' load disturbs least.
func fastest(b *testing.B, call func() error) time.Duration {
	b.Helper()
	best := time.Duration(1<<63 - 1)
	for range 200 {
		start := time.Now()
		var err error
		for range batch {
			err = errors.Join(err, call())
		}
		best = min(best, time.Since(start))
		require.NoError(b, err)
	}
	return best
}

// BenchmarkSigningKey is what a request costs whose signing key is not at hand, beside the look-up of the secret.
func BenchmarkSigningKey(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		sigv4.SigningKey(secret, "20250102", "us-east-1", "kms")
	}
}
