package audit

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"
)

// Texts are written byte for byte as encoding/json writes them.
func TestTextIsThatOfEncodingJSON(t *testing.T) {
	texts := []string{"", "plain", `"\/` + "\b\f\n\r\t\x00\x1f\x7f", "<script>&", "ü€😀", "\xff\xc3", "a\xc3", "\u2028\u2029", "\ufffd"}
	pieces := []string{"a", `"`, `\`, "\n", "\x01", "<", "&", "\xff", "\xe2\x80", "\u2028", "é", "😀", "\x7f"}
	for range 20_000 {
		var text strings.Builder
		for range rand.IntN(8) {
			text.WriteString(pieces[rand.IntN(len(pieces))])
		}
		texts = append(texts, text.String())
	}
	for _, text := range texts {
		want, err := json.Marshal(text)
		require.NoError(t, err)
		require.Equal(t, string(want), string(appendText(nil, text)), "%q", text)
	}
}

type tag struct{ TagKey, TagValue *string }

type input struct {
	KeyId       *string
	Description *string
	Message     []byte
	Tags        []tag
	Flag        bool
	Limit       *int32
	Spec        string
	When        *time.Time
	Map         map[string]string
}

func ptr[T any](v T) *T { return &v }

var every = []string{"keyId", "description", "message", "tags", "flag", "limit", "spec", "when", "map"}

// Of an input a record shows the members that are named and have a value, and bytes never.
func TestMembersAreShownByName(t *testing.T) {
	full := &input{ptr("k"), ptr(""), []byte("m"), []tag{{ptr("a"), ptr("<")}}, false, ptr(int32(7)), "s",
		ptr(time.Date(2022, 8, 10, 22, 38, 27, 0, time.UTC)), map[string]string{"b": "2", "a": "1"}}
	for _, c := range []struct {
		in       any
		recorded []string
		want     string
	}{
		{full, every, `{"keyId":"k","description":"","tags":[{"tagKey":"a","tagValue":"\u003c"}],"flag":false,"limit":7,"spec":"s",` +
			`"when":"Aug 10, 2022, 10:38:27 PM","map":{"a":"1","b":"2"}}`},
		{full, every[:1], `{"keyId":"k"}`},
		{full, []string{"other", "message"}, `null`},
		{full, nil, `null`},
		{&input{}, []string{"keyId", "tags", "flag"}, `{"flag":false}`},
		{&input{}, every[:4], `null`},
		{(*input)(nil), every, `null`},
		{nil, every, `null`},
		{map[string]any{"x": "y", "n": 3, "l": []string{"a"}, "b": []byte("secret"), "z": nil}, []string{"x", "n", "l", "b", "z"},
			`{"x":"y","n":3,"l":["a"]}`},
		{map[string]any{"x": "y"}, []string{"y"}, `null`},
		{&input{KeyId: ptr(strings.Repeat("k", maxField))}, every[:1],
			`{"omitted":true,"originalSize":102412,"reason":"the field is too large"}`},
	} {
		got := string(appendMembers(nil, c.in, c.recorded))
		require.Equal(t, c.want, got)
		require.True(t, json.Valid([]byte(got)))
	}
}

func mustParse(t *testing.T, e *Event) map[string]any {
	t.Helper()
	var record map[string]any
	line := AppendRecord([]byte("x"), e, time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)))
	require.NoError(t, json.Unmarshal(line[1:], &record), "%s", line)
	return record
}

// The whole record of a request over TLS.
func TestRecord(t *testing.T) {
	e := &Event{Service: "kms", Operation: "GenerateMac", ReadOnly: true, Region: "eu-west-1", Account: "111122223333",
		Principal: "arn:aws:iam::111122223333:user/team/alice", PrincipalID: "AIDA7", RequestID: "r",
		Resource: "arn:aws:kms:eu-west-1:111122223333:key/k", Input: &input{KeyId: ptr("k")}, Recorded: every[:1],
		Origin: Origin{Remote: true, SourceIP: netip.MustParseAddr("fe80::1%eth0"), UserAgent: "boto", AccessKeyID: "AKIA",
			TLSVersion: 0x0304, CipherSuite: 0x1301, Host: "kms.local"},
	}
	record := mustParse(t, e)
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, record["eventID"])
	delete(record, "eventID")
	require.Equal(t, map[string]any{
		"eventVersion": "1.08",
		"userIdentity": map[string]any{"type": "IAMUser", "principalId": "AIDA7", "arn": e.Principal, "accountId": "111122223333",
			"accessKeyId": "AKIA", "userName": "alice"},
		"eventTime": "2026-01-02T02:04:05Z", "eventSource": "kms.amazonaws.com", "eventName": "GenerateMac", "awsRegion": "eu-west-1",
		"sourceIPAddress": "fe80::1", "userAgent": "boto", "requestParameters": map[string]any{"keyId": "k"}, "responseElements": nil,
		"requestID": "r", "readOnly": true,
		"resources": []any{map[string]any{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": e.Resource}},
		"eventType": "AwsApiCall", "managementEvent": true, "recipientAccountId": "111122223333", "eventCategory": "Management",
		"tlsDetails": map[string]any{"tlsVersion": "TLSv1.3", "cipherSuite": "TLS_AES_128_GCM_SHA256",
			"clientProvidedHostHeader": "kms.local"},
	}, record)
}

// A session of a role, as CloudTrail's user guide shows one.
func TestIdentityOfASession(t *testing.T) {
	e := &Event{Service: "kms", Operation: "Sign", Account: "111122223333", Principal: "arn:aws:sts::111122223333:assumed-role/Maker/root",
		PrincipalID: "AROA7:root", Session: &Session{RoleARN: "arn:aws:iam::111122223333:role/jwt/Maker", RoleID: "AROA7", RoleName: "Maker",
			Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)), SourceIdentity: "bob"}}
	issuer := map[string]any{"type": "Role", "principalId": "AROA7", "arn": e.Session.RoleARN, "accountId": "111122223333",
		"userName": "Maker"}
	want := map[string]any{"type": "AssumedRole", "principalId": "AROA7:root", "arn": e.Principal, "accountId": "111122223333",
		"sessionContext": map[string]any{"sessionIssuer": issuer, "webIdFederationData": map[string]any{}, "sourceIdentity": "bob",
			"attributes": map[string]any{"creationDate": "2026-01-02T02:04:05Z", "mfaAuthenticated": "false"}}}
	require.Equal(t, want, mustParse(t, e)["userIdentity"])
	e.Session.SourceIdentity = ""
	delete(want["sessionContext"].(map[string]any), "sourceIdentity")
	require.Equal(t, want, mustParse(t, e)["userIdentity"])
}

func TestIdentities(t *testing.T) {
	for principal, kind := range map[string]string{
		"arn:aws:iam::1:root": "Root", "arn:aws:iam::1:user/u": "IAMUser", "arn:aws:iam::1:role/p/r": "Role", "": "Unknown",
	} {
		who := mustParse(t, &Event{Principal: principal})["userIdentity"].(map[string]any)
		require.Equal(t, kind, who["type"])
		require.Equal(t, kind == "IAMUser", who["userName"] != nil)
	}
	service := mustParse(t, &Event{Kind: ServiceEvent, Service: "kms", Operation: "DeleteKey", Account: "1"})
	require.Equal(t, map[string]any{"type": "AWSService", "accountId": "1", "invokedBy": "AWS Internal"}, service["userIdentity"])
	require.Equal(t, "AwsServiceEvent", service["eventType"])
	require.Equal(t, "AWS Internal", service["sourceIPAddress"])
}

// Of an error a record has what the API says, and of any other nothing but that there was one. What came with it is not shown.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err           error
		code, message any
	}{
		{nil, nil, nil},
		{&smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no"}, "AccessDenied", "no"},
		{&smithy.GenericAPIError{Code: "NotFoundException", Message: strings.Repeat("€", 500)}, "NotFoundException",
			strings.Repeat("€", 341)},
		{errors.New("/etc/secret"), "InternalFailure", nil},
		{&smithy.CanceledError{Err: errors.New("x")}, "RequestCanceled", nil},
	} {
		record := mustParse(t, &Event{Err: c.err, Output: map[string]any{"a": "b"}, Responded: []string{"a"}})
		require.Equal(t, []any{c.code, c.message, c.err == nil},
			[]any{record["errorCode"], record["errorMessage"], record["responseElements"] != nil})
	}
	intent := mustParse(t, &Event{Kind: Intent, Output: map[string]any{"a": "b"}, Responded: []string{"a"}})
	require.Nil(t, intent["responseElements"])
}

// A record is never longer than maxRecord, and the end of a call never longer than maxOutcome says of its intent.
func TestRecordsAreBounded(t *testing.T) {
	long := strings.Repeat("<", 1<<20)
	e := Event{Kind: Intent, Operation: "CreateKey", Input: &input{KeyId: ptr(strings.Repeat("k", 99<<10))}, Recorded: every[:1],
		Origin: Origin{Remote: true, UserAgent: long, TLSVersion: 1, Host: long}, Resource: "arn:aws:kms:r:1:key/k"}
	intent := len(AppendRecord(nil, &e, time.Time{}))
	e.Kind, e.Output, e.Responded = Call, &input{KeyId: ptr(strings.Repeat("k", 99<<10))}, every[:1]
	require.LessOrEqual(t, len(AppendRecord(nil, &e, time.Time{})), maxOutcome(intent))
	require.LessOrEqual(t, maxOutcome(intent), maxRecord+maxField)
	e.Err = &smithy.GenericAPIError{Code: "Some", Message: long}
	require.LessOrEqual(t, len(AppendRecord(nil, &e, time.Time{})), maxOutcome(intent))
}

func TestIDsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for range 10_000 {
		id := NewID()
		require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, id)
		require.False(t, seen[id])
		seen[id] = true
	}
}

func BenchmarkRecord(b *testing.B) {
	e := &Event{Service: "kms", Operation: "GenerateMac", ReadOnly: true, Region: "eu-west-1", Account: "111122223333",
		Principal: "arn:aws:iam::111122223333:user/team/alice", PrincipalID: "AIDA7", RequestID: "r",
		Resource: "arn:aws:kms:eu-west-1:111122223333:key/k", Input: &input{KeyId: ptr("k")}, Recorded: every[:1]}
	buf := make([]byte, 0, 4096)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendRecord(buf[:0], e, now)
	}
	b.SetBytes(int64(len(buf)))
}
