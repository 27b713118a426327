package pkcs11kms

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	cttypes "github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
)

// newSearched is a client whose audit log is in files.
func newSearched(t *testing.T, change func(*testConfig)) (*Client, string) {
	dir := filepath.Join(t.TempDir(), "audit")
	log, err := audit.Open(dir, audit.Options{})
	require.NoError(t, err)
	cfg := newConfig(t)
	cfg.Audit = log
	if change != nil {
		change(&cfg)
	}
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	return openClient(t, cfg), dir
}

func lookedUp(key cttypes.LookupAttributeKey, value string) *cloudtrail.LookupEventsInput {
	return &cloudtrail.LookupEventsInput{LookupAttributes: []cttypes.LookupAttribute{{AttributeKey: key, AttributeValue: &value}}}
}

// A use of a key is found by each of the service's attributes, as CloudTrail shows it.
func TestLookupEvents(t *testing.T) {
	c, _ := newSearched(t, nil)
	key := mustCreate(t, c, types.KeySpecHmac256)
	alice := as(t, c, userName("alice"), allow("*", "kms:GenerateMac", "kms:CreateAlias"))
	alice = alice.As(alice.caller.From(Connection{RequestID: "the-request", AccessKeyID: "AKIATESTTESTTESTTEST", UserAgent: "tester"}))
	_, err := generate(t.Context(), alice, key.KeyId, []byte("message"))
	require.NoError(t, err)

	out, err := c.LookupEvents(t.Context(), lookedUp(cttypes.LookupAttributeKeyUsername, "alice"))
	require.NoError(t, err)
	require.Len(t, out.Events, 1)
	require.Nil(t, out.NextToken)
	got := out.Events[0]
	var record map[string]any
	require.NoError(t, json.Unmarshal([]byte(*got.CloudTrailEvent), &record))
	assert.Equal(t, []any{record["eventID"], "GenerateMac", "kms.amazonaws.com", "true", "AKIATESTTESTTESTTEST", "alice"},
		[]any{*got.EventId, *got.EventName, *got.EventSource, *got.ReadOnly, *got.AccessKeyId, *got.Username})
	assert.Equal(t, "the-request", record["requestID"])
	assert.WithinDuration(t, time.Now(), *got.EventTime, time.Minute)
	assert.Equal(t, []cttypes.Resource{{ResourceName: key.Arn, ResourceType: aws.String("AWS::KMS::Key")}}, got.Resources)

	for attribute, value := range map[cttypes.LookupAttributeKey]string{
		cttypes.LookupAttributeKeyEventId:      *got.EventId,
		cttypes.LookupAttributeKeyEventName:    "GenerateMac",
		cttypes.LookupAttributeKeyReadOnly:     "true",
		cttypes.LookupAttributeKeyUsername:     "alice",
		cttypes.LookupAttributeKeyResourceType: "AWS::KMS::Key",
		cttypes.LookupAttributeKeyResourceName: *key.KeyId,
		cttypes.LookupAttributeKeyEventSource:  "kms.amazonaws.com",
		cttypes.LookupAttributeKeyAccessKeyId:  "AKIATESTTESTTESTTEST",
	} {
		for right, value := range map[bool]string{true: value, false: value + "x"} {
			out, err := c.LookupEvents(t.Context(), lookedUp(attribute, value))
			if attribute == cttypes.LookupAttributeKeyReadOnly && !right {
				requireCode(t, err, "InvalidLookupAttributesException")
				continue
			}
			require.NoError(t, err)
			found := false
			for _, e := range out.Events {
				found = found || *e.EventId == *got.EventId
			}
			assert.Equal(t, right, found, "%s %s", attribute, value)
		}
	}
	out, err = c.LookupEvents(t.Context(), lookedUp(cttypes.LookupAttributeKeyResourceName, *key.Arn))
	require.NoError(t, err)
	require.Equal(t, "GenerateMac", *out.Events[0].EventName)
	require.Equal(t, "CreateKey", *out.Events[1].EventName)
	require.Len(t, out.Events, 2, "and no intent")
	out, err = c.LookupEvents(t.Context(), lookedUp(cttypes.LookupAttributeKeyEventName, "LookupEvents"))
	require.NoError(t, err)
	require.NotEmpty(t, out.Events, "it is a call like others")
	require.Equal(t, "cloudtrail.amazonaws.com", *out.Events[0].EventSource)
	require.Contains(t, *out.Events[0].CloudTrailEvent,
		`"requestParameters":{"lookupAttributes":[{"attributeKey":"ResourceName","attributeValue":"`+*key.Arn+`"}]}`)
}

// Pages follow each other without a gap, whatever is recorded meanwhile and wherever a file ends. A token is good for its parameters only.
func TestPagesOfLookupEvents(t *testing.T) {
	c, _ := newSearched(t, nil)
	key := mustCreate(t, c, types.KeySpecHmac256)
	other := mustCreate(t, c, types.KeySpecHmac256)
	var want []string
	for i := range 70 {
		text := fmt.Sprint("tester/", i)
		_, err := generate(t.Context(), c.As(c.caller.From(Connection{UserAgent: text})), key.KeyId, []byte("message"))
		require.NoError(t, err)
		want = append([]string{text}, want...)
		if i == 30 {
			c.bridge.cfg.Audit.(*audit.Log).Rotate()
		}
	}
	in := lookedUp(cttypes.LookupAttributeKeyResourceName, *key.Arn)
	var got []string
	for pages := cloudtrail.NewLookupEventsPaginator(c, in); pages.HasMorePages(); {
		out, err := pages.NextPage(t.Context())
		require.NoError(t, err)
		for _, e := range out.Events {
			var record struct{ EventName, UserAgent string }
			require.NoError(t, json.Unmarshal([]byte(*e.CloudTrailEvent), &record))
			if record.EventName == "GenerateMac" {
				got = append(got, record.UserAgent)
			}
		}
		_, err = generate(t.Context(), c, key.KeyId, []byte("message"))
		require.NoError(t, err)
	}
	require.Equal(t, want, got)

	in.MaxResults = aws.Int32(3)
	first, err := c.LookupEvents(t.Context(), in)
	require.NoError(t, err)
	require.Len(t, first.Events, 3)
	for what, change := range map[string]func(*cloudtrail.LookupEventsInput){
		"another key": func(in *cloudtrail.LookupEventsInput) { in.LookupAttributes[0].AttributeValue = other.Arn },
		"a time":      func(in *cloudtrail.LookupEventsInput) { in.EndTime = aws.Time(time.Now()) },
		"nothing":     func(in *cloudtrail.LookupEventsInput) { in.LookupAttributes = nil },
		"damage":      func(in *cloudtrail.LookupEventsInput) { in.NextToken = aws.String((*in.NextToken)[1:]) },
		"a text":      func(in *cloudtrail.LookupEventsInput) { in.NextToken = aws.String("token") },
	} {
		in := lookedUp(cttypes.LookupAttributeKeyResourceName, *key.Arn)
		in.NextToken = first.NextToken
		change(in)
		_, err := c.LookupEvents(t.Context(), in)
		requireCode(t, err, "InvalidNextTokenException")
		assert.Error(t, err, what)
	}
}

// What is wrong with a request is told by the errors of the model, and recorded.
func TestLookupEventsThatAreRefused(t *testing.T) {
	c, dir := newSearched(t, nil)
	now := time.Now()
	attribute := cttypes.LookupAttribute{AttributeKey: cttypes.LookupAttributeKeyEventName, AttributeValue: aws.String("Sign")}
	for code, inputs := range map[string][]*cloudtrail.LookupEventsInput{
		"InvalidMaxResultsException": {{MaxResults: aws.Int32(0)}, {MaxResults: aws.Int32(51)}},
		"InvalidTimeRangeException":  {{StartTime: &now, EndTime: aws.Time(now.Add(-time.Second))}},
		"InvalidLookupAttributesException": {{LookupAttributes: []cttypes.LookupAttribute{attribute, attribute}},
			lookedUp("Colour", "red"), lookedUp("", "red"), lookedUp(cttypes.LookupAttributeKeyEventName, "")},
		"InvalidEventCategoryException": {{EventCategory: "data"}},
		"InvalidNextTokenException":     {{NextToken: aws.String("")}},
	} {
		for _, in := range inputs {
			_, err := c.LookupEvents(t.Context(), in)
			requireCode(t, err, code)
		}
		lines, err := audit.Search(t.Context(), dir, audit.Query{EventName: "LookupEvents", ErrorCode: code})
		require.NoError(t, err)
		require.Len(t, lines, len(inputs))
	}
	out, err := c.LookupEvents(t.Context(), &cloudtrail.LookupEventsInput{EventCategory: cttypes.EventCategoryInsight})
	require.NoError(t, err)
	require.Empty(t, out.Events)
	_, err = newClient(t).LookupEvents(t.Context(), nil)
	requireAPIError(t, err, "UnsupportedOperationException", "The audit log of this service cannot be searched: it is not kept in files.")
}

// Who may look up events is decided by the caller's own policies; each sees those of its account alone.
func TestWhoMayLookUpEvents(t *testing.T) {
	c, _ := newSearched(t, func(cfg *testConfig) { cfg.Quotas = Quotas{} })
	bob := as(t, c, userName("bob"), allow("*", "kms:*"))
	_, err := bob.LookupEvents(t.Context(), nil)
	requireAPIError(t, err, "AccessDeniedException", "User: arn:aws:iam::"+testAccount+":user/bob is not authorized to perform: "+
		"cloudtrail:LookupEvents on resource: * because no identity-based policy allows the cloudtrail:LookupEvents action")
	requireCode(t, func() error { _, err := c.As(Caller{}).LookupEvents(t.Context(), nil); return err }(), "AccessDeniedException")
	auditor := as(t, c, userName("auditor"), allow("*", "cloudtrail:LookupEvents"))
	out, err := auditor.LookupEvents(t.Context(), lookedUp(cttypes.LookupAttributeKeyUsername, "bob"))
	require.NoError(t, err)
	require.Len(t, out.Events, 1)
	require.Contains(t, *out.Events[0].CloudTrailEvent, `"errorCode":"AccessDenied"`)

	stranger := audit.Event{Service: "kms", Operation: "Sign", Region: testRegion, Account: "444455556666",
		Principal: "arn:aws:iam::444455556666:user/eve"}
	require.NoError(t, c.bridge.cfg.Audit.Record(t.Context(), stranger))
	stranger.Account, stranger.Region = testAccount, "eu-central-1"
	require.NoError(t, c.bridge.cfg.Audit.Record(t.Context(), stranger))
	out, err = auditor.LookupEvents(t.Context(), lookedUp(cttypes.LookupAttributeKeyUsername, "eve"))
	require.NoError(t, err)
	require.Empty(t, out.Events, "of another account, and of another region")
	throttled := false
	for range 10 {
		_, err = auditor.LookupEvents(t.Context(), nil)
		throttled = throttled || err != nil && err.Error() == apierr.RateExceeded().Error()
	}
	require.True(t, throttled, "more than two a second")
}

// What is older than 90 days is not shown, and the times of a request bound what is.
func TestTimesOfLookupEvents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	var clock atomic.Pointer[time.Time] // which the goroutine that seals reads too
	clock.Store(aws.Time(now.Add(-91 * 24 * time.Hour)))
	log, err := audit.Open(dir, audit.Options{Now: func() time.Time { return *clock.Load() }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	cfg := newConfig(t)
	cfg.Audit, cfg.Now = log, func() time.Time { return now }
	c := openClient(t, cfg)
	record := func(operation string) {
		_, _ = c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String(operation)})
	}
	record("alias/old")
	clock.Store(aws.Time(now.Add(-89 * 24 * time.Hour)))
	record("alias/first")
	last := now.Add(-time.Hour)
	clock.Store(&last)
	record("alias/second")
	names := func(in *cloudtrail.LookupEventsInput) (names []string) {
		in.LookupAttributes = lookedUp(cttypes.LookupAttributeKeyEventName, "DescribeKey").LookupAttributes
		out, err := c.LookupEvents(t.Context(), in)
		require.NoError(t, err)
		for _, e := range out.Events {
			var record struct{ RequestParameters struct{ KeyID string } }
			require.NoError(t, json.Unmarshal([]byte(*e.CloudTrailEvent), &record))
			names = append(names, record.RequestParameters.KeyID)
		}
		return names
	}
	require.Equal(t, []string{"alias/second", "alias/first"}, names(&cloudtrail.LookupEventsInput{}))
	long := now.Add(-1e4 * time.Hour)
	require.Equal(t, []string{"alias/second", "alias/first"}, names(&cloudtrail.LookupEventsInput{StartTime: &long}))
	require.Equal(t, []string{"alias/second"}, names(&cloudtrail.LookupEventsInput{StartTime: &last}))
	require.Equal(t, []string{"alias/second", "alias/first"}, names(&cloudtrail.LookupEventsInput{EndTime: &last}))
	require.Equal(t, []string{"alias/first"}, names(&cloudtrail.LookupEventsInput{EndTime: aws.Time(last.Add(-time.Second))}))
}
