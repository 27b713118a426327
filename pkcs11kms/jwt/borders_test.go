package jwt_test

import (
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// padded returns a JSON object of so many bytes with one member.
func padded(length int) string { return `{"x":"` + strings.Repeat("x", length-8) + `"}` }

// tokenOf makes a token of an exact length.
func (p pair) tokenOf(t *testing.T, length int) string {
	t.Helper()
	const signature = 86 // of ES256, in base64url
	for pad := range 4 {
		header := rawURL(fmt.Sprintf(`{"alg":"ES256","kid":%q,"x":%q}`, p.jwk.Kid, strings.Repeat("x", pad)))
		room := length - len(header) - signature - 2
		if room%4 == 1 { // of which base64url has none
			continue
		}
		input := header + "." + rawURL(padded(room*3/4))
		made, err := p.methods[0].Sign(input, p.private)
		require.NoError(t, err)
		token := input + "." + rawURL(string(made))
		require.Len(t, token, length)
		return token
	}
	panic("unreachable")
}

// TestLongestToken: a token of 64 KiB is examined, and one that is a byte longer is not. What a Signer makes is never longer.
func TestLongestToken(t *testing.T) {
	p := newECPair(t, "a", elliptic.P256(), gojwt.SigningMethodES256)
	v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: &jwt.KeySet{Keys: []jwt.JWK{p.jwk}}})
	require.NoError(t, err)
	require.NoError(t, v.Verify(t.Context(), p.tokenOf(t, 65536), nil))
	requireInvalid(t, v.Verify(t.Context(), p.tokenOf(t, 65537), nil), jwt.ErrTooLong)

	f := newFixture(t)
	key := f.newKey("ECC_NIST_P256")
	signed := map[int]bool{} // by the length of header and claims
	for pad := range 4 {
		signer, err := jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: key, Header: map[string]any{"x": strings.Repeat("x", pad)}})
		require.NoError(t, err)
		token, err := signer.Sign(t.Context(), map[string]any{})
		require.NoError(t, err)
		for _, length := range []int{64512, 64513} { // 64 KiB less 1 KiB for the signature
			room := length - strings.IndexByte(token, '.') - 1
			if room%4 == 1 {
				continue
			}
			_, err = signer.Sign(t.Context(), json.RawMessage(padded(room*3/4)))
			if length == 64512 {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, jwt.ErrTooLong)
			}
			signed[length] = true
		}
	}
	require.Len(t, signed, 2, "the border was met")
}

// TestLongestKeySet: a document of a MiB is read, and one that is a byte longer is not.
func TestLongestKeySet(t *testing.T) {
	doc := setOf(jwkWith(t, newECPair(t, "a", elliptic.P256(), nil).jwk, nil))
	doc = append(doc, strings.Repeat(" ", 1<<20-len(doc))...)
	_, err := jwt.ParseKeySet(doc)
	require.NoError(t, err)
	_, err = jwt.ParseKeySet(append(doc, ' '))
	require.ErrorContains(t, err, "longer than 1048576 bytes")
}

// TestTimesThatJSONCarries: seconds up to 2^53 are times, and more are none.
func TestTimesThatJSONCarries(t *testing.T) {
	p := newEdPair(t, "a")
	v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: &jwt.KeySet{Keys: []jwt.JWK{p.jwk}}})
	require.NoError(t, err)
	verify := func(exp string) error {
		return v.Verify(t.Context(), p.token(t, gojwt.SigningMethodEdDSA, gojwt.MapClaims{"exp": json.RawMessage(exp)}), nil)
	}
	require.NoError(t, verify("9007199254740992"))
	requireInvalid(t, verify("9007199254740994"), gojwt.ErrTokenMalformed)
}

// TestErrorsAreShort: of what somebody else has written, an error shows no more than the beginning.
func TestErrorsAreShort(t *testing.T) {
	long := strings.Repeat("a", 3000)
	ec := newECPair(t, "a", elliptic.P256(), nil).jwk
	for _, member := range []string{"kty", "use", "alg", "crv"} {
		_, err := jwt.ParseKeySet(setOf(jwkWith(t, ec, map[string]any{member: long})))
		require.ErrorIs(t, err, jwt.ErrNoUsableKey)
		require.ErrorContains(t, err, `"`+long[:40]+`..."`, member)
		require.Less(t, len(err.Error()), 300, member)
		_, err = jwt.ParseKeySet(setOf(jwkWith(t, ec, map[string]any{member: long[:40]})))
		require.ErrorContains(t, err, `"`+long[:40]+`"`, member)
	}
	set, err := jwt.ParseKeySet(setOf(`{"kid":"`+long+`"}`, `{"kid":"2026-01"}`, `{}`, jwkWith(t, ec, nil)))
	require.NoError(t, err)
	none := `: its kty "" is none of RSA, EC, OKP`
	for i, want := range []string{`key 1 ("` + long[:40] + `...")` + none, `key 2 ("2026-01")` + none, `key 3` + none} {
		require.Equal(t, want, set.Ignored[i].String())
	}
	v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set})
	require.NoError(t, err)
	err = v.Verify(t.Context(), rawURL(`{"alg":"`+long+`","kid":"a"}`)+"."+rawURL("{}")+".", nil)
	requireInvalid(t, err, jwt.ErrAlgorithm)
	require.Less(t, len(err.Error()), 300)
}

// TestPrivateKeysStayOut: every member that RFC 7518 section 6 has for private keys tells that a key is one.
func TestPrivateKeysStayOut(t *testing.T) {
	rsaKey := newRSAPair(t, "a").jwk
	for _, member := range []string{"d", "p", "q", "dp", "dq", "qi", "oth"} {
		_, err := jwt.ParseKeySet(setOf(jwkWith(t, rsaKey, map[string]any{member: "AAAA"})))
		require.ErrorContains(t, err, "it is a private key", member)
	}
}

// TestKeysPutTogetherByHand: a KeySet that no document was read into is held to the same.
func TestKeysPutTogetherByHand(t *testing.T) {
	es256 := gojwt.SigningMethodES256
	one, twin := newECPair(t, "one", elliptic.P256(), es256), newECPair(t, "one", elliptic.P256(), es256)
	good := newECPair(t, "good", elliptic.P256(), es256)
	odd := newECPair(t, "odd", elliptic.P256(), es256)
	odd.jwk.Alg = "ES384" // which is not that of its curve
	v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: &jwt.KeySet{Keys: []jwt.JWK{one.jwk, twin.jwk, odd.jwk, good.jwk}}})
	require.NoError(t, err)
	require.Len(t, v.Ignored(), 3)
	for i, kid := range []string{"one", "one", "odd"} {
		require.Equal(t, i+1, v.Ignored()[i].Position)
		require.Equal(t, kid, v.Ignored()[i].Kid)
	}
	require.NoError(t, v.Verify(t.Context(), good.token(t, es256, gojwt.MapClaims{}), nil))
	for _, p := range []pair{one, twin, odd} {
		requireInvalid(t, v.Verify(t.Context(), p.token(t, es256, gojwt.MapClaims{}), nil), jwt.ErrUnknownKey)
	}
}
