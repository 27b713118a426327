package audit

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"
)

// idsOf are the request ids of lines.
func idsOf(lines [][]byte) (ids []string) {
	for _, line := range lines {
		_, rest, _ := strings.Cut(string(line), `"requestID":"`)
		id, _, _ := strings.Cut(rest, `"`)
		ids = append(ids, id)
	}
	return ids
}

const keyARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

func TestSearch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := func() time.Time { return now }
	first, second := mustOpen(t, dir, Options{Now: clock}), mustOpen(t, dir, Options{Now: clock})
	record := func(l *Log, id string, change func(*Event)) {
		e := Event{Service: "kms", Operation: "GenerateMac", ReadOnly: true, RequestID: id, Account: "111122223333",
			Principal: "arn:aws:iam::111122223333:user/alice", PrincipalID: "AIDA"}
		change(&e)
		require.NoError(t, l.Record(t.Context(), e))
		now = now.Add(time.Minute)
	}
	record(first, "by id", func(e *Event) { e.Input, e.Recorded, e.Resource = &input{KeyId: ptr(keyARN)}, every[:1], keyARN })
	record(second, "by alias", func(e *Event) { e.Input, e.Recorded, e.Resource = &input{KeyId: ptr("alias/a")}, every[:1], keyARN })
	record(first, "denied", func(e *Event) {
		e.Err = &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no alias/a"}
		e.Operation, e.Origin.AccessKeyID = "Sign", "AKIA1"
	})
	first.Rotate()
	record(second, "root's", func(e *Event) { e.Principal, e.Operation = "arn:aws:iam::111122223333:root", "ListKeys" })
	for name, c := range map[string]struct {
		q    Query
		want []string
	}{
		"all":         {Query{}, []string{"by id", "by alias", "denied", "root's"}},
		"newest":      {Query{Max: 2}, []string{"denied", "root's"}},
		"key id":      {Query{KeyID: "1234abcd-12ab-34cd-56ef-1234567890ab"}, []string{"by id", "by alias"}},
		"key ARN":     {Query{KeyID: keyARN}, []string{"by id", "by alias"}},
		"alias":       {Query{KeyID: "alias/a"}, []string{"by alias"}},
		"user":        {Query{Principal: "alice"}, []string{"by id", "by alias", "denied"}},
		"ARN":         {Query{Principal: "arn:aws:iam::111122223333:root"}, []string{"root's"}},
		"access key":  {Query{Principal: "AKIA1"}, []string{"denied"}},
		"name":        {Query{EventName: "Sign"}, []string{"denied"}},
		"part":        {Query{EventName: "Sig"}, nil},
		"error":       {Query{ErrorCode: "AccessDenied"}, []string{"denied"}},
		"API's error": {Query{ErrorCode: "AccessDeniedException"}, []string{"denied"}},
		"any error":   {Query{ErrorCode: "any"}, []string{"denied"}},
		"other error": {Query{ErrorCode: "NotFoundException"}, nil},
		"time": {Query{Since: time.Date(2026, 1, 2, 3, 5, 5, 0, time.UTC), Until: time.Date(2026, 1, 2, 3, 6, 5, 0, time.UTC)},
			[]string{"by alias"}},
		"both": {Query{Principal: "alice", KeyID: keyARN, Max: 1}, []string{"by alias"}},
	} {
		lines, err := Search(t.Context(), dir, c.q)
		require.NoError(t, err)
		require.Equal(t, c.want, idsOf(lines), name)
	}
}

// A tail begins with the newest records and goes on with all that come, of all chains, through rotations, each once.
func TestTail(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{})
	for i := range 3 {
		require.NoError(t, l.Record(t.Context(), use(i)))
	}
	ctx, stop := context.WithCancel(t.Context())
	got := make(chan string, 100)
	ended := make(chan error)
	go func() {
		ended <- Tail(ctx, dir, 2, true, func(line []byte) error {
			got <- idsOf([][]byte{line})[0]
			return nil
		})
	}()
	expect := func(want ...string) {
		for _, id := range want {
			require.Equal(t, id, <-got)
		}
	}
	expect("use-1", "use-2")
	require.NoError(t, l.Record(t.Context(), use(3)))
	expect("use-3")
	require.NoError(t, l.Record(t.Context(), use(4)))
	l.Rotate()
	require.NoError(t, l.Record(t.Context(), use(5)))
	l.Rotate()
	require.NoError(t, l.Record(t.Context(), use(6)))
	expect("use-4", "use-5", "use-6")
	other := mustOpen(t, dir, Options{})
	require.NoError(t, other.Record(t.Context(), use(7)))
	expect("use-7")
	require.NoError(t, l.Record(t.Context(), use(8)))
	expect("use-8")
	stop()
	require.NoError(t, <-ended)
	require.Empty(t, got)
}

// An intent whose process was killed is found, and one that has its end is not.
func TestOpenIntents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := mustOpen(t, dir, Options{Now: func() time.Time { return now }})
	for i := range 4 {
		e := intent(i)
		e.Principal, e.Resource = "arn:aws:iam::111122223333:user/alice", keyARN
		require.NoError(t, l.Intend(t.Context(), e))
		if i%2 == 0 {
			l.Rotate()
			require.NoError(t, l.Record(t.Context(), outcome(i)))
		}
		now = now.Add(time.Minute)
	}
	require.NoError(t, l.Record(t.Context(), use(9)))
	want := []OpenIntent{
		{time.Date(2026, 1, 2, 3, 5, 5, 0, time.UTC), "CreateKey", "change-1", "arn:aws:iam::111122223333:user/alice", []string{keyARN}},
		{time.Date(2026, 1, 2, 3, 7, 5, 0, time.UTC), "CreateKey", "change-3", "arn:aws:iam::111122223333:user/alice", []string{keyARN}},
	}
	open, err := OpenIntents(dir, now)
	require.NoError(t, err)
	require.Equal(t, want, open)
	open, err = OpenIntents(dir, now.Add(-time.Minute))
	require.NoError(t, err)
	require.Equal(t, want[:1], open)
}

// Uses counts calls by who, what and which key, and nothing that is no call.
func TestUses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	now := begin
	clock := func() time.Time { return now }
	first, second := mustOpen(t, dir, Options{Now: clock}), mustOpen(t, dir, Options{Now: clock})
	const alice, root = "arn:aws:iam::111122223333:user/alice", "arn:aws:iam::111122223333:root"
	record := func(l *Log, principal, operation string, err error, kind Kind) {
		require.NoError(t, l.Record(t.Context(), Event{Kind: kind, Service: "kms", Operation: operation, Principal: principal,
			Resource: keyARN, Err: err}))
		now = now.Add(time.Minute)
	}
	record(first, alice, "Sign", nil, Call)
	record(second, alice, "Sign", &smithy.GenericAPIError{Code: "DisabledException"}, Call)
	record(first, alice, "Sign", nil, StreamEnd)
	record(first, alice, "Sign", nil, Intent)
	record(first, "", "DeleteKey", nil, ServiceEvent)
	record(first, root, "Sign", nil, Call)
	record(second, alice, "Verify", nil, Call)
	at := func(minutes int) time.Time { return begin.Add(time.Duration(minutes) * time.Minute) }
	want := []Use{
		{alice, keyARN, "Sign", 2, 1, at(0), at(1)},
		{root, keyARN, "Sign", 1, 0, at(5), at(5)},
		{alice, keyARN, "Verify", 1, 0, at(6), at(6)},
	}
	uses, err := Uses(t.Context(), dir, time.Time{}, time.Time{})
	require.NoError(t, err)
	require.Equal(t, want, uses)
	uses, err = Uses(t.Context(), dir, at(1), at(6))
	require.NoError(t, err)
	require.Equal(t, []Use{want[1], {alice, keyARN, "Sign", 1, 1, at(1), at(1)}}, uses)
}
