package jwt_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// pair is a key pair of the standard library, with its JWK.
type pair struct {
	private crypto.Signer
	jwk     jwt.JWK
	methods []gojwt.SigningMethod // golang-jwt's own
}

func newRSAPair(t *testing.T, kid string) pair {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return pair{private, jwt.JWK{Kty: "RSA", Kid: kid, N: rawURL(string(private.N.Bytes())), E: "AQAB"},
		[]gojwt.SigningMethod{gojwt.SigningMethodRS256, gojwt.SigningMethodRS384, gojwt.SigningMethodRS512,
			gojwt.SigningMethodPS256, gojwt.SigningMethodPS384, gojwt.SigningMethodPS512}}
}

func newECPair(t *testing.T, kid string, curve elliptic.Curve, method gojwt.SigningMethod) pair {
	t.Helper()
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	point, err := private.PublicKey.Bytes()
	require.NoError(t, err)
	x, y := point[1:1+len(point)/2], point[1+len(point)/2:]
	return pair{private, jwt.JWK{Kty: "EC", Kid: kid, Crv: curve.Params().Name, X: rawURL(string(x)), Y: rawURL(string(y))},
		[]gojwt.SigningMethod{method}}
}

func newEdPair(t *testing.T, kid string) pair {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return pair{private, jwt.JWK{Kty: "OKP", Kid: kid, Crv: "Ed25519", X: rawURL(string(public))},
		[]gojwt.SigningMethod{gojwt.SigningMethodEdDSA}}
}

func (p pair) token(t *testing.T, method gojwt.SigningMethod, claims gojwt.MapClaims) string {
	t.Helper()
	token := gojwt.NewWithClaims(method, claims)
	token.Header["kid"] = p.jwk.Kid
	text, err := token.SignedString(p.private)
	require.NoError(t, err)
	return text
}

// TestTokensOfOthers: golang-jwt signs with its own methods and keys; what a public key verifies is that and nothing else.
func TestTokensOfOthers(t *testing.T) {
	pairs := []pair{newRSAPair(t, "rsa"), newECPair(t, "p256", elliptic.P256(), gojwt.SigningMethodES256),
		newECPair(t, "p384", elliptic.P384(), gojwt.SigningMethodES384), newECPair(t, "p521", elliptic.P521(), gojwt.SigningMethodES512),
		newEdPair(t, "ed25519")}
	set := &jwt.KeySet{}
	for _, p := range pairs {
		set.Keys = append(set.Keys, p.jwk)
	}
	doc, err := json.Marshal(set)
	require.NoError(t, err)
	set, err = jwt.ParseKeySet(doc)
	require.NoError(t, err)
	v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set})
	require.NoError(t, err)
	for _, p := range pairs {
		for _, method := range p.methods {
			token := p.token(t, method, gojwt.MapClaims{"sub": "alice", "long": strings.Repeat("x", 5000)})
			var claims map[string]any
			require.NoError(t, v.Verify(t.Context(), token, &claims), method.Alg())
			require.Equal(t, "alice", claims["sub"])
			_, err := gojwt.Parse(token, v.Keyfunc(t.Context()))
			require.NoError(t, err)
			requireInvalid(t, v.Verify(t.Context(), token[:len(token)-4]+"AAAA", nil), gojwt.ErrTokenSignatureInvalid)
			parts := strings.Split(token, ".")
			requireInvalid(t, v.Verify(t.Context(), parts[0]+"."+rawURL(`{"sub":"bob"}`)+"."+parts[2], nil), gojwt.ErrTokenSignatureInvalid)
			// The same signature under every other alg.
			for _, other := range jwt.Methods() {
				if other.Alg() != method.Alg() {
					header := fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, other.Alg(), p.jwk.Kid)
					require.ErrorIs(t, v.Verify(t.Context(), rawURL(header)+"."+parts[1]+"."+parts[2], nil), jwt.ErrInvalidToken)
				}
			}
		}
	}

	// The classic: the public key as an HMAC secret.
	der, err := x509.MarshalPKIXPublicKey(pairs[0].private.Public())
	require.NoError(t, err)
	for _, secret := range [][]byte{der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), doc} {
		requireInvalid(t, v.Verify(t.Context(), forge(`{"alg":"HS256","kid":"rsa"}`, `{}`, secret), nil), jwt.ErrAlgorithm)
	}
	requireInvalid(t, v.Verify(t.Context(), pairs[1].token(t, gojwt.SigningMethodES256, gojwt.MapClaims{"exp": 1}), nil),
		gojwt.ErrTokenExpired)
	stranger := newECPair(t, "p257", elliptic.P256(), gojwt.SigningMethodES256)
	requireInvalid(t, v.Verify(t.Context(), stranger.token(t, gojwt.SigningMethodES256, gojwt.MapClaims{}), nil), jwt.ErrUnknownKey)
	stranger.jwk.Kid = "p256"
	requireInvalid(t, v.Verify(t.Context(), stranger.token(t, gojwt.SigningMethodES256, gojwt.MapClaims{}), nil),
		gojwt.ErrTokenSignatureInvalid)
	// The key that a token brings along counts for nothing.
	jwk, err := json.Marshal(stranger.jwk)
	require.NoError(t, err)
	brought := gojwt.NewWithClaims(gojwt.SigningMethodES256, gojwt.MapClaims{})
	brought.Header["jwk"], brought.Header["kid"] = json.RawMessage(jwk), "p256"
	text, err := brought.SignedString(stranger.private)
	require.NoError(t, err)
	requireInvalid(t, v.Verify(t.Context(), text, nil), gojwt.ErrTokenSignatureInvalid)
}

// TestOneKeyListedForSeveralAlgs: it can be taken for no other key, so every entry of it serves.
func TestOneKeyListedForSeveralAlgs(t *testing.T) {
	p := newRSAPair(t, "rsa")
	fixed := p.jwk
	fixed.Alg = "RS256"
	for _, keys := range [][]jwt.JWK{{p.jwk, fixed}, {fixed, p.jwk}} {
		doc, err := json.Marshal(jwt.KeySet{Keys: keys})
		require.NoError(t, err)
		set, err := jwt.ParseKeySet(doc)
		require.NoError(t, err)
		require.Empty(t, set.Ignored)
		v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set})
		require.NoError(t, err)
		for _, method := range p.methods {
			require.NoError(t, v.Verify(t.Context(), p.token(t, method, gojwt.MapClaims{}), nil), method.Alg())
		}
	}
}

// TestFixedAlg: a key with an alg takes no other.
func TestFixedAlg(t *testing.T) {
	p := newRSAPair(t, "rsa")
	p.jwk.Alg = "PS256"
	v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: &jwt.KeySet{Keys: []jwt.JWK{p.jwk}}})
	require.NoError(t, err)
	require.NoError(t, v.Verify(t.Context(), p.token(t, gojwt.SigningMethodPS256, gojwt.MapClaims{}), nil))
	for _, method := range p.methods {
		if method.Alg() != "PS256" {
			requireInvalid(t, v.Verify(t.Context(), p.token(t, method, gojwt.MapClaims{}), nil), jwt.ErrAlgorithm)
		}
	}
	// A salt of another length than the hash is no PS256 (RFC 7518 3.5), whatever golang-jwt says.
	loose := &gojwt.SigningMethodRSAPSS{SigningMethodRSA: gojwt.SigningMethodPS256.SigningMethodRSA, Options: &rsa.PSSOptions{SaltLength: 10}}
	requireInvalid(t, v.Verify(t.Context(), p.token(t, loose, gojwt.MapClaims{}), nil), gojwt.ErrTokenSignatureInvalid)
}

func TestKeySetsOfOthers(t *testing.T) {
	rsaKey, ec := newRSAPair(t, "a").jwk, newECPair(t, "b", elliptic.P256(), nil).jwk
	text := func(change func(map[string]any), jwk jwt.JWK) string {
		doc, err := json.Marshal(jwk)
		require.NoError(t, err)
		var members map[string]any
		require.NoError(t, json.Unmarshal(doc, &members))
		change(members)
		doc, err = json.Marshal(map[string]any{"keys": []any{members}, "more": 1})
		require.NoError(t, err)
		return string(doc)
	}
	set := func(name string, value any) func(map[string]any) {
		return func(m map[string]any) { m[name] = value }
	}
	for _, doc := range []string{text(set("x5c", []string{"A"}), rsaKey), text(set("use", "sig"), ec), text(set("alg", "ES256"), ec),
		text(set("key_ops", []string{"verify"}), ec)} {
		got, err := jwt.ParseKeySet([]byte(doc))
		require.NoError(t, err, doc)
		require.Len(t, got.Keys, 1, doc)
	}
	ec.Use = "enc"
	_, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: &jwt.KeySet{Keys: []jwt.JWK{ec}}})
	require.ErrorIs(t, err, jwt.ErrNoUsableKey)
	require.ErrorContains(t, err, "not for signatures")
	_, err = jwt.NewVerifier(jwt.VerifierConfig{KeySet: &jwt.KeySet{}})
	require.ErrorIs(t, err, jwt.ErrNoUsableKey)
}
