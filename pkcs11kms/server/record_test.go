package server

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

type logLine struct {
	Level, Msg, Operation, Remote, Caller, Error, Reason, Cause, Key, Alias string

	RequestID  string `json:"request_id"`
	AccessKey  string `json:"access_key"`
	Claimed    string `json:"claimed_access_key"`
	Status     int
	Took       int64
	Suppressed int
}

// lines waits for the log of n requests. A line is written after its answer.
func (f *fixture) lines(t *testing.T, n int) []logLine {
	t.Helper()
	require.Eventually(t, func() bool { return len(f.log.requests()) >= n }, patience, 1e6)
	var lines []logLine
	for _, text := range f.log.requests() {
		var line logLine
		require.NoError(t, json.Unmarshal([]byte(text), &line))
		lines = append(lines, line)
	}
	require.Len(t, lines, n, "one line a request")
	return lines
}

func TestLogLines(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	ids := map[string]bool{}
	ask := func(operation, body string, change func(*http.Request)) string {
		req := f.request(t, r.url, operation, body)
		if change != nil {
			change(req)
		}
		got := f.send(t, req)
		requireCommonHeaders(t, got)
		id := got.Header.Get("X-Amzn-Requestid")
		ids[id] = true
		f.lines(t, len(ids)) // a line may come after its answer
		return id
	}
	want := []logLine{
		{Level: "INFO", Operation: "ListKeys", Status: 200, RequestID: ask("ListKeys", "{}", nil)},
		{Level: "INFO", Operation: "DescribeKey", Status: 400, Error: "ValidationException", RequestID: ask("DescribeKey", "{}", nil)},
		{Level: "INFO", Operation: "DescribeKey", Status: 400, Error: "SerializationException", RequestID: ask("DescribeKey", "[", nil)},
		{Level: "INFO", Operation: "ReplicateKey", Status: 400, Error: "UnsupportedOperationException",
			RequestID: ask("ReplicateKey", wellFormed(t, "ReplicateKey"), nil)},
		{Level: "INFO", Operation: "unknown", Status: 400, Error: "UnknownOperationException", RequestID: ask("No\"such", "{}", nil)},
		{Level: "WARN", Operation: "ListKeys", Status: 400, Error: "MissingAuthenticationTokenException", Reason: "Missing Authentication Token",
			RequestID: ask("ListKeys", "{}", func(r *http.Request) { r.Header.Del("Authorization") })},
	}
	require.Len(t, ids, len(want), "request ids are distinct")
	lines := f.lines(t, len(want))
	for i, line := range lines {
		require.Positive(t, line.Took)
		require.True(t, strings.HasPrefix(line.Remote, "127.0.0.1:"), line.Remote)
		if i < 4 {
			want[i].AccessKey, want[i].Caller = f.key.ID, "arn:aws:iam::111122223333:root"
		}
		want[i].Msg, want[i].Took, want[i].Remote = "request", line.Took, line.Remote
	}
	require.Equal(t, want, lines)
}

// Requests of senders that nobody knows are logged at a limited rate; they are counted all the same, and so are the lines
// that were kept back.
func TestStrangersCannotFillTheLog(t *testing.T) {
	f := newFixture(t, nil)
	f.unauthenticated = rate.NewLimiter(0, 3)
	r := f.run(t, Listen{})
	const strangers, known = 100, 20
	stranger := func(i int) {
		req := f.request(t, r.url, "ListKeys", "{}")
		if i%2 == 0 {
			req.Header.Set("Authorization", replaceKeyID(req.Header.Get("Authorization"), f.key.ID))
		} else {
			req.Header.Del("X-Amz-Target")
		}
		require.Equal(t, 400, f.send(t, req).StatusCode)
	}
	for i := range strangers {
		stranger(i)
	}
	// An answer is sent before its line is written, so the lines of two requests can come in another order.
	require.Eventually(t, func() bool { return f.suppressed.Load() == strangers-3 }, patience, time.Millisecond)
	f.lines(t, 3)
	for range known {
		require.Equal(t, 400, f.send(t, f.request(t, r.url, "DescribeKey", "{}")).StatusCode)
	}
	f.lines(t, 3+known)
	f.unauthenticated.SetLimit(rate.Inf)
	stranger(0)
	stranger(1)
	lines := f.lines(t, 3+known+2)
	for i, line := range lines {
		require.Equal(t, i >= 3 && i < 3+known, line.AccessKey != "", "whoever signed is logged always")
		require.Equal(t, i == 3+known, line.Suppressed > 0)
	}
	require.Equal(t, strangers-3, lines[3+known].Suppressed)
	series := scrape(t, f, r)
	require.EqualValues(t, strangers/2+1, series[`pkcs11kms_requests_total{operation="ListKeys",result="UnrecognizedClientException"}`])
	require.EqualValues(t, strangers/2+1, series[`pkcs11kms_requests_total{operation="unknown",result="UnknownOperationException"}`])
}

func TestStrangersLimit(t *testing.T) {
	limit := newLimiter()
	allowed := 0
	for range 1000 {
		if limit.AllowN(goldenTime, 1) {
			allowed++
		}
	}
	require.Equal(t, 2*strangersPerSecond, allowed, "in one moment")
	require.True(t, limit.AllowN(goldenTime.Add(1e9), strangersPerSecond))
	require.False(t, limit.AllowN(goldenTime.Add(1e9), 1))
}

// No secret that takes part in a run is in its log, in whatever spelling.
func TestLogHoldsNoSecrets(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	c := f.sdk(r)
	key := f.mustCreate(t, types.KeySpecHmac256)
	message := []byte("a message that must stay secret")
	made, err := c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: key.KeyId, MacAlgorithm: "HMAC_SHA_256", Message: message})
	require.NoError(t, err)
	wrong := []byte("tampered message")
	_, err = c.VerifyMac(t.Context(), &kms.VerifyMacInput{KeyId: key.KeyId, MacAlgorithm: "HMAC_SHA_256", Message: wrong, Mac: made.Mac})
	require.Error(t, err)
	_, err = c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: key.KeyId, MacAlgorithm: "HMAC_SHA_512", Message: message})
	require.Error(t, err)
	for _, body := range []string{
		`{"Message":"` + base64.StdEncoding.EncodeToString(message) + `"`,        // cut off
		`{"Message":"` + string(message) + `","KeyId":"` + *key.KeyId + `"}`,     // no base64
		`{"Message":["` + base64.StdEncoding.EncodeToString(message) + `"]}`,     // wrong type
		`{"` + base64.StdEncoding.EncodeToString(message) + `":"tampered mess"}`, // unknown member
	} {
		require.Equal(t, 400, f.send(t, f.request(t, r.url, "GenerateMac", body)).StatusCode)
	}
	bad := f.request(t, r.url, "ListKeys", "{}")
	signature := bad.Header.Get("Authorization")
	signature = signature[strings.LastIndex(signature, "=")+1:]
	bad.Header.Set("X-Amz-Date", "20200101T000000Z")
	require.Equal(t, 400, f.send(t, bad).StatusCode)
	f.lines(t, 8)

	log := f.log.String()
	require.Contains(t, log, f.key.ID)
	secrets := map[string][]byte{"message": message, "other message": wrong, "MAC": made.Mac, "secret": []byte(f.key.Secret),
		"PIN": []byte(f.pin)}
	for name, secret := range secrets {
		for _, spelling := range []string{string(secret), base64.StdEncoding.EncodeToString(secret), hex.EncodeToString(secret),
			strings.ToUpper(hex.EncodeToString(secret)), strings.Trim(fmt.Sprint(secret), "[]")} {
			require.False(t, strings.Contains(log, spelling), "the log holds the %s", name)
		}
	}
	require.False(t, strings.Contains(log, signature), "the log holds a signature")
}

// The line of a request says which key or alias was asked for, in whatever member and form, and which was made.
func TestLogNamesTheKey(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	key := f.mustCreate(t, types.KeySpecHmac256)
	id, other := *key.KeyId, "12345678-0000-4000-8000-000000000000"
	mac := func(keyID string) string {
		return `{"KeyId":"` + keyID + `","MacAlgorithm":"HMAC_SHA_256","Message":"AAAA"}`
	}
	aliasARN := "arn:aws:kms:" + testRegion + ":" + testAccount + ":alias/a/b"
	for i, tc := range []struct{ operation, body, key, alias string }{
		{"CreateAlias", `{"AliasName":"alias/a/b","TargetKeyId":"` + id + `"}`, id, "alias/a/b"},
		{"GenerateMac", mac(id), id, ""},
		{"GenerateMac", mac(*key.Arn), id, ""},
		{"GenerateMac", mac("alias/a/b"), "alias/a/b", ""},
		{"GenerateMac", mac(aliasARN), "alias/a/b", ""},
		{"GenerateMac", mac(other), other, ""},    // does not exist
		{"GenerateMac", mac("a message"), "", ""}, // can be anything
		{"GenerateMac", mac("alias/a message"), "", ""},
		{"GenerateMac", mac("alias/" + strings.Repeat("x", 251)), "", ""},
		{"GenerateMac", mac(id) + "]", "", ""},
		{"DeleteAlias", `{"AliasName":"alias/a/b"}`, "", "alias/a/b"},
		{"ListKeys", `{}`, "", ""},
		{"ReplicateKey", `{"KeyId":"` + id + `"}`, id, ""},
	} {
		got := f.send(t, f.request(t, r.url, tc.operation, tc.body))
		line := f.lines(t, i+1)[i]
		require.Equal(t, []string{tc.key, tc.alias}, []string{line.Key, line.Alias}, "%s %s: %s", tc.operation, tc.body, got.body)
	}
	f.log.clear()
	got := f.send(t, f.request(t, r.url, "CreateKey", `{"KeySpec":"HMAC_256","KeyUsage":"GENERATE_VERIFY_MAC"}`))
	line := f.lines(t, 1)[0]
	require.Len(t, line.Key, len(id))
	require.Contains(t, got.body, `"KeyId":"`+line.Key+`"`)
	require.Equal(t, 400, f.send(t, f.request(t, r.url, "CreateKey", "{}")).StatusCode)
	require.Empty(t, f.lines(t, 2)[1].Key)
}

// A wrong signature is logged with the access key that it claims, under another name than that of a proved one. An access key
// id that does not exist is not logged: it may be a secret in the wrong place.
func TestLogNamesTheClaimedAccessKey(t *testing.T) {
	f := newFixture(t, nil)
	r := f.run(t, Listen{})
	sent := 0
	send := func(how signing) {
		req := f.request(t, r.url, "GenerateMac", `{"KeyId":"`+knownID+`"}`)
		req.Header.Del("Authorization")
		f.sign(t, req, `{"KeyId":"`+knownID+`"}`, how)
		require.Equal(t, 400, f.send(t, req).StatusCode)
		sent++
		f.lines(t, sent) // a line may come after its answer
	}
	send(signing{secret: "a wrong one"})
	send(signing{id: "AKIAUNKNOWNUNKNOWN00"})
	send(signing{region: "eu-west-9"})
	lines := f.lines(t, 3)
	require.Equal(t, f.key.ID, lines[0].Claimed)
	for _, line := range lines {
		require.Empty(t, line.AccessKey)
		require.Empty(t, line.Caller)
		require.Empty(t, line.Key, "what strangers ask for is not read")
	}
	require.Empty(t, lines[1].Claimed+lines[2].Claimed)
	require.NotContains(t, f.log.String(), "AKIAUNKNOWNUNKNOWN00")
}
