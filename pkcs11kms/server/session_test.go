package server

import (
	"encoding/base64"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

const allowAll = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}`

// newAssumable makes a role that may do everything and trusts its account, and a user that may assume it; it returns the user's key.
func newAssumable(t *testing.T, f *fixture) iam.AccessKey {
	t.Helper()
	admin := f.bridge.IAM().As(f.bridge.Root())
	for _, name := range []iam.PrincipalName{user("Alice"), role("Maker")} {
		o := iam.PrincipalOptions{}
		if name.Type == keystore.PrincipalRole {
			o.TrustPolicy = trustText
		}
		_, err := admin.CreatePrincipal(t.Context(), name, o)
		require.NoError(t, err)
	}
	require.NoError(t, admin.PutPrincipalPolicy(t.Context(), role("Maker"), "all", allowAll))
	made, err := admin.CreateAccessKey(t.Context(), user("Alice"))
	require.NoError(t, err)
	return made
}

// element returns the text of an element of an answer.
func element(t *testing.T, body, name string) string {
	t.Helper()
	found := regexp.MustCompile("<" + name + ">([^<]*)</" + name + ">").FindStringSubmatch(body)
	require.NotNil(t, found, "%s in %s", name, body)
	return found[1]
}

// assume asks for a session, and returns how its requests are signed.
func (f *fixture) assume(t *testing.T, r *running, key iam.AccessKey, more ...string) (signing, string) {
	t.Helper()
	got := f.send(t, f.form(t, r.url, signing{id: key.ID, secret: key.Secret, service: "sts"}, append([]string{"Action", "AssumeRole",
		"Version", "2011-06-15", "RoleArn", "arn:aws:iam::" + testAccount + ":role/Maker", "RoleSessionName", "job"}, more...)...))
	require.Equal(t, http.StatusOK, got.StatusCode, got.body)
	return signing{id: element(t, got.body, "AccessKeyId"), secret: element(t, got.body, "SecretAccessKey"),
		token: element(t, got.body, "SessionToken")}, got.body
}

// AssumeRole answers as AWS STS does, and what is signed with the session's credentials is done in its name, in each service.
func TestSessionsOverTheWire(t *testing.T) {
	f, r := newQueryFixture(t)
	key := newAssumable(t, f)
	made := f.mustCreate(t, types.KeySpecHmac256)
	session, body := f.assume(t, r, key)
	require.Regexp(t, `^<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><AssumedRoleUser>`+
		`<AssumedRoleId>AROA[A-Z2-7]{17}:job</AssumedRoleId><Arn>arn:aws:sts::111122223333:assumed-role/Maker/job</Arn></AssumedRoleUser>`+
		`<Credentials><AccessKeyId>ASIA[A-Z2-7]{16}</AccessKeyId><SecretAccessKey>[^<]{40}</SecretAccessKey><SessionToken>[^<]+</SessionToken>`+
		`<Expiration>20[0-9-]+T[0-9:]+Z</Expiration></Credentials></AssumeRoleResult><ResponseMetadata><RequestId>[0-9a-f-]{36}</RequestId>`+
		`</ResponseMetadata></AssumeRoleResponse>$`, body)

	mac := func(s signing) reply {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, r.url, strings.NewReader(
			`{"KeyId": "`+*made.KeyId+`", "Message": "bQ==", "MacAlgorithm": "HMAC_SHA_256"}`))
		require.NoError(t, err)
		req.Header.Set("Content-Type", keyManagement.codec.contentType)
		req.Header.Set("X-Amz-Target", targetPrefix+"GenerateMac")
		f.sign(t, req, `{"KeyId": "`+*made.KeyId+`", "Message": "bQ==", "MacAlgorithm": "HMAC_SHA_256"}`, s)
		return f.send(t, req)
	}
	require.Equal(t, http.StatusOK, mac(session).StatusCode)
	who := session
	who.service = "sts"
	got := f.send(t, f.form(t, r.url, who, "Action", "GetCallerIdentity", "Version", "2011-06-15"))
	require.Equal(t, "arn:aws:sts::111122223333:assumed-role/Maker/job", element(t, got.body, "Arn"))
	require.Equal(t, element(t, body, "AssumedRoleId"), element(t, got.body, "UserId"))
	who.service = "iam"
	got = f.send(t, f.form(t, r.url, who, "Action", "GetUser", "Version", "2010-05-08"))
	require.Contains(t, got.body, "Must specify userName when calling with non-User credentials")
	limited, body := f.assume(t, r, key, "Policy", strings.Replace(allowAll, `"*"`, `"kms:ListKeys"`, 1), "DurationSeconds", "900")
	require.Regexp(t, "<PackedPolicySize>[0-9]+</PackedPolicySize></AssumeRoleResult>", body)
	got = mac(limited)
	require.Equal(t, http.StatusBadRequest, got.StatusCode)
	require.Contains(t, got.body, "because no session policy allows the kms:GenerateMac action")

	for name, test := range map[string]struct {
		parameters []string
		want       string
	}{
		"MFA":      {[]string{"SerialNumber", "arn:aws:iam::111122223333:mfa/a", "TokenCode", "123456"}, "TokenCode are not supported"},
		"contexts": {[]string{"ProvidedContexts.member.1.ProviderArn", "x"}, "ProvidedContexts is not supported."},
		"policies": {[]string{"PolicyArns.member.1.arn", "arn:aws:iam::aws:policy/x"}, "does not exist or is not attachable."},
	} {
		got := f.send(t, f.form(t, r.url, signing{id: key.ID, secret: key.Secret, service: "sts"}, append([]string{"Action", "AssumeRole",
			"Version", "2011-06-15", "RoleArn", "arn:aws:iam::" + testAccount + ":role/Maker", "RoleSessionName", "job"}, test.parameters...)...))
		require.Equal(t, http.StatusBadRequest, got.StatusCode, name)
		require.Equal(t, "ValidationError", element(t, got.body, "Code"), name)
		require.Contains(t, got.body, test.want, name)
	}
	require.NotContains(t, f.log.String(), session.secret)
	require.NotContains(t, f.log.String(), session.token)
}

// A session's access key without its token, a token beside another key, one that was altered, and one that has ended are refused as the
// services do, before the body is read.
func TestTokensThatAreNotOfTheKey(t *testing.T) {
	f, r := newQueryFixture(t)
	key := newAssumable(t, f)
	session, _ := f.assume(t, r, key)
	flip := func(token string) string {
		raw, err := base64.StdEncoding.DecodeString(token)
		require.NoError(t, err)
		raw[rand.IntN(len(raw))] ^= 1
		return base64.StdEncoding.EncodeToString(raw)
	}
	for name, s := range map[string]signing{
		"no token":                  {id: session.id, secret: session.secret},
		"a token beside a user's":   {id: key.ID, secret: key.Secret, token: session.token},
		"a token beside the root's": {token: session.token},
		"an altered token":          {id: session.id, secret: session.secret, token: flip(session.token)},
		"another session's":         {id: "ASIAAAAAAAAAAAAAAAAA", secret: session.secret, token: session.token},
		"no token at all":           {id: session.id, secret: session.secret, token: "x"},
	} {
		s.service = "sts"
		got := f.send(t, f.form(t, r.url, s, "Action", "GetCallerIdentity", "Version", "2011-06-15"))
		require.Equal(t, http.StatusForbidden, got.StatusCode, name)
		require.Equal(t, "InvalidClientTokenId", element(t, got.body, "Code"), name)
		require.Contains(t, got.body, "The security token included in the request is invalid.", name)
		s.service = "kms"
		req := f.request(t, r.url, "ListKeys", "{}")
		f.sign(t, req, "{}", s)
		got = f.send(t, req)
		require.Equal(t, http.StatusBadRequest, got.StatusCode, name)
		require.Equal(t, "UnrecognizedClientException", got.Header.Get("X-Amzn-Errortype"), name)
	}
	wrong := session
	wrong.secret, wrong.service = strings.Repeat("x", 40), "sts"
	got := f.send(t, f.form(t, r.url, wrong, "Action", "GetCallerIdentity", "Version", "2011-06-15"))
	require.Equal(t, "SignatureDoesNotMatch", element(t, got.body, "Code"))

	// The token must be signed.
	bare := session
	bare.token = ""
	req := f.request(t, r.url, "ListKeys", "{}")
	f.sign(t, req, "{}", bare)
	req.Header.Set("X-Amz-Security-Token", session.token)
	got = f.send(t, req)
	require.Equal(t, "InvalidSignatureException", got.Header.Get("X-Amzn-Errortype"))
	require.Contains(t, got.body, "'x-amz-security-token' must be a 'SignedHeader'")
}

// Sessions that have ended are told so by each protocol in its own words.
func TestExpiredSessions(t *testing.T) {
	var later atomic.Int64 // how far the clock is ahead
	now := func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	f := newFixture(t, func(c *pkcs11kms.Config, o *Options) { o.Services, c.Now, o.Now = Services(), now, now })
	r := f.run(t, Listen{})
	session, _ := f.assume(t, r, newAssumable(t, f), "DurationSeconds", "900")
	later.Store(int64(15*time.Minute + time.Second))
	session.at, session.service = now(), "sts"
	got := f.send(t, f.form(t, r.url, session, "Action", "GetCallerIdentity", "Version", "2011-06-15"))
	require.Equal(t, http.StatusForbidden, got.StatusCode)
	require.Equal(t, "ExpiredToken", element(t, got.body, "Code"))
	require.Equal(t, "The security token included in the request is expired", element(t, got.body, "Message"))
	session.service = "kms"
	req := f.request(t, r.url, "ListKeys", "{}")
	f.sign(t, req, "{}", session)
	got = f.send(t, req)
	require.Equal(t, "ExpiredTokenException", got.Header.Get("X-Amzn-Errortype"))
}

// 10,000 tokens that were altered let nobody in, and are no fault of the server, in the protocol of each service.
func TestAlteredTokensLetNobodyIn(t *testing.T) {
	f, r := newQueryFixture(t)
	session, _ := f.assume(t, r, newAssumable(t, f))
	raw, err := base64.StdEncoding.DecodeString(session.token)
	require.NoError(t, err)
	for i := range 10_000 {
		altered := append([]byte(nil), raw...)
		altered[rand.IntN(len(raw))] ^= byte(1 + rand.IntN(255))
		s := session
		s.token = base64.StdEncoding.EncodeToString(altered)
		var req *http.Request
		if i%2 == 0 {
			s.service = "sts"
			req = f.form(t, r.url, s, "Action", "GetCallerIdentity", "Version", "2011-06-15")
		} else {
			req = f.request(t, r.url, "ListKeys", "{}")
			f.sign(t, req, "{}", s)
		}
		req.URL.Path, req.Host = "/", req.URL.Host // as a server has it
		req.Header.Set("Content-Length", strconv.FormatInt(req.ContentLength, 10))
		got := httptest.NewRecorder()
		f.ServeHTTP(got, req)
		want := []int{http.StatusForbidden, http.StatusBadRequest}[i%2]
		require.Equal(t, want, got.Code, got.Body.String())
		require.Contains(t, got.Body.String(), "The security token included in the request is invalid.")
	}
}
