package jwt_test

import (
	"crypto/elliptic"
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// withSignature replaces the signature of a token.
func withSignature(token, signature string) string {
	return token[:strings.LastIndex(token, ".")+1] + rawURL(signature)
}

func signatureOf(t *testing.T, token string) string {
	t.Helper()
	return fromRaw(t, token[strings.LastIndex(token, ".")+1:])
}

// TestLengthOfAnECDSASignature: r and s are each as long as the curve's order, and no number in another length is taken for them:
// the same two numbers would have many tokens.
func TestLengthOfAnECDSASignature(t *testing.T) {
	for _, p := range []pair{newECPair(t, "a", elliptic.P256(), gojwt.SigningMethodES256),
		newECPair(t, "a", elliptic.P521(), gojwt.SigningMethodES512)} {
		v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: &jwt.KeySet{Keys: []jwt.JWK{p.jwk}}})
		require.NoError(t, err)
		token := p.token(t, p.methods[0], gojwt.MapClaims{})
		signature := signatureOf(t, token)
		r, s := signature[:len(signature)/2], signature[len(signature)/2:]
		require.NoError(t, v.Verify(t.Context(), withSignature(token, r+s), nil))
		wrong := []string{"\x00" + r + "\x00" + s, "\x00\x00" + r + "\x00\x00" + s, "\x00" + r + s, r + s + "\x00", r[1:] + s[1:], r, "\x00\x00",
			"\x01\x01", r + s + r + s, strings.Repeat("\x00", len(signature))}
		for r[0] != 0 || s[0] != 0 { // of P-521 one in four
			if p.jwk.Crv != "P-521" {
				break
			}
			token = p.token(t, p.methods[0], gojwt.MapClaims{})
			signature = signatureOf(t, token)
			r, s = signature[:66], signature[66:]
			wrong = []string{r[1:] + s[1:], "\x00" + r + "\x00" + s}
		}
		for _, signature := range wrong {
			requireInvalid(t, v.Verify(t.Context(), withSignature(token, signature), nil), gojwt.ErrTokenSignatureInvalid)
		}
	}
}

// TestLengthThatKMSDoesNotTake: a MAC or signature that KMS would call a malformed request is one that does not verify, and no reason
// to answer that the token could not be examined.
func TestLengthThatKMSDoesNotTake(t *testing.T) {
	f := newFixture(t)
	for _, spec := range []types.KeySpec{"HMAC_256", "RSA_2048", "ECC_NIST_P256", "ECC_NIST_EDWARDS25519"} {
		key := f.newKey(spec)
		token := f.sign(key, map[string]any{})
		good := signatureOf(t, token)
		for name, v := range map[string]*jwt.Verifier{"here": f.verifier(jwt.VerifierConfig{}, key),
			"KMS": f.verifier(jwt.VerifierConfig{AskKMS: true}, key)} {
			require.NoError(t, v.Verify(t.Context(), token, nil))
			for _, length := range []int{0, 1, len(good) / 2, len(good) - 1, len(good) + 1, 2 * len(good), 7000} {
				wrong := strings.Repeat(good, 7000/len(good)+1)[:length]
				err := v.Verify(t.Context(), withSignature(token, wrong), nil)
				require.ErrorIs(t, err, gojwt.ErrTokenSignatureInvalid, "%s %s: %d bytes", spec, name, length)
				requireInvalid(t, err, gojwt.ErrTokenSignatureInvalid)
			}
		}
	}
}

// TestOneKeyIsNotAnyKey: a verifier that knows one key alone takes no other kid for it, from KMS and from a set.
func TestOneKeyIsNotAnyKey(t *testing.T) {
	f := newFixture(t)
	key := f.newKey("ECC_NIST_P256")
	set, err := jwt.PublicKeySet(t.Context(), f.remote, key)
	require.NoError(t, err)
	bySet, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set})
	require.NoError(t, err)
	resolved, err := jwt.Resolve(t.Context(), f.remote, key)
	require.NoError(t, err)
	for _, v := range []*jwt.Verifier{bySet, f.verifier(jwt.VerifierConfig{}, key), f.verifier(jwt.VerifierConfig{AskKMS: true}, key)} {
		for _, kid := range []any{strings.ToUpper(key), key[:35], key + " ", "alias/tokens", arnOf(t, f.remote, key), "", nil} {
			token := gojwt.NewWithClaims(jwt.ES256, gojwt.MapClaims{})
			if kid != nil {
				token.Header["kid"] = kid
			}
			text, err := token.SignedString(resolved)
			require.NoError(t, err)
			requireInvalid(t, v.Verify(t.Context(), text, nil), jwt.ErrUnknownKey)
		}
		require.NoError(t, v.Verify(t.Context(), f.sign(key, map[string]any{}), nil))
	}
}

// TestKeyOperations: a key says what it is for (RFC 7517 section 4.3).
func TestKeyOperations(t *testing.T) {
	p := newEdPair(t, "a")
	for operations, usable := range map[string]bool{`["verify"]`: true, `["sign","verify"]`: true, `["verify","other"]`: true,
		`["sign"]`: false, `[]`: false, `["Verify"]`: false, `"verify"`: false, `null`: false, `["encrypt"]`: false, `[5]`: false} {
		set, err := jwt.ParseKeySet(setOf(jwkWith(t, p.jwk, map[string]any{"key_ops": json.RawMessage(operations)})))
		require.Equal(t, usable, err == nil, operations)
		if !usable {
			require.ErrorIs(t, err, jwt.ErrNoUsableKey)
			continue
		}
		v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set})
		require.NoError(t, err)
		require.NoError(t, v.Verify(t.Context(), p.token(t, gojwt.SigningMethodEdDSA, gojwt.MapClaims{}), nil))
	}
}

// TestClaimsReplaceWhatWasThere: a target that is used again holds nothing of the token before.
func TestClaimsReplaceWhatWasThere(t *testing.T) {
	p := newEdPair(t, "a")
	v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: &jwt.KeySet{Keys: []jwt.JWK{p.jwk}}})
	require.NoError(t, err)
	raw := json.RawMessage(`{"admin":true}`)
	for _, sub := range []string{"alice", "bob"} {
		require.NoError(t, v.Verify(t.Context(), p.token(t, gojwt.SigningMethodEdDSA, gojwt.MapClaims{"sub": sub}), &raw))
		require.Equal(t, `{"sub":"`+sub+`"}`, string(raw))
	}
}

// TestKeySetStandsAlone: no KMS is asked beside a set, so what is about KMS does not go with one.
func TestKeySetStandsAlone(t *testing.T) {
	set := &jwt.KeySet{Keys: []jwt.JWK{newEdPair(t, "a").jwk}}
	_, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set})
	require.NoError(t, err)
	for _, cfg := range []jwt.VerifierConfig{{AskKMS: true}, {Client: &flaky{}}, {KeyIDs: []string{"alias/a"}},
		{Client: &flaky{}, KeyIDs: []string{"alias/a"}}} {
		cfg.KeySet = set
		_, err := jwt.NewVerifier(cfg)
		require.ErrorContains(t, err, "KeySet goes neither")
	}
}
