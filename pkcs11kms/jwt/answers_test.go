package jwt_test

import (
	"context"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// denying is a client whose KMS answers that nothing is valid, without the exception that AWS KMS has for this.
type denying struct{ jwt.Client }

func (denying) VerifyMac(context.Context, *kms.VerifyMacInput, ...func(*kms.Options)) (*kms.VerifyMacOutput, error) {
	return &kms.VerifyMacOutput{MacValid: false}, nil
}

func (denying) Verify(context.Context, *kms.VerifyInput, ...func(*kms.Options)) (*kms.VerifyOutput, error) {
	return &kms.VerifyOutput{SignatureValid: false}, nil
}

func TestAnswersThatSayNotValidCount(t *testing.T) {
	f := newFixture(t)
	for _, spec := range []types.KeySpec{"HMAC_256", "ECC_NIST_P256", "RSA_2048"} {
		key := f.newKey(spec)
		token := f.sign(key, map[string]any{"sub": "alice"})
		require.NoError(t, f.verifier(jwt.VerifierConfig{AskKMS: true}, key).Verify(t.Context(), token, nil))
		v := f.verifier(jwt.VerifierConfig{Client: denying{f.remote}, AskKMS: true}, key)
		requireInvalid(t, v.Verify(t.Context(), token, nil), gojwt.ErrTokenSignatureInvalid)
	}
}

// recording notes what Sign is given.
type recording struct {
	jwt.Client
	bytes int
	kind  types.MessageType
}

func (r *recording) Sign(ctx context.Context, in *kms.SignInput, o ...func(*kms.Options)) (*kms.SignOutput, error) {
	r.bytes, r.kind = len(in.Message), in.MessageType
	return r.Client.Sign(ctx, in, o...)
}

// Sign takes messages of up to 4,096 bytes: what is signed has as many as that, or goes as a digest.
func TestLongestMessageIsSignedAsItIs(t *testing.T) {
	f := newFixture(t)
	key := f.newKey("ECC_NIST_P256")
	client := &recording{Client: f.remote}
	seen := map[int]bool{}
	for _, typ := range []string{"JWT", "at+jwt", "dpop+jwt", "a", "ab"} {
		signer, err := jwt.NewSigner(jwt.SignerConfig{Client: client, KeyID: key, Header: map[string]any{"typ": typ}})
		require.NoError(t, err)
		for n := 2960; n < 2990; n++ {
			token, err := signer.Sign(t.Context(), map[string]any{"x": strings.Repeat("x", n)})
			require.NoError(t, err)
			length := strings.LastIndexByte(token, '.')
			if length <= 4096 {
				require.Equal(t, types.MessageTypeRaw, client.kind, "%d bytes", length)
				require.Equal(t, length, client.bytes)
			} else {
				require.Equal(t, types.MessageTypeDigest, client.kind, "%d bytes", length)
				require.Equal(t, 32, client.bytes)
			}
			seen[length] = true
		}
	}
	require.True(t, seen[4096] && seen[4097], "the border was met")
}
