package awsjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsjson"
)

var seeds = []string{
	``, `{}`, `null`, `[]`, `{"KeyId":"a"}`, generateMacBody, sampleMetadataBody,
	`{"Blob":"SGVs\nbG8=","Number":1e400,"Time":1669973196.214}`,
	`{"KeyId":"\ud83d\ude00\u0000\/","KeyId":null,"KEYID":"b"}`,
	`{"Tags":[{"TagKey":"k","TagValue":"v"},{}],"Names":["a","b"],"Context":{"a":"b"},"Nested":{"SourceArn":"x"}}`,
	`{"Spec":"","Recipient":{"KeyEncryptionAlgorithm":""}}`,
	`{"Flag":true,"Plain":false,"Number":-10.0,"Spec":"HMAC_256","X":[1,{"y":[null,2.5e-3]}]}`,
	`{"X":` + nested(40) + `}`, `{"X":"\ud83d"}`, "{\"X\":\"\xff\"}", "\xef\xbb\xbf{}", `{"X":01}`, `{"X":1,}`,
}

// FuzzDecode checks that a body gives a value, or an error that says why not, and that the value survives being written and
// read again.
func FuzzDecode(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		var got, again everything
		err := awsjson.Decode(body, &got)
		assert.Equal(t, before, body, "the body must stay as it was")
		var empty *awsjson.EmptyEnumError
		if errors.As(err, &empty) {
			assert.Contains(t, []string{"Spec", "Recipient.KeyEncryptionAlgorithm"}, empty.Members[0])
		} else if err != nil {
			var bad *awsjson.SerializationError
			require.ErrorAs(t, err, &bad)
			assert.True(t, 0 <= bad.Offset && bad.Offset <= len(body), "offset within the body")
			return
		}
		encoded, err := awsjson.Encode(&got)
		require.NoError(t, err)
		require.NoError(t, awsjson.Decode(encoded, &again))
		assert.Equal(t, got, again)
	})
}

// stricter holds the reasons for which this package refuses what encoding/json takes for valid.
var stricter = []string{"nested too deeply", "surrogate without its partner"}

// FuzzSyntax compares what passes for JSON here and in encoding/json, by a structure in which every member is unknown.
func FuzzSyntax(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
		f.Add([]byte(`{"X":` + seed + `}`))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		object := json.Valid(body) && utf8.Valid(body) && bytes.TrimLeft(body, " \t\r\n")[0] == '{'
		err := awsjson.Decode(body, &kms.EnableKeyOutput{})
		var bad *awsjson.SerializationError
		if errors.As(err, &bad) && slices.Contains(stricter, bad.Reason) {
			return
		}
		assert.Equal(t, object || len(body) == 0, err == nil)
	})
}

// FuzzEncodeText checks a string's way out against encoding/json's reading of it.
func FuzzEncodeText(f *testing.F) {
	for _, piece := range pieces {
		f.Add(piece)
	}
	f.Add("\xff\xed\xa0\x80")
	f.Fuzz(func(t *testing.T, text string) {
		body, err := awsjson.Encode(&kms.GetKeyPolicyOutput{Policy: &text})
		require.NoError(t, err)
		require.True(t, utf8.Valid(body))
		var theirs struct{ Policy string }
		require.NoError(t, json.Unmarshal(body, &theirs))
		assert.Equal(t, string([]rune(text)), theirs.Policy)
		var ours kms.GetKeyPolicyOutput
		require.NoError(t, awsjson.Decode(body, &ours))
		assert.Equal(t, theirs.Policy, *ours.Policy)
	})
}
