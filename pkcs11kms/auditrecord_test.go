package pkcs11kms

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

var recordsFlag = flag.Bool("records", false, "of TestRecordsOfTheOperations: write testdata/records.txt anew")

const recordsFile = "testdata/records.txt"

const recordsHead = `# The records of the audit log of each operation of AWS KMS, for each way in which a call can end, without
# what all calls have in common and with ids and times replaced. "intent" is the record before the change.
# Made by: go test ./pkcs11kms -run TestRecordsOfTheOperations -records
`

// hidden is in every member of an input that no record may show.
const hidden = "never-to-be-seen-in-a-log"

// recordRig calls operations with a log that remembers.
type recordRig struct {
	*Client
	log    *auditLog
	module *faultp11.Module
}

func newRecordRig(t *testing.T) *recordRig {
	log := &auditLog{}
	cfg, tok := newConfigAndToken(t)
	module := faultp11.New(t, tok.Module)
	tok.Module = module.Path
	cfg.Regions = map[string]Region{testRegion: {Token: tok.URI(tok.PINFile)}}
	cfg.Audit, cfg.Quotas.NoRates, cfg.Now = log, false, newClock().Now
	c := openClient(t, cfg)
	return &recordRig{c.As(c.Caller().From(Connection{SourceIP: netip.MustParseAddr("192.0.2.7"), UserAgent: "tester/1",
		RequestID: "the-request", AccessKeyID: "AKIATESTTESTTESTTEST"})), log, module}
}

// unlimited lets the account begin anew with its rates.
func (r *recordRig) unlimited() { r.bridge.rates.Clear() }

// prepared makes the key that an operation can succeed on, and returns how its input is filled.
func (r *recordRig) prepared(t *testing.T, op string) func(reflect.Value) {
	ctx := t.Context()
	in := kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac}
	if slices.Contains([]string{"Sign", "Verify", "GetPublicKey"}, op) {
		in = kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify}
	}
	if rowOf(op).Origin == ops.ExternalOnly {
		in.Origin = types.OriginTypeExternal
	}
	made, err := r.CreateKey(ctx, &in)
	require.NoError(t, err)
	id := made.KeyMetadata.KeyId
	more := map[string]any{}
	switch op {
	case "CancelKeyDeletion":
		_, err = r.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: id})
	case "UpdateAlias", "DeleteAlias":
		_, err = r.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: ptr("alias/minimal"), TargetKeyId: id})
	case "VerifyMac":
		more["Mac"], err = generate(ctx, r.Client, id, []byte(hidden))
	case "ImportKeyMaterial":
		in := importInput(t, id, parameters(t, r.Client, id, oaep256, types.WrappingKeySpecRsa2048), oaep256, random(32))
		more["ImportToken"], more["EncryptedKeyMaterial"] = in.ImportToken, in.EncryptedKeyMaterial
		r.unlimited()
	case "DeleteImportedKeyMaterial":
		err = importMaterial(t, r.Client, id, oaep1, random(32), time.Time{})
		r.unlimited()
	case "RetireGrant", "RevokeGrant":
		var out *kms.CreateGrantOutput
		if out, err = r.CreateGrant(ctx, grantInput(id, r.Client, opMAC)); err == nil {
			more["GrantId"] = out.GrantId
		}
	case "Verify":
		var out *kms.SignOutput
		if out, err = r.Sign(ctx, &kms.SignInput{KeyId: id, Message: []byte(hidden), SigningAlgorithm: "ECDSA_SHA_256"}); err == nil {
			more["Signature"] = out.Signature
		}
	}
	require.NoError(t, err)
	return func(v reflect.Value) {
		fillAll(op, *id, r.Client)(v)
		if v.FieldByName("PolicyName").IsValid() && op != "GetKeyPolicy" {
			v.FieldByName("PolicyName").Set(reflect.ValueOf(ptr("default")))
		}
		hideBytes(v)
		for name, value := range more {
			v.FieldByName(name).Set(reflect.ValueOf(value))
		}
	}
}

// hideBytes gives every member of bytes the text that no record may have.
func hideBytes(in reflect.Value) {
	for i := range in.NumField() {
		if f := in.Field(i); f.CanSet() && f.Type() == reflect.TypeFor[[]byte]() && f.Len() > 0 {
			f.SetBytes([]byte(hidden))
		}
	}
}

// ways are the ways in which a call can end. Each returns the client and what fills the input, or nil where an operation has no such way.
func (r *recordRig) ways(t *testing.T, op *ops.Operation) map[string]func() (*Client, func(reflect.Value)) {
	return map[string]func() (*Client, func(reflect.Value)){
		"allowed": func() (*Client, func(reflect.Value)) { return r.Client, r.prepared(t, op.Name) },
		"denied": func() (*Client, func(reflect.Value)) {
			return r.As(Caller{}.From(Connection{})), r.prepared(t, op.Name)
		},
		"bad form": func() (*Client, func(reflect.Value)) {
			fill := r.prepared(t, op.Name)
			return r.Client, func(v reflect.Value) {
				fill(v)
				breakForm(v)
			}
		},
		"throttled": func() (*Client, func(reflect.Value)) {
			fill := r.prepared(t, op.Name)
			if op.Rate == nil {
				return nil, nil
			}
			for r.throttle(op, nil) == nil {
			}
			if op.Curve != nil {
				curve := *op
				curve.Rate = op.Curve
				for r.throttle(&curve, nil) == nil {
				}
			}
			return r.Client, fill
		},
		"dry run": func() (*Client, func(reflect.Value)) {
			in := reflect.TypeOf((*Client)(nil))
			method, _ := in.MethodByName(op.Name)
			if _, ok := method.Type.In(2).Elem().FieldByName("DryRun"); !ok {
				return nil, nil
			}
			fill := r.prepared(t, op.Name)
			return r.Client, func(v reflect.Value) {
				fill(v)
				v.FieldByName("DryRun").Set(reflect.ValueOf(ptrTo(true)))
			}
		},
		"token error": func() (*Client, func(reflect.Value)) {
			fill := r.prepared(t, op.Name)
			r.module.Do("on C_GenerateKey,C_GenerateKeyPair,C_GenerateRandom,C_SignInit fail CKR_ARGUMENTS_BAD")
			return r.Client, fill
		},
	}
}

// breakForm makes the first text of an input too long, or a number too large; grant tokens, which are secrets, go with it.
func breakForm(in reflect.Value) {
	if f := in.FieldByName("GrantTokens"); f.IsValid() {
		f.Set(reflect.ValueOf([]string{hidden}))
	}
	for _, name := range []string{"KeyId", "TargetKeyId", "DestinationKeyId", "AliasName", "GrantId", "RetiringPrincipal", "Marker"} {
		if f := in.FieldByName(name); f.IsValid() {
			f.Set(reflect.ValueOf(ptr("")))
			return
		}
	}
	for _, name := range []string{"NumberOfBytes", "Limit", "MaxResults"} {
		if f := in.FieldByName(name); f.IsValid() {
			f.Set(reflect.ValueOf(ptrTo(int32(-1))))
			return
		}
	}
	in.FieldByName("KeySpec").SetString("none")
}

var replaced = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`[0-9a-f]{64}`), "GRANT"},
	{regexp.MustCompile(`"[A-Z][a-z]{2} \d+, \d{4}, \d+:\d\d:\d\d [AP]M"`), `"TIME"`},
}

// ofToken is what calls end with whose token fails.
var ofToken = regexp.MustCompile(`"errorCode":"(DependencyTimeout|KeyUnavailable|KMSInternal)Exception"`)

// recordsOf calls an operation, and returns the records of the call: the intent, if there is one, and the outcome.
func (r *recordRig) recordsOf(t *testing.T, c *Client, op string, fill func(reflect.Value)) (lines []string) {
	r.log.intents, r.log.records = nil, nil
	err := invoke(t, t.Context(), c, op, fill)
	for _, events := range []*[]audit.Event{&r.log.intents, &r.log.records} { // without those of tidying up after it
		*events = slices.DeleteFunc(*events, func(e audit.Event) bool { return e.Service != rowOf(op).Service })
	}
	require.Len(t, r.log.records, 1, op)
	require.Equal(t, err, r.log.records[0].Err, op)
	require.Equal(t, len(r.log.intents) > 0, r.log.records[0].Intended, op)
	for _, e := range slices.Concat(r.log.intents, r.log.records) {
		line := string(audit.AppendRecord(nil, &e, time.Unix(1, 0)))
		require.NotContains(t, line, hidden, op)
		require.NotContains(t, line, base64.StdEncoding.EncodeToString([]byte(hidden)), op)
		lines = append(lines, line)
	}
	return lines
}

// The record of each operation is that of section "CloudTrail record": who, what, on which key, how it ended, and the members of the
// request that may be shown. What all of them have in common is held here, and the rest is in testdata/records.txt. An operation that
// is new has no lines there, and fails.
func TestRecordsOfTheOperations(t *testing.T) {
	r := newRecordRig(t)
	got := recordsHead
	for _, name := range operations() {
		op := rowOf(name)
		for _, way := range []string{"allowed", "denied", "bad form", "throttled", "dry run", "token error"} {
			r.unlimited()
			c, fill := r.ways(t, op)[way]()
			if c == nil {
				continue
			}
			if way != "throttled" {
				r.unlimited()
			}
			lines := r.recordsOf(t, c, name, fill)
			r.module.Do("clear")
			if way == "token error" && !ofToken.MatchString(lines[len(lines)-1]) {
				lines = nil // it does not use the token
			}
			for i, line := range lines {
				kind := way
				if i < len(lines)-1 {
					kind += ", intent"
				}
				got += name + " (" + kind + "): " + own(t, op, line) + "\n"
			}
			r.unlimited()
			_, _ = r.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: ptr("alias/minimal")})
		}
	}
	if *recordsFlag {
		require.NoError(t, os.WriteFile(recordsFile, []byte(got), 0o644))
	}
	want, err := os.ReadFile(recordsFile)
	require.NoError(t, err)
	require.Equal(t, strings.Split(string(want), "\n"), strings.Split(got, "\n"))
}

// own checks what the records of all operations have in common, and returns the rest.
func own(t *testing.T, op *ops.Operation, line string) string {
	t.Helper()
	var record map[string]any
	require.NoError(t, json.Unmarshal([]byte(line), &record), line)
	for name, want := range map[string]any{
		"eventVersion": "1.08", "eventTime": "1970-01-01T00:00:01Z", "eventSource": op.Service + ".amazonaws.com", "eventName": op.Name,
		"awsRegion": testRegion, "readOnly": op.Read, "managementEvent": true, "eventCategory": "Management",
	} {
		assert.Equal(t, want, record[name], "%s of %s", name, line)
		delete(record, name)
	}
	assert.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, record["eventID"])
	delete(record, "eventID")
	if who := record["userIdentity"].(map[string]any); who["type"] == "Root" {
		assert.Equal(t, map[string]any{"type": "Root", "principalId": testAccount, "arn": "arn:aws:iam::" + testAccount + ":root",
			"accountId": testAccount, "accessKeyId": "AKIATESTTESTTESTTEST"}, who)
		assert.Equal(t, [4]any{"192.0.2.7", "tester/1", "the-request", testAccount},
			[4]any{record["sourceIPAddress"], record["userAgent"], record["requestID"], record["recipientAccountId"]})
		for _, name := range []string{"userIdentity", "sourceIPAddress", "userAgent", "requestID", "recipientAccountId"} {
			delete(record, name)
		}
	}
	if op.Read {
		require.Nil(t, record["responseElements"], line)
	}
	rest, err := json.Marshal(record)
	require.NoError(t, err)
	for _, r := range replaced {
		rest = r.pattern.ReplaceAll(rest, []byte(r.with))
	}
	return string(rest)
}

// Of every operation of every service a record can show no bytes, whatever its row says, and shows each member that its row names.
func TestRowsRecordWhatThereIs(t *testing.T) {
	for op := range ops.All {
		if op.Service != kmsService || op.Answer == ops.ActionOnly {
			continue
		}
		method, _ := reflect.TypeFor[*kms.Client]().MethodByName(op.Name)
		for i, list := range [][]string{op.Record, op.Respond} {
			of := method.Type.In(2).Elem()
			if i == 1 {
				of = method.Type.Out(0).Elem()
			}
			for _, member := range list {
				field, ok := of.FieldByName(strings.ToUpper(member[:1]) + member[1:])
				if assert.True(t, ok, "%s has no %s", of, member) {
					assert.NotEqual(t, reflect.TypeFor[[]byte](), field.Type, "%s.%s", of, member)
				}
			}
		}
		switch op.Name {
		case "ListKeys", "ListAliases":
		default:
			assert.NotEmpty(t, op.Record, op.Name)
		}
	}
}

// Grant tokens are in no record. That of a grant which was retired by one says which grant it was.
func TestRecordsOfGrantsHaveNoTokens(t *testing.T) {
	r := newRecordRig(t)
	key := mustCreate(t, r.Client, types.KeySpecHmac256)
	in := grantInput(key.KeyId, r.Client, opMAC)
	other := *mustGrant(t, r.Client, in).GrantToken
	in.GrantTokens = []string{other}
	r.log.intents, r.log.records = nil, nil
	made := mustGrant(t, r.Client, in)
	require.NoError(t, retire(r.Client, kms.RetireGrantInput{GrantToken: made.GrantToken}))
	require.Error(t, retire(r.Client, kms.RetireGrantInput{GrantToken: made.GrantToken}))
	require.Len(t, r.log.intents, 2)
	require.Len(t, r.log.records, 3)
	for i, e := range slices.Concat(r.log.intents, r.log.records) {
		line := string(audit.AppendRecord(nil, &e, time.Unix(1, 0)))
		require.NotContains(t, line, other)
		require.NotContains(t, line, *made.GrantToken)
		if i == 1 || i == 3 { // the intent and the end of RetireGrant
			require.Contains(t, line, `"grantId":"`+*made.GrantId+`"`)
			require.Contains(t, line, *key.Arn)
		}
	}
}
