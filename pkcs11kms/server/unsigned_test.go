package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// newIssuer makes a provider and a role that trusts it, and returns what makes its tokens.
func newIssuer(t *testing.T, f *fixture) (token func() string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	point, err := key.PublicKey.Bytes()
	require.NoError(t, err)
	b64 := base64.RawURLEncoding.EncodeToString
	jwks, err := json.Marshal(jwt.KeySet{Keys: []jwt.JWK{{Kty: "EC", Kid: "k", Crv: "P-256", X: b64(point[1:33]), Y: b64(point[33:])}}})
	require.NoError(t, err)
	admin := f.bridge.IAM().As(f.bridge.Root())
	_, err = admin.CreateOpenIDConnectProvider(t.Context(), "https://oidc.example.org/a",
		iam.ProviderOptions{ClientIDs: []string{"kms"}, Keys: string(jwks)})
	require.NoError(t, err)
	_, err = admin.CreatePrincipal(t.Context(), role("Pod"), iam.PrincipalOptions{TrustPolicy: `{"Version": "2012-10-17", "Statement":
		{"Effect": "Allow", "Principal": {"Federated": "arn:aws:iam::` + testAccount + `:oidc-provider/oidc.example.org/a"},
		"Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"oidc.example.org/a:sub": "pod"}}}}`})
	require.NoError(t, err)
	return func() string {
		now := time.Now().Unix()
		token := gojwt.NewWithClaims(gojwt.SigningMethodES256, gojwt.MapClaims{"iss": "https://oidc.example.org/a", "sub": "pod", "aud": "kms",
			"iat": now, "exp": now + 600})
		token.Header["kid"] = "k"
		text, err := token.SignedString(key)
		require.NoError(t, err)
		return text
	}
}

// unsignedForm is a request of the query protocol without a signature.
func unsignedForm(t *testing.T, address string, parameters ...string) *http.Request {
	t.Helper()
	values := url.Values{}
	for i := 0; i < len(parameters); i += 2 {
		values.Set(parameters[i], parameters[i+1])
	}
	r, err := http.NewRequest(http.MethodPost, address, strings.NewReader(values.Encode()))
	require.NoError(t, err)
	r.Header.Set("Content-Type", formType+"; charset=utf-8")
	return r
}

func askPod(t *testing.T, address, token string, more ...string) *http.Request {
	return unsignedForm(t, address, append([]string{"Action", webIdentity, "Version", "2011-06-15", "RoleSessionName", "job",
		"RoleArn", "arn:aws:iam::" + testAccount + ":role/Pod", "WebIdentityToken", token}, more...)...)
}

// A token takes the place of a signature, for one operation; the session is one like all others.
func TestWebIdentityOverTheWire(t *testing.T) {
	f, r := newQueryFixture(t)
	token := newIssuer(t, f)
	text := token()
	got := f.send(t, askPod(t, r.url, text))
	require.Equal(t, http.StatusOK, got.StatusCode, got.body)
	require.Regexp(t, `^<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">`+
		`<AssumeRoleWithWebIdentityResult>`+
		`<Credentials><AccessKeyId>ASIA[A-Z2-7]{16}</AccessKeyId><SecretAccessKey>[^<]{40}</SecretAccessKey><SessionToken>[^<]+</SessionToken>`+
		`<Expiration>20[0-9-]+T[0-9:]+Z</Expiration></Credentials><SubjectFromWebIdentityToken>pod</SubjectFromWebIdentityToken>`+
		`<AssumedRoleUser><AssumedRoleId>AROA[A-Z2-7]{17}:job</AssumedRoleId><Arn>arn:aws:sts::111122223333:assumed-role/Pod/job</Arn>`+
		`</AssumedRoleUser><Provider>https://oidc.example.org/a</Provider><Audience>kms</Audience></AssumeRoleWithWebIdentityResult>`+
		`<ResponseMetadata><RequestId>[0-9a-f-]{36}</RequestId></ResponseMetadata></AssumeRoleWithWebIdentityResponse>$`, got.body)
	session := signing{id: element(t, got.body, "AccessKeyId"), secret: element(t, got.body, "SecretAccessKey"),
		token: element(t, got.body, "SessionToken"), service: "sts"}
	who := f.send(t, f.form(t, r.url, session, "Action", "GetCallerIdentity", "Version", "2011-06-15"))
	require.Equal(t, "arn:aws:sts::111122223333:assumed-role/Pod/job", element(t, who.body, "Arn"))

	for name, test := range map[string]struct {
		request      *http.Request
		status       int
		code, answer string
	}{
		"no token": {askPod(t, r.url, "x.y.z"), 400, "InvalidIdentityToken", "is not a valid JWT"},
		"another role": {askPod(t, r.url, text, "RoleArn", "arn:aws:iam::111122223333:role/None"), 403, "AccessDenied",
			"Not authorized to perform sts:AssumeRoleWithWebIdentity"},
		"OAuth":   {askPod(t, r.url, text, "ProviderId", "www.amazon.com"), 400, "ValidationError", "ProviderId is not supported"},
		"nothing": {unsignedForm(t, r.url, "Action", webIdentity), 400, "ValidationError", "Value null at &#39;roleArn&#39;"},
		"no number": {askPod(t, r.url, text, "DurationSeconds", "x"), 400, "MalformedInput",
			""},
		"another operation":    {unsignedForm(t, r.url, "Action", "GetCallerIdentity", "Version", "2011-06-15"), 400, "InvalidAction", ""},
		"AssumeRole":           {askPod(t, r.url, text, "Action", "AssumeRole"), 400, "InvalidAction", ""},
		"a body of its length": {askPod(t, r.url, strings.Repeat("x", maxUnsigned)), 400, "RequestEntityTooLarge", "65536 bytes"},
	} {
		got := f.send(t, test.request)
		require.Equal(t, test.status, got.StatusCode, "%s: %s", name, got.body)
		require.Equal(t, test.code, element(t, got.body, "Code"), name)
		require.Contains(t, got.body, test.answer, name)
	}
	log := f.log.String()
	for _, part := range append(strings.Split(text, ".")[1:], session.secret, session.token) {
		require.NotContains(t, log, part)
	}
	chunked := askPod(t, r.url, strings.Repeat("x", maxUnsigned))
	chunked.ContentLength = -1
	require.Contains(t, f.send(t, chunked).body, "65536 bytes")
}

// Without the service, nobody is looked at who has no signature.
func TestWebIdentityNeedsItsService(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	got := f.send(t, askPod(t, r.url, newIssuer(t, f)()))
	require.Equal(t, "InvalidAction", element(t, got.body, "Code"))
}

// An address has so many calls without a signature, and all together.
func TestUnsignedCallsAreLimited(t *testing.T) {
	f, _ := newQueryFixture(t)
	ask := func(address string) string {
		r := askPod(t, "http://127.0.0.1/", "x.y.z")
		r.RemoteAddr = address
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		return element(t, w.Body.String(), "Code")
	}
	throttled := 0
	for range 200 {
		if ask("192.0.2.1:1234") == "Throttling" {
			throttled++
		}
	}
	require.Greater(t, throttled, 50)
	require.Equal(t, "InvalidIdentityToken", ask("192.0.2.2:1234"), "another address")
	u := newUnsignedCalls()
	for i := range 2 * maxUnsignedPeers {
		u.allow(fmt.Sprintf("10.0.%d.%d:1", i/256, i%256))
	}
	require.Equal(t, maxUnsignedPeers, u.peers.Len())
	require.False(t, u.allow("10.1.0.1:1"), "all of them have had their share")
}
