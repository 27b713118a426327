package jwt_test

import (
	"encoding/json"
	"strings"
	"testing"

	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// TestEdKeySetIsStandard holds the members to RFC 8037 section 2, and reads the key of its appendix A.2.
func TestEdKeySetIsStandard(t *testing.T) {
	f := newFixture(t)
	key := f.newKey("ECC_NIST_EDWARDS25519")
	set, err := jwt.PublicKeySet(t.Context(), f.remote, key)
	require.NoError(t, err)
	doc, err := json.Marshal(set)
	require.NoError(t, err)
	var written struct{ Keys []map[string]string }
	require.NoError(t, json.Unmarshal(doc, &written))
	require.Len(t, written.Keys, 1)
	require.Len(t, written.Keys[0]["x"], 43) // 32 bytes in base64url
	delete(written.Keys[0], "x")
	require.Equal(t, map[string]string{"kty": "OKP", "kid": key, "use": "sig", "alg": "EdDSA", "crv": "Ed25519"}, written.Keys[0])
}

// TestVectorOfRFC8037 is appendix A.4: a JWS whose payload is a text, so that it passes every check but the last.
func TestVectorOfRFC8037(t *testing.T) {
	set, err := jwt.ParseKeySet([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	require.NoError(t, err)
	const input = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
	const signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
	key := jwt.KeyOf(t, set.Keys[0])
	good, err := jwt.DecodeSegment(signature)
	require.NoError(t, err)
	require.NoError(t, jwt.EdDSA.Verify(input, good, key))
	for i := range good {
		good[i] ^= 1
		require.ErrorIs(t, jwt.EdDSA.Verify(input, good, key), gojwt.ErrTokenSignatureInvalid)
		good[i] ^= 1
	}
	for _, wrong := range [][]byte{nil, good[:63], append(good, 0)} {
		require.ErrorIs(t, jwt.EdDSA.Verify(input, wrong, key), gojwt.ErrTokenSignatureInvalid)
	}
	require.ErrorIs(t, jwt.EdDSA.Verify(input+"A", good, key), gojwt.ErrTokenSignatureInvalid)
	for _, other := range jwt.Methods() {
		if other != jwt.EdDSA {
			require.ErrorIs(t, other.Verify(input, good, key), jwt.ErrAlgorithm)
		}
	}
}

// TestLongEdDSA: Ed25519 signs no digests, so KMS takes no longer tokens than for a MAC. With the public key alone there is no such
// limit.
func TestLongEdDSA(t *testing.T) {
	f := newFixture(t)
	key := f.newKey("ECC_NIST_EDWARDS25519")
	long := map[string]any{"x": strings.Repeat("x", 4096)}
	for name, client := range f.clients() {
		_, err := jwt.Sign(t.Context(), client, key, long)
		require.ErrorIs(t, err, jwt.ErrTooLong, name)
		require.ErrorContains(t, err, "at most 4096 for EdDSA")
		token := f.sign(key, map[string]any{"x": strings.Repeat("x", 2900)})
		require.NoError(t, f.verifier(jwt.VerifierConfig{Client: client, AskKMS: true}, key).Verify(t.Context(), token, nil))
	}
	p := newEdPair(t, key)
	token := p.token(t, gojwt.SigningMethodEdDSA, long)
	requireInvalid(t, f.verifier(jwt.VerifierConfig{AskKMS: true}, key).Verify(t.Context(), token, nil), jwt.ErrTooLong)
	v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: &jwt.KeySet{Keys: []jwt.JWK{p.jwk}}})
	require.NoError(t, err)
	require.NoError(t, v.Verify(t.Context(), token, nil))
}
