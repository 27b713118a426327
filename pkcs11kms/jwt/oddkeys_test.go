package jwt_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"

	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// jwkWith returns the text of a key with changed members; nil takes one away.
func jwkWith(t *testing.T, jwk jwt.JWK, changes map[string]any) string {
	t.Helper()
	doc, err := json.Marshal(jwk)
	require.NoError(t, err)
	var members map[string]any
	require.NoError(t, json.Unmarshal(doc, &members))
	for name, value := range changes {
		if members[name] = value; value == nil {
			delete(members, name)
		}
	}
	doc, err = json.Marshal(members)
	require.NoError(t, err)
	return string(doc)
}

func setOf(keys ...string) []byte { return []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`) }

// oddKeys are keys that cannot be used, each with a part of the reason.
func oddKeys(t *testing.T) map[string]string {
	rsaKey, ec, ed := newRSAPair(t, "odd").jwk, newECPair(t, "odd", elliptic.P256(), nil).jwk, newEdPair(t, "odd").jwk
	long, short := new(big.Int).SetBit(big.NewInt(1), 8191, 1), new(big.Int).SetBit(big.NewInt(1), 1023, 1)
	with := func(jwk jwt.JWK, name string, value any) string { return jwkWith(t, jwk, map[string]any{name: value}) }
	null := func(jwk jwt.JWK, name string) string {
		return strings.Replace(with(jwk, name, "none"), `"none"`, "null", 1)
	}
	return map[string]string{
		`{}`:                                    "kty",
		`{"kty":"oct","k":"AAAA"}`:              "kty",
		`"text"`:                                "cannot be read",
		`5`:                                     "cannot be read",
		`null`:                                  "cannot be read",
		`["text"]`:                              "cannot be read",
		`{"kty":"EC","kty":"RSA"}`:              "twice",
		`{"kty":"OKP","crv":"X25519","x":"AA"}`: "X25519",
		with(ed, "crv", "Ed448"):                "Ed448",
		with(ed, "crv", nil):                    "not Ed25519",
		with(ed, "x", ed.X+"="):                 "its x is no base64url",
		with(ed, "x", nil):                      "0 bytes",
		with(ed, "x", rawURL("x")):              "1 bytes",
		with(ed, "x", rawURL(strings.Repeat("\x00", 32))):        "small order",
		with(ed, "alg", "ES256"):                                 "ES256",
		with(ed, "alg", "Ed25519"):                               "Ed25519",
		with(ed, "d", "AAAA"):                                    "private",
		with(ed, "kty", "EC"):                                    "its crv",
		with(rsaKey, "kty", "rsa"):                               "kty",
		with(rsaKey, "use", "enc"):                               "not for signatures",
		with(rsaKey, "use", 5):                                   "use is no string",
		null(rsaKey, "use"):                                      "use is no string",
		null(rsaKey, "alg"):                                      "alg is no string",
		null(rsaKey, "n"):                                        "n is no string",
		null(ec, "kid"):                                          "kid is no string",
		null(ec, "crv"):                                          "crv is no string",
		null(ec, "kty"):                                          "kty is no string",
		with(rsaKey, "alg", "RSA-OAEP"):                          "RSA-OAEP",
		with(ec, "alg", "RS256"):                                 "RS256",
		with(ec, "alg", "ES384"):                                 "ES384",
		with(rsaKey, "alg", "HS256"):                             "HS256",
		with(rsaKey, "key_ops", []string{"encrypt"}):             "key_ops",
		with(rsaKey, "key_ops", []string{"sign"}):                "key_ops",
		with(rsaKey, "key_ops", []string{}):                      "key_ops",
		with(rsaKey, "key_ops", "verify"):                        "key_ops",
		with(rsaKey, "d", "AAAA"):                                "private",
		with(rsaKey, "p", "AAAA"):                                "private",
		with(rsaKey, "oth", []string{}):                          "private",
		with(ec, "d", "AAAA"):                                    "private",
		with(ec, "kid", 5):                                       "kid is no string",
		with(ec, "kid", ""):                                      "kid is empty",
		with(ec, "kid", []string{"good"}):                        "kid is no string",
		with(rsaKey, "n", rawURL(string(short.Bytes()))):         "2048",
		with(rsaKey, "n", rawURL(string(long.Bytes()))):          "2048",
		with(rsaKey, "n", rsaKey.N+"=="):                         "its n is no base64url",
		with(rsaKey, "n", ""):                                    "2048",
		with(rsaKey, "n", nil):                                   "2048",
		with(rsaKey, "e", "Aw"):                                  "65537",
		with(rsaKey, "e", ""):                                    "65537",
		with(rsaKey, "e", "AQAB=="):                              "its e is no base64url",
		with(ec, "crv", "P-384"):                                 "no coordinate",
		with(ec, "crv", "secp256k1"):                             "secp256k1",
		with(ec, "x", ec.Y):                                      "point",
		with(ec, "x", rawURL("x")):                               "its x is no coordinate",
		with(ec, "x", ec.X[:len(ec.X)-2]):                        "its x is no coordinate",
		with(ec, "y", rawURL("\x00"+fromRaw(t, ec.Y))):           "its y is no coordinate",
		with(ec, "y", ec.Y[:4]+"\n"+ec.Y[4:]):                    "its y is no coordinate",
		with(ec, "y", ""):                                        "its y is no coordinate",
		strings.Replace(with(ec, "kid", "x"), `"x":`, `"X":`, 1): "its x is no coordinate",
	}
}

func fromRaw(t *testing.T, text string) string {
	t.Helper()
	p, err := jwt.DecodeSegment(text)
	require.NoError(t, err)
	return string(p)
}

// TestOddKeysDoNotDisturbTheOthers: RFC 7517 section 5. Such a key is counted and the reason told, and the good one serves; a
// set that has no other is an error.
func TestOddKeysDoNotDisturbTheOthers(t *testing.T) {
	good := newECPair(t, "good", elliptic.P256(), gojwt.SigningMethodES256)
	token := good.token(t, gojwt.SigningMethodES256, gojwt.MapClaims{"sub": "alice"})
	goodKey := jwkWith(t, good.jwk, nil)
	var all []string
	for odd, reason := range oddKeys(t) {
		all = append(all, odd)
		for position, doc := range map[int][]byte{1: setOf(odd, goodKey), 2: setOf(goodKey, odd)} {
			set, err := jwt.ParseKeySet(doc)
			require.NoError(t, err, odd)
			require.Equal(t, []jwt.JWK{good.jwk}, set.Keys, odd)
			require.Len(t, set.Ignored, 1, odd)
			require.Equal(t, position, set.Ignored[0].Position)
			require.ErrorContains(t, set.Ignored[0].Reason, reason, odd)
			require.True(t, strings.HasPrefix(set.Ignored[0].String(), fmt.Sprintf("key %d", position)))
			v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set})
			require.NoError(t, err)
			require.Equal(t, set.Ignored, v.Ignored())
			require.NoError(t, v.Verify(t.Context(), token, nil))
		}
		_, err := jwt.ParseKeySet(setOf(odd))
		require.ErrorIs(t, err, jwt.ErrNoUsableKey, odd)
		require.ErrorContains(t, err, reason, odd)
	}
	set, err := jwt.ParseKeySet(setOf(append(all, goodKey)...))
	require.NoError(t, err)
	require.Len(t, set.Ignored, len(all))
	for i, key := range set.Ignored {
		require.Equal(t, i+1, key.Position)
	}
	_, err = jwt.ParseKeySet(setOf(all...))
	require.ErrorIs(t, err, jwt.ErrNoUsableKey)
	require.ErrorContains(t, err, fmt.Sprintf("and so on with %d more", len(all)-5))
}

// TestDocumentsThatAreNoKeySet: there is nothing in them that could serve.
func TestDocumentsThatAreNoKeySet(t *testing.T) {
	ec := jwkWith(t, newECPair(t, "a", elliptic.P256(), nil).jwk, nil)
	for name, doc := range map[string]string{
		"no JSON":      `{`,
		"no object":    `[]`,
		"null":         `null`,
		"no list":      `{}`,
		"list is null": `{"keys":null}`,
		"another case": `{"Keys":[` + ec + `]}`,
		"an object":    `{"keys":` + ec + `}`,
		"two lists":    `{"keys":[` + ec + `],"keys":[` + ec + `]}`,
		"no UTF-8":     "{\"keys\":[" + ec + "],\"a\":\"\xff\"}",
		"junk behind":  `{"keys":[` + ec + `]}{}`,
		"long":         `{"keys":[` + ec + `],"a":"` + strings.Repeat("a", 1<<20) + `"}`,
		"many":         `{"keys":[` + strings.Repeat("{},", 1000) + ec + `]}`,
	} {
		_, err := jwt.ParseKeySet([]byte(doc))
		require.ErrorContains(t, err, "reading a key set: ", name)
		require.NotErrorIs(t, err, jwt.ErrNoUsableKey, name)
	}
	_, err := jwt.ParseKeySet([]byte(`{"keys":[]}`))
	require.ErrorIs(t, err, jwt.ErrNoUsableKey)
	set, err := jwt.ParseKeySet([]byte(`{"keys":[` + strings.Repeat("{},", 999) + ec + `]}`))
	require.NoError(t, err)
	require.Len(t, set.Ignored, 999)
}

// TestKeysOfOneKid: a key that stands there twice serves once; keys that only the alg tells apart serve each for its own; where
// that does not tell which key is meant, neither serves.
func TestKeysOfOneKid(t *testing.T) {
	ec, rsaKey := newECPair(t, "one", elliptic.P256(), gojwt.SigningMethodES256), newRSAPair(t, "one")
	other := newECPair(t, "one", elliptic.P256(), gojwt.SigningMethodES256)
	third := newECPair(t, "three", elliptic.P384(), gojwt.SigningMethodES384)
	verifier := func(jwks ...jwt.JWK) (*jwt.Verifier, []jwt.IgnoredKey) {
		t.Helper()
		var keys []string
		for _, jwk := range jwks {
			keys = append(keys, jwkWith(t, jwk, nil))
		}
		set, err := jwt.ParseKeySet(setOf(keys...))
		require.NoError(t, err)
		v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set})
		require.NoError(t, err)
		return v, v.Ignored()
	}
	es256 := ec.token(t, gojwt.SigningMethodES256, gojwt.MapClaims{})
	rs256, ps256 := rsaKey.token(t, gojwt.SigningMethodRS256, gojwt.MapClaims{}), rsaKey.token(t, gojwt.SigningMethodPS256, gojwt.MapClaims{})

	v, ignored := verifier(ec.jwk, ec.jwk)
	require.Len(t, ignored, 1)
	require.Equal(t, 2, ignored[0].Position)
	require.NoError(t, v.Verify(t.Context(), es256, nil))

	for _, order := range [][]jwt.JWK{{ec.jwk, rsaKey.jwk}, {rsaKey.jwk, ec.jwk}} {
		v, ignored = verifier(order...)
		require.Empty(t, ignored)
		for _, token := range []string{es256, rs256, ps256} {
			require.NoError(t, v.Verify(t.Context(), token, nil))
		}
		requireInvalid(t, v.Verify(t.Context(), third.token(t, gojwt.SigningMethodES384, gojwt.MapClaims{}), nil), jwt.ErrUnknownKey)
		wrong := newECPair(t, "one", elliptic.P384(), gojwt.SigningMethodES384)
		requireInvalid(t, v.Verify(t.Context(), wrong.token(t, gojwt.SigningMethodES384, gojwt.MapClaims{}), nil), jwt.ErrAlgorithm)
	}

	forRS, forPS := rsaKey.jwk, rsaKey.jwk
	forRS.Alg, forPS.Alg = "RS256", "PS256"
	v, ignored = verifier(forRS, forPS)
	require.Empty(t, ignored)
	require.NoError(t, v.Verify(t.Context(), rs256, nil))
	require.NoError(t, v.Verify(t.Context(), ps256, nil))
	requireInvalid(t, v.Verify(t.Context(), rsaKey.token(t, gojwt.SigningMethodRS384, gojwt.MapClaims{}), nil), jwt.ErrAlgorithm)

	for _, order := range [][]jwt.JWK{{ec.jwk, other.jwk, third.jwk}, {third.jwk, other.jwk, ec.jwk, other.jwk}} {
		v, ignored = verifier(order...)
		require.Len(t, ignored, len(order)-1)
		for _, p := range []pair{ec, other} {
			requireInvalid(t, v.Verify(t.Context(), p.token(t, gojwt.SigningMethodES256, gojwt.MapClaims{}), nil), jwt.ErrUnknownKey)
		}
		require.NoError(t, v.Verify(t.Context(), third.token(t, gojwt.SigningMethodES384, gojwt.MapClaims{}), nil))
	}
	_, err := jwt.ParseKeySet(setOf(jwkWith(t, ec.jwk, nil), jwkWith(t, other.jwk, nil)))
	require.ErrorIs(t, err, jwt.ErrNoUsableKey)
}

// withoutKid signs a token whose header has no kid.
func (p pair) withoutKid(t *testing.T, method gojwt.SigningMethod) string {
	t.Helper()
	text, err := gojwt.NewWithClaims(method, gojwt.MapClaims{}).SignedString(p.private)
	require.NoError(t, err)
	return text
}

// TestMissingKid: a token without a kid, and a key without one, count only where the caller says so; then the token must leave
// no choice. A kid that is there is never passed over, however few keys there are.
func TestMissingKid(t *testing.T) {
	named := newECPair(t, "2026-01", elliptic.P256(), gojwt.SigningMethodES256)
	nameless := newECPair(t, "", elliptic.P256(), gojwt.SigningMethodES256)
	rsaKey := newRSAPair(t, "rsa")
	es256, rs256 := gojwt.SigningMethodES256, gojwt.SigningMethodRS256
	verify := func(allow bool, token string, jwks ...jwt.JWK) error {
		t.Helper()
		v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: &jwt.KeySet{Keys: jwks}, AllowMissingKid: allow})
		require.NoError(t, err)
		return v.Verify(t.Context(), token, nil)
	}
	// One key, and tokens that it signed.
	stranger := named
	stranger.jwk.Kid = "another"
	requireInvalid(t, verify(false, stranger.token(t, es256, gojwt.MapClaims{}), named.jwk), jwt.ErrUnknownKey)
	requireInvalid(t, verify(true, stranger.token(t, es256, gojwt.MapClaims{}), named.jwk), jwt.ErrUnknownKey)
	requireInvalid(t, verify(true, stranger.token(t, es256, gojwt.MapClaims{}), nameless.jwk, named.jwk), jwt.ErrUnknownKey)
	requireInvalid(t, verify(false, named.withoutKid(t, es256), named.jwk), jwt.ErrUnknownKey)
	require.NoError(t, verify(true, named.withoutKid(t, es256), named.jwk))
	require.NoError(t, verify(true, named.token(t, es256, gojwt.MapClaims{}), named.jwk))
	empty := nameless.token(t, es256, gojwt.MapClaims{}) // its kid is there, and empty
	requireInvalid(t, verify(true, empty, nameless.jwk), jwt.ErrUnknownKey)
	require.NoError(t, verify(true, nameless.withoutKid(t, es256), nameless.jwk))

	// More than one.
	require.NoError(t, verify(true, named.withoutKid(t, es256), rsaKey.jwk, named.jwk), "which the alg tells apart")
	require.NoError(t, verify(true, rsaKey.withoutKid(t, rs256), rsaKey.jwk, named.jwk))
	require.NoError(t, verify(true, named.withoutKid(t, es256), named.jwk, stranger.jwk), "one key under two names")
	for _, p := range []pair{named, nameless} {
		requireInvalid(t, verify(true, p.withoutKid(t, es256), named.jwk, nameless.jwk), jwt.ErrUnknownKey)
		requireInvalid(t, verify(true, p.withoutKid(t, es256), rsaKey.jwk), jwt.ErrUnknownKey)
	}
	requireInvalid(t, verify(true, nameless.withoutKid(t, es256), named.jwk), gojwt.ErrTokenSignatureInvalid)
	second := newECPair(t, "", elliptic.P256(), es256)
	for _, p := range []pair{nameless, second} { // which have no name in common that one of them would have to give up
		requireInvalid(t, verify(true, p.withoutKid(t, es256), nameless.jwk, second.jwk), jwt.ErrUnknownKey)
		require.NoError(t, verify(true, named.token(t, es256, gojwt.MapClaims{}), nameless.jwk, second.jwk, named.jwk))
	}

	// Keys without a kid are counted where they do not serve.
	set, err := jwt.ParseKeySet(setOf(`{}`, jwkWith(t, nameless.jwk, nil), `{}`, jwkWith(t, named.jwk, nil), `{}`))
	require.NoError(t, err)
	require.Len(t, set.Keys, 2)
	for allow, positions := range map[bool][]int{false: {1, 2, 3, 5}, true: {1, 3, 5}} {
		v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set, AllowMissingKid: allow})
		require.NoError(t, err)
		var got []int
		for _, key := range v.Ignored() {
			got = append(got, key.Position)
		}
		require.Equal(t, positions, got)
		require.NoError(t, v.Verify(t.Context(), named.token(t, es256, gojwt.MapClaims{}), nil))
	}
	set, err = jwt.ParseKeySet(setOf(`{}`, jwkWith(t, named.jwk, nil), `{}`, jwkWith(t, nameless.jwk, nil)))
	require.NoError(t, err)
	v, err := jwt.NewVerifier(jwt.VerifierConfig{KeySet: set})
	require.NoError(t, err)
	require.Len(t, v.Ignored(), 3)
	require.Equal(t, 4, v.Ignored()[2].Position, "in the document, not among the keys that were read")
	_, err = jwt.NewVerifier(jwt.VerifierConfig{KeySet: &jwt.KeySet{Keys: []jwt.JWK{nameless.jwk}}})
	require.ErrorIs(t, err, jwt.ErrNoUsableKey)
	_, err = jwt.NewVerifier(jwt.VerifierConfig{Client: &flaky{}, KeyIDs: []string{"a"}, AllowMissingKid: true})
	require.ErrorContains(t, err, "AllowMissingKid")
	require.False(t, bytes.Contains(setOf(jwkWith(t, nameless.jwk, nil)), []byte("kid")))
}
