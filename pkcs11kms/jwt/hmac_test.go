package jwt_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// rawURL is base64url without padding.
func rawURL(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// headerOf decodes a token's header.
func headerOf(t *testing.T, token string) map[string]any {
	t.Helper()
	part, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.Strict().DecodeString(part)
	require.NoError(t, err)
	var header map[string]any
	require.NoError(t, json.Unmarshal(text, &header))
	return header
}

// TestHMAC: what Sign makes is what GenerateMac says of the signing input, verifies, and is nothing else's.
func TestHMAC(t *testing.T) {
	f := newFixture(t)
	for spec, method := range map[types.KeySpec]*jwt.Method{"HMAC_256": jwt.HS256, "HMAC_384": jwt.HS384, "HMAC_512": jwt.HS512} {
		key := f.newKey(spec)
		token := f.sign(key, map[string]any{"sub": "<alice> & bob"})
		require.Equal(t, map[string]any{"alg": method.Alg(), "kid": key, "typ": "JWT"}, headerOf(t, token))
		at := strings.LastIndex(token, ".")
		mac, err := base64.RawURLEncoding.Strict().DecodeString(token[at+1:])
		require.NoError(t, err)
		made, err := f.remote.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: &key, Message: []byte(token[:at]),
			MacAlgorithm: types.MacAlgorithmSpec("HMAC_SHA_" + string(spec[5:]))})
		require.NoError(t, err)
		require.True(t, hmac.Equal(made.Mac, mac))

		for name, client := range f.clients() {
			again, err := jwt.Sign(t.Context(), client, key, map[string]any{"sub": "<alice> & bob"})
			require.NoError(t, err)
			require.True(t, hmac.Equal([]byte(token), []byte(again)), name)
			var claims map[string]string
			require.NoError(t, f.verifier(jwt.VerifierConfig{Client: client}, key).Verify(t.Context(), token, &claims))
			require.Equal(t, map[string]string{"sub": "<alice> & bob"}, claims)
		}
		requireInvalid(t, f.verifier(jwt.VerifierConfig{}, f.newKey(spec)).Verify(t.Context(), token, nil), jwt.ErrUnknownKey)
	}
	_, err := jwt.Sign(t.Context(), f.remote, f.newKey("HMAC_224"), map[string]any{})
	require.ErrorIs(t, err, jwt.ErrAlgorithm)
}

// TestTampered changes each character of a token to another of the alphabet.
func TestTampered(t *testing.T) {
	f := newFixture(t)
	key := f.newKey("HMAC_256")
	token := f.sign(key, map[string]any{"admin": false})
	v := f.verifier(jwt.VerifierConfig{}, key)
	require.NoError(t, v.Verify(t.Context(), token, nil))
	for i := range token {
		other := byte('A')
		if token[i] == 'A' {
			other = 'B'
		}
		changed := token[:i] + string(other) + token[i+1:]
		require.ErrorIs(t, v.Verify(t.Context(), changed, nil), jwt.ErrInvalidToken, "character %d", i)
	}
	parts := strings.Split(token, ".")
	for _, changed := range []string{
		parts[0] + "." + rawURL(`{"admin":true}`) + "." + parts[2], parts[0] + "." + parts[1] + ".", token + "AA",
		parts[0] + "." + parts[1] + "." + parts[2][:20],
	} {
		require.ErrorIs(t, v.Verify(t.Context(), changed, nil), jwt.ErrInvalidToken)
	}
}

// forge makes a token of any header and payload with the MAC of a secret, or of nothing.
func forge(header, payload string, secret []byte) string {
	input := rawURL(header) + "." + rawURL(payload)
	if secret == nil {
		return input + "."
	}
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// resign gives header and payload a MAC that is valid for the key.
func (f *fixture) resign(key, header, payload string) string {
	f.t.Helper()
	input := rawURL(header) + "." + rawURL(payload)
	out, err := f.remote.GenerateMac(f.t.Context(), &kms.GenerateMacInput{KeyId: &key, MacAlgorithm: "HMAC_SHA_256", Message: []byte(input)})
	require.NoError(f.t, err)
	return input + "." + base64.RawURLEncoding.EncodeToString(out.Mac)
}

// TestRefusedForms: each of these has a MAC that is right, and is refused for its form.
func TestRefusedForms(t *testing.T) {
	f := newFixture(t)
	key, other := f.newKey("HMAC_256"), f.newKey("HMAC_256")
	f.point("alias/tokens", key)
	v := f.verifier(jwt.VerifierConfig{}, "alias/tokens")
	good := f.resign(key, `{"alg":"HS256","kid":"`+key+`"}`, `{}`)
	require.NoError(t, v.Verify(t.Context(), good, nil))

	id := `"kid":"` + key + `"`
	for header, reason := range map[string]error{
		`{"alg":"HS256"}`:                                         jwt.ErrUnknownKey,
		`{"alg":"HS256","kid":""}`:                                jwt.ErrUnknownKey,
		`{"alg":"HS256","kid":"alias/tokens"}`:                    jwt.ErrUnknownKey,
		`{"alg":"HS256","KID":"` + key + `"}`:                     jwt.ErrUnknownKey,
		`{"alg":"HS256","kid":"` + other + `"}`:                   jwt.ErrUnknownKey, // a key of this KMS, but not of this verifier
		`{"alg":"HS256","kid":"` + arnOf(t, f.remote, key) + `"}`: jwt.ErrUnknownKey,
		`{"alg":"HS256","kid":null}`:                              gojwt.ErrTokenMalformed,
		`{"alg":"HS256","kid":["` + key + `"]}`:                   gojwt.ErrTokenMalformed,
		`{"alg":["HS256"],` + id + `}`:                            gojwt.ErrTokenMalformed,
		`{"alg":"HS256","alg":"HS256",` + id + `}`:                gojwt.ErrTokenMalformed,
		`{"alg":"HS256","kid":"x",` + id + `}`:                    gojwt.ErrTokenMalformed,
		`{"alg":"HS256",` + id + `}{}`:                            gojwt.ErrTokenMalformed,
		`["HS256"]`:                                               gojwt.ErrTokenMalformed,
		`{"alg":"HS256",` + id + `,"x":"\ud83d"}`:                 gojwt.ErrTokenMalformed,
		"{\"alg\":\"HS256\"," + id + ",\"x\":\"\xff\"}":           gojwt.ErrTokenMalformed,
		`{"alg":"HS256",` + id + `,"crit":["exp"]}`:               gojwt.ErrTokenUnverifiable,
		`{"alg":"HS256",` + id + `,"crit":null}`:                  gojwt.ErrTokenUnverifiable,
		`{"alg":"HS256",` + id + `,"b64":true}`:                   gojwt.ErrTokenUnverifiable,
		`{` + id + `}`:                                            jwt.ErrAlgorithm,
		`{"alg":"",` + id + `}`:                                   jwt.ErrAlgorithm,
		`{"alg":"hs256",` + id + `}`:                              jwt.ErrAlgorithm,
		`{"alg":"none",` + id + `}`:                               jwt.ErrAlgorithm,
		`{"alg":"nOnE",` + id + `}`:                               jwt.ErrAlgorithm,
		`{"alg":"HS512",` + id + `}`:                              jwt.ErrAlgorithm,
		`{"alg":"RS256",` + id + `}`:                              jwt.ErrAlgorithm,
		`{"ALG":"HS256",` + id + `}`:                              jwt.ErrAlgorithm,
	} {
		requireInvalid(t, v.Verify(t.Context(), f.resign(key, header, `{}`), nil), reason)
		requireInvalid(t, v.Verify(t.Context(), f.resign(other, header, `{}`), nil), reason)
		assert.ErrorIs(t, v.Verify(t.Context(), forge(header, `{}`, nil), nil), jwt.ErrInvalidToken)
	}
	header := `{"alg":"HS256",` + id + `}`
	for _, payload := range []string{``, `[]`, `null`, `{"a":1,"a":1}`, `{"a":{"b":1,"b":1}}`, `{} x`, "{\"a\":\"\xff\"}",
		`{"sub":"\ud800"}`, `{"a":["\udc00\ud800"]}`, `{"\ud83d":1}`,
		`{"exp":0}`, `{"exp":null}`, `{"exp":"9999999999"}`, `{"exp":1e400}`, `{"exp":-1}`, `{"exp":1e300}`, `{"nbf":"0"}`, `{"nbf":null}`,
		`{"iat":{}}`, `{"sub":"alice","SUB":"mallory"}`, `{"sub":"alice","\u017fub":"mallory"}`, `{"EXP":9999999999,"exp":1}`} {
		requireInvalid(t, v.Verify(t.Context(), f.resign(key, header, payload), nil), gojwt.ErrTokenMalformed)
	}
	parts := strings.Split(good, ".")
	last := parts[2][len(parts[2])-1]
	require.NoError(t, v.Verify(t.Context(), f.resign(key, header, `{"apps":{"App":1,"app":2}}`), nil), "what is deeper is the application's")
	for name, token := range map[string]string{
		"nothing": "", "two parts": parts[0] + "." + parts[1], "four parts": good + ".", "padding": good + "=", "line end": good + "\n",
		"carriage return": good + "\r", "line end inside": parts[0] + ".\n" + parts[1] + "." + parts[2],
		"blank": " " + good, "base64": good[:len(good)-1] + "+",
		"unused bits": good[:len(good)-1] + string(last+1), "long": good + strings.Repeat("A", jwt.MaxTokenBytes),
	} {
		assert.ErrorIs(t, v.Verify(t.Context(), token, nil), jwt.ErrInvalidToken, name)
	}
}

// TestErrorsTellNothing: a token, its claims and its MAC never stand in an error.
func TestErrorsTellNothing(t *testing.T) {
	f := newFixture(t)
	key := f.newKey("HMAC_256")
	v := f.verifier(jwt.VerifierConfig{Claims: []gojwt.ParserOption{gojwt.WithAudience("x"), gojwt.WithIssuer("y")}}, key)
	secret := "5ec12e7"
	header := `{"alg":"HS256","kid":"` + key + `"}`
	for _, payload := range []string{`{"aud":"5ec12e7","iss":"5ec12e7","sub":5}`, `{"aud":"5ec12e7","aud":1}`, `{"exp":"5ec12e7"}`,
		`{"aud":"x","iss":"y","sub":"5ec12e7"}`} {
		err := v.Verify(t.Context(), f.resign(key, header, payload), &struct {
			Sub int `json:"sub"`
		}{})
		require.ErrorIs(t, err, jwt.ErrInvalidToken)
		require.NotContains(t, err.Error(), secret)
		require.NotContains(t, err.Error(), rawURL(payload))
		err = v.Verify(t.Context(), f.resign(key, header, payload), &struct {
			Sub time.Time `json:"sub"`
		}{})
		require.ErrorIs(t, err, jwt.ErrInvalidToken)
		require.NotContains(t, err.Error(), secret)
	}
}

// TestLongTokens: 4,096 bytes of header and claims are what GenerateMac takes.
func TestLongTokens(t *testing.T) {
	f := newFixture(t)
	key := f.newKey("HMAC_256")
	token := f.sign(key, map[string]any{"x": ""})
	room := 4096*3/4 - (strings.LastIndex(token, ".")+1)*3/4 // about
	fits := f.sign(key, map[string]any{"x": strings.Repeat("x", room)})
	require.Greater(t, strings.LastIndex(fits, "."), 4090)
	require.NoError(t, f.verifier(jwt.VerifierConfig{}, key).Verify(t.Context(), fits, nil))
	_, err := jwt.Sign(t.Context(), f.remote, key, map[string]any{"x": strings.Repeat("x", room+8)})
	require.ErrorIs(t, err, jwt.ErrTooLong)
	require.ErrorContains(t, err, "at most 4096")
	long := rawURL(`{"alg":"HS256","kid":"`+key+`"}`) + "." +
		rawURL(`{"x":"`+strings.Repeat("x", 4096)+`"}`) + "." + rawURL(strings.Repeat("x", 32))
	requireInvalid(t, f.verifier(jwt.VerifierConfig{}, key).Verify(t.Context(), long, nil), jwt.ErrTooLong)
}

type appClaims struct {
	gojwt.RegisteredClaims
	Scope string `json:"scope"`
}

func (c *appClaims) Validate() error {
	if c.Scope != "read" {
		return gojwt.ErrTokenInvalidId // any error will do
	}
	return nil
}

func TestClaims(t *testing.T) {
	f, c := newFixture(t), newClock()
	key := f.newKey("HMAC_256")
	v := f.verifier(jwt.VerifierConfig{Now: c.Now, MaxAge: time.Hour * 1000}, key)
	strict := f.verifier(jwt.VerifierConfig{Now: c.Now, Claims: []gojwt.ParserOption{gojwt.WithExpirationRequired(), gojwt.WithIssuedAt(),
		gojwt.WithAudience("api"), gojwt.WithIssuer("us")}}, key)
	token := f.sign(key, appClaims{Scope: "read", RegisteredClaims: gojwt.RegisteredClaims{Issuer: "us", Audience: []string{"api"},
		IssuedAt: gojwt.NewNumericDate(c.Now()), ExpiresAt: gojwt.NewNumericDate(c.Now().Add(time.Hour))}})
	var claims appClaims
	require.NoError(t, v.Verify(t.Context(), token, &claims))
	require.Equal(t, "us", claims.Issuer)
	require.NoError(t, strict.Verify(t.Context(), token, nil))
	c.pass(-time.Second)
	requireInvalid(t, strict.Verify(t.Context(), token, nil), gojwt.ErrTokenUsedBeforeIssued)
	c.pass(time.Hour)
	require.NoError(t, v.Verify(t.Context(), token, nil))
	c.pass(time.Second)
	claims = appClaims{}
	requireInvalid(t, v.Verify(t.Context(), token, &claims), gojwt.ErrTokenExpired)
	require.Zero(t, claims, "written for a token that has expired")

	later := f.sign(key, map[string]any{"nbf": c.in(time.Minute), "scope": "write"})
	requireInvalid(t, v.Verify(t.Context(), later, nil), gojwt.ErrTokenNotValidYet)
	c.pass(time.Minute)
	require.NoError(t, v.Verify(t.Context(), later, nil))
	requireInvalid(t, v.Verify(t.Context(), later, &claims), gojwt.ErrTokenInvalidId)
	requireInvalid(t, strict.Verify(t.Context(), later, nil), gojwt.ErrTokenRequiredClaimMissing)

	// Numbers keep their digits.
	exact := json.RawMessage(`{"n":12345678901234567890,"d":0.10}`)
	var all map[string]any
	var raw json.RawMessage
	token = f.sign(key, exact)
	require.NoError(t, v.Verify(t.Context(), token, &all))
	require.Equal(t, map[string]any{"n": json.Number("12345678901234567890"), "d": json.Number("0.10")}, all)
	require.NoError(t, v.Verify(t.Context(), token, &raw))
	require.Equal(t, string(exact), string(raw))

	for _, bad := range []any{nil, 5, []string{"a"}, json.RawMessage(`{"a":1,"a":2}`), map[string]any{"exp": "soon"},
		map[string]any{"exp": nil}, make(chan int), map[string]any{"sub": "a", "Sub": "b"}} {
		_, err := jwt.Sign(t.Context(), f.remote, key, bad)
		require.ErrorIs(t, err, jwt.ErrClaims, "%v", bad)
	}
}

func TestLifetime(t *testing.T) {
	f, c := newFixture(t), newClock()
	key := f.newKey("HMAC_256")
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: key, Lifetime: time.Hour, Now: c.Now})
	require.NoError(t, err)
	v := f.verifier(jwt.VerifierConfig{Now: c.Now, MaxAge: 2 * time.Hour}, key)
	signed := func(claims string) (token, payload string) {
		token, err := signer.Sign(t.Context(), json.RawMessage(claims))
		require.NoError(t, err)
		var raw json.RawMessage
		require.NoError(t, v.Verify(t.Context(), token, &raw))
		return token, string(raw)
	}
	_, payload := signed(`{"n":1.0,"iat":5}`)
	require.Equal(t, `{"exp":1767229200,"iat":5,"n":1.0}`, payload)
	token, payload := signed(`{}`)
	require.Equal(t, `{"exp":1767229200,"iat":1767225600}`, payload)
	c.pass(time.Hour)
	requireInvalid(t, v.Verify(t.Context(), token, nil), gojwt.ErrTokenExpired)
	for _, claims := range []string{`{"exp":1767229200}`, `{"Exp":1767229200}`} {
		_, err = signer.Sign(t.Context(), json.RawMessage(claims))
		require.ErrorIs(t, err, jwt.ErrClaims)
	}
	for _, bad := range []time.Duration{-time.Second, time.Second + 1} {
		_, err = jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: key, Lifetime: bad})
		require.ErrorContains(t, err, "Lifetime is a number of seconds")
	}
}
