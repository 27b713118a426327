package jwt_test

import (
	"crypto/fips140"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// specMethods are the signing keys and what they can do.
var specMethods = map[types.KeySpec][]*jwt.Method{
	"RSA_2048":      {jwt.RS256, jwt.RS384, jwt.RS512, jwt.PS256, jwt.PS384, jwt.PS512},
	"ECC_NIST_P256": {jwt.ES256}, "ECC_NIST_P384": {jwt.ES384}, "ECC_NIST_P521": {jwt.ES512},
	"ECC_NIST_EDWARDS25519": {jwt.EdDSA},
}

// byGolangJWT verifies with golang-jwt's own method and the public key.
func byGolangJWT(t *testing.T, f *fixture, key, token string) {
	t.Helper()
	out, err := f.remote.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &key})
	require.NoError(t, err)
	public, err := x509.ParsePKIXPublicKey(out.PublicKey)
	require.NoError(t, err)
	_, err = gojwt.Parse(token, func(*gojwt.Token) (any, error) { return public, nil }, gojwt.WithStrictDecoding())
	require.NoError(t, err)
}

// TestSignatures: each client signs by each method what golang-jwt, the public key, KMS and a key set verify, short and long.
func TestSignatures(t *testing.T) {
	f := newFixture(t)
	for spec, methods := range specMethods {
		key := f.newKey(spec)
		alias := "alias/" + string(spec)
		f.point(alias, key)
		set, err := jwt.PublicKeySet(t.Context(), f.inProcess, alias, key)
		require.NoError(t, err)
		require.Len(t, set.Keys, 1)
		bySet, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set})
		require.NoError(t, err)
		verifiers := map[string]*jwt.Verifier{"key set": bySet}
		for name, client := range f.clients() {
			verifiers["public key, "+name] = f.verifier(jwt.VerifierConfig{Client: client}, alias)
			verifiers["Verify, "+name] = f.verifier(jwt.VerifierConfig{Client: client, AskKMS: true}, alias)
		}
		for _, method := range methods {
			for name, client := range f.clients() {
				for _, long := range []int{0, 5000} {
					if method == jwt.EdDSA && long > 0 {
						continue // KMS takes no more than a MAC of it, see TestLongEdDSA
					}
					signer, err := jwt.NewSigner(jwt.SignerConfig{Client: client, KeyID: alias, Method: method})
					require.NoError(t, err)
					token, err := signer.Sign(t.Context(), map[string]any{"sub": "alice", "x": strings.Repeat("x", long)})
					require.NoError(t, err)
					require.Equal(t, map[string]any{"alg": method.Alg(), "kid": key, "typ": "JWT"}, headerOf(t, token))
					byGolangJWT(t, f, key, token)
					for way, v := range verifiers {
						what := fmt.Sprintf("%s by %s of %d bytes, by %s", method.Alg(), name, long, way)
						require.NoError(t, v.Verify(t.Context(), token, nil), what)
						requireOnlyThisToken(t, v, token)
					}
				}
			}
		}
		first := methods[0]
		token := f.sign(alias, map[string]any{})
		require.Equal(t, first.Alg(), headerOf(t, token)["alg"], "unless another is named")
	}
}

// requireOnlyThisToken changes payload, signature and alg.
func requireOnlyThisToken(t *testing.T, v *jwt.Verifier, token string) {
	t.Helper()
	parts := strings.Split(token, ".")
	changed := "A"
	if parts[2][0] == 'A' {
		changed = "B"
	}
	requireInvalid(t, v.Verify(t.Context(), parts[0]+"."+rawURL(`{"sub":"bob"}`)+"."+parts[2], nil), gojwt.ErrTokenSignatureInvalid)
	requireInvalid(t, v.Verify(t.Context(), parts[0]+"."+parts[1]+"."+changed+parts[2][1:], nil), gojwt.ErrTokenSignatureInvalid)
	requireInvalid(t, v.Verify(t.Context(), parts[0]+"."+parts[1]+".", nil), gojwt.ErrTokenSignatureInvalid)
	header := headerOf(t, token)
	for _, alg := range []string{"none", "HS256", "RS999"} {
		header["alg"] = alg
		text, err := json.Marshal(header)
		require.NoError(t, err)
		requireInvalid(t, v.Verify(t.Context(), rawURL(string(text))+"."+parts[1]+"."+parts[2], nil), jwt.ErrAlgorithm)
	}
}

// TestDisabledSigningKey: with the public key it verifies until the cache is old, by KMS no longer.
func TestDisabledSigningKey(t *testing.T) {
	f, c := newFixture(t), newClock()
	key := f.newKey("ECC_NIST_P256")
	token := f.sign(key, map[string]any{})
	here := f.verifier(jwt.VerifierConfig{Now: c.Now}, key)
	there := f.verifier(jwt.VerifierConfig{Now: c.Now, AskKMS: true}, key)
	require.NoError(t, here.Verify(t.Context(), token, nil))
	require.NoError(t, there.Verify(t.Context(), token, nil))
	f.disable(key)
	require.NoError(t, here.Verify(t.Context(), token, nil))
	requireInvalid(t, there.Verify(t.Context(), token, nil), jwt.ErrUnknownKey)
	c.pass(5 * time.Minute)
	requireInvalid(t, here.Verify(t.Context(), token, nil), jwt.ErrUnknownKey)
	var disabled *types.DisabledException
	_, err := jwt.Sign(t.Context(), f.remote, key, map[string]any{})
	require.ErrorAs(t, err, &disabled)
	_, err = jwt.PublicKeySet(t.Context(), f.remote, key)
	require.ErrorAs(t, err, &disabled)
}

// TestKeySetIsStandard holds the members to RFC 7517 and 7518, and HMAC keys out of it.
func TestKeySetIsStandard(t *testing.T) {
	f := newFixture(t)
	rsaKey, ec := f.newKey("RSA_2048"), f.newKey("ECC_NIST_P521")
	set, err := jwt.PublicKeySet(t.Context(), f.remote, rsaKey, ec)
	require.NoError(t, err)
	doc, err := json.Marshal(set)
	require.NoError(t, err)
	var written struct{ Keys []map[string]string }
	require.NoError(t, json.Unmarshal(doc, &written))
	require.Len(t, written.Keys, 2)
	for member, length := range map[string]int{"n": 342, "x": 88, "y": 88} { // 256 and 66 bytes in base64url
		for _, key := range written.Keys {
			if value, ok := key[member]; ok {
				require.Len(t, value, length)
				delete(key, member)
			}
		}
	}
	require.Equal(t, []map[string]string{
		{"kty": "RSA", "kid": rsaKey, "use": "sig", "e": "AQAB"},
		{"kty": "EC", "kid": ec, "use": "sig", "alg": "ES512", "crv": "P-521"},
	}, written.Keys)
	_, err = jwt.PublicKeySet(t.Context(), f.remote, ec, f.newKey("HMAC_256"))
	require.ErrorIs(t, err, jwt.ErrAlgorithm)
	if !fips140.Enabled() { // where there are no such keys
		_, err = jwt.PublicKeySet(t.Context(), f.remote, f.newKey("ECC_SECG_P256K1"))
		require.ErrorIs(t, err, jwt.ErrAlgorithm, "ES256K is none of RFC 7518's")
	}
	empty, err := jwt.PublicKeySet(t.Context(), f.remote)
	require.NoError(t, err)
	doc, err = json.Marshal(empty)
	require.NoError(t, err)
	require.Equal(t, `{"keys":[]}`, string(doc))
}

// TestMixedKeys: one verifier for keys of both kinds, and each alg only with its own.
func TestMixedKeys(t *testing.T) {
	f := newFixture(t)
	mac, ec, rsaKey, ed := f.newKey("HMAC_256"), f.newKey("ECC_NIST_P256"), f.newKey("RSA_2048"), f.newKey("ECC_NIST_EDWARDS25519")
	v := f.verifier(jwt.VerifierConfig{Client: f.inProcess}, mac, ec, rsaKey, ed)
	for _, key := range []string{mac, ec, rsaKey, ed} {
		require.NoError(t, v.Verify(t.Context(), f.sign(key, map[string]any{}), nil))
	}
	// A MAC that anybody who may use the MAC key can make, in the name of the signing key.
	for _, key := range []string{ec, rsaKey, ed} {
		requireInvalid(t, v.Verify(t.Context(), f.resign(mac, `{"alg":"HS256","kid":"`+key+`"}`, `{}`), nil), jwt.ErrAlgorithm)
	}
}
