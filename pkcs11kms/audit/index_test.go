package audit

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	indexedKeys = 300
	someKey     = "key-7"
)

// keysARN is that of a key by its number.
func keysARN(n int) string { return fmt.Sprintf("arn:aws:kms:eu-west-1:111122223333:key/key-%d", n) }

// someEvent is a record of many kinds, by its number.
func someEvent(n int) Event {
	key := n / 10 % indexedKeys // each in a few parts of a file
	e := Event{Service: "kms", Operation: "GenerateMac", ReadOnly: true, Region: "eu-west-1", RequestID: fmt.Sprint("r-", n),
		Account: "111122223333", Principal: fmt.Sprintf("arn:aws:iam::111122223333:user/team/u%d", n/20%90), PrincipalID: "AIDA",
		Origin: Origin{Remote: true, AccessKeyID: fmt.Sprintf("AKIA%d", n/20%90), UserAgent: NewID()},
		Input:  &input{KeyId: ptr(fmt.Sprintf("key-%d", key))}, Recorded: every[:1], Resource: keysARN(key)}
	switch n % 97 {
	case 0:
		e.Operation, e.ReadOnly, e.Alias = "CreateAlias", false, fmt.Sprintf("arn:aws:kms:eu-west-1:111122223333:alias/a%d", n%7)
	case 1:
		e.Err = &smithy.GenericAPIError{Code: "AccessDeniedException", Message: `"eventName":"Sign"`}
	case 2:
		e.Resource, e.Err = "", &smithy.GenericAPIError{Code: "NotFoundException"}
		e.Input = &input{KeyId: ptr(`a "<&> \ key` + "\n\u2028")}
	case 3:
		e.Principal = "arn:aws:iam::111122223333:root"
	}
	return e
}

// newIndexed records events in a directory, of two chains with some closed files each.
func newIndexed(t testing.TB, records int, event func(n int) Event) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "audit")
	var second atomic.Int64 // of the fifty minutes that all takes
	began, step := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), max(1, int64(12_000/records))
	now := func() time.Time { return began.Add(time.Duration(second.Load()) * time.Second) }
	logs := make([]*Log, 2)
	for i := range logs {
		l, err := Open(dir, Options{Fsync: FsyncOff, Now: now})
		require.NoError(t, err)
		logs[i] = l
	}
	for n := range records {
		l := logs[n/500%2]
		require.NoError(t, l.Record(t.Context(), event(n)))
		if n%4 == 0 {
			second.Add(step)
		}
		if n%(records/6) == records/6-1 {
			l.Rotate()
		}
	}
	for _, l := range logs {
		require.NoError(t, l.Close()) // and all that is closed is compressed
	}
	return dir
}

// paths are those of a directory's files of a kind.
func paths(t testing.TB, dir, suffix string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	require.NoError(t, err)
	require.NotEmpty(t, found, suffix)
	return found
}

var indexedQueries = map[string]Query{
	"all":        {},
	"newest":     {Max: 700},
	"key":        {KeyID: someKey},
	"newest key": {KeyID: keysARN(8), Max: 11},
	"alias":      {KeyID: "alias/a3"},
	"odd key":    {KeyID: `a "<&> \ key` + "\n\u2028"},
	"name":       {EventName: "CreateAlias"},
	"no name":    {EventName: "Sign"},
	"user":       {Principal: "u11"},
	"ARN":        {Principal: "arn:aws:iam::111122223333:user/team/u12"},
	"other path": {Principal: "arn:aws:iam::111122223333:user/u12"},
	"root":       {Principal: "arn:aws:iam::111122223333:root", Max: 5},
	"access key": {Principal: "AKIA13"},
	"error":      {ErrorCode: "NotFoundException"},
	"denied":     {ErrorCode: "AccessDeniedException"},
	"any error":  {ErrorCode: "any", Max: 30},
	"times":      {Since: time.Date(2026, 1, 2, 3, 30, 0, 0, time.UTC), Until: time.Date(2026, 1, 2, 3, 40, 0, 0, time.UTC)},
	"key, times": {KeyID: "key-20", Since: time.Date(2026, 1, 2, 3, 30, 0, 0, time.UTC)},
	"event":      {EventSource: "kms.amazonaws.com", EventName: "CreateAlias", ReadOnly: "false", CallsOnly: true},
	"username":   {Username: "u14", Account: "111122223333", Region: "eu-west-1"},
	"root's":     {Username: "root"},
	"own key":    {AccessKeyID: "AKIA15"},
	"type":       {ResourceType: "AWS::KMS::Alias", Max: 40},
	"resource":   {ResourceName: keysARN(9)},
	"its id":     {ResourceName: "key-9", ResourceType: "AWS::KMS::Key"},
	"page 2":     {KeyID: someKey, After: &Place{time.Date(2026, 1, 2, 3, 30, 0, 0, time.UTC), 1, 900}, Max: 7},
	"several":    {KeyID: "key-0", EventName: "GenerateMac", ErrorCode: "AccessDenied"},
}

// expected are the ids of the requests that the queries find, told by reading everything.
func expected(t testing.TB, dir string) map[string][]string {
	t.Helper()
	first, err := os.ReadFile(lockPath(dir, 1))
	require.NoError(t, err)
	all := map[string][]Found{}
	require.NoError(t, Scan(dir, func(line []byte) error {
		number := 2
		if bytes.Contains(line, bytes.TrimSpace(first)) {
			number = 1
		}
		var f Found
		f.Line = bytes.Clone(line)
		require.NoError(t, json.Unmarshal(line, &f.Summary))
		link, err := linkOf(line)
		require.NoError(t, err)
		f.Place = Place{f.EventTime, number, link.seq}
		for what, q := range indexedQueries {
			if q.matches(&f.Summary) && (q.After == nil || newestFirst(*q.After, f.Place) < 0) {
				all[what] = append(all[what], f)
			}
		}
		return nil
	}))
	ids := map[string][]string{}
	for what, q := range indexedQueries {
		want := all[what]
		slices.SortFunc(want, func(x, y Found) int { return newestFirst(x.Place, y.Place) })
		if q.Max > 0 && len(want) > q.Max {
			want = want[:q.Max]
		}
		var lines [][]byte
		for _, f := range slices.Backward(want) {
			lines = append(lines, f.Line)
		}
		ids[what] = idsOf(lines)
	}
	return ids
}

// checkQueries holds that searches find what is expected.
func checkQueries(t testing.TB, dir string, want map[string][]string, name string, only ...string) {
	t.Helper()
	for what, q := range indexedQueries {
		if len(only) > 0 && !slices.Contains(only, what) {
			continue
		}
		got, err := Search(t.Context(), dir, q)
		require.NoError(t, err, name)
		require.Equal(t, want[what], idsOf(got), "%s: %s", name, what)
		require.Equal(t, what != "no name" && what != "other path", len(got) > 0, "%s: %s", name, what)
	}
}

// A search finds the same whatever has become of the indexes, and leaves good ones behind. The files are what they are without indexes.
func TestSearchWithIndexes(t *testing.T) {
	dir := newIndexed(t, 6_000, someEvent)
	all := paths(t, dir, indexSuffix)
	require.Len(t, all, len(paths(t, dir, packedSuffix)))
	want := expected(t, dir)
	checkQueries(t, dir, want, "as packed")
	mustVerify(t, dir)
	good := map[string][]byte{}
	for _, path := range all {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		good[path] = text
		packed, err := os.Stat(strings.TrimSuffix(path, indexSuffix) + plainSuffix + packedSuffix)
		require.NoError(t, err)
		require.LessOrEqual(t, int64(len(text)), packed.Size()/10)
	}
	sumOf := func(text []byte) hash { return hash(text[len(indexMagic):][:32]) }
	sizeOf := func(text []byte) int64 { r := indexReader{b: text[len(indexMagic)+32:]}; return int64(r.unsigned()) }
	nothing := newIndexer().filterOf(1)
	for name, damage := range map[string]func(text []byte) []byte{
		"gone":          func([]byte) []byte { return nil },
		"empty":         func([]byte) []byte { return []byte{} },
		"cut":           func(text []byte) []byte { return text[:rand.IntN(len(text))] },
		"a byte":        func(text []byte) []byte { text[rand.IntN(len(text))]++; return text },
		"a term":        func(text []byte) []byte { text[len(text)-9] ^= 0xff; return text },
		"any bytes":     func(text []byte) []byte { return text[:copy(text, bytes.Repeat([]byte{0xff}, len(text)))] },
		"another's":     func([]byte) []byte { return bytes.Clone(good[all[0]]) },
		"a larger file": func(text []byte) []byte { return index{{bytes: 1 << 40, filter: nothing}}.encode(1<<40, sumOf(text)) },
		"of that size": func(text []byte) []byte {
			return index{{bytes: sizeOf(text), filter: nothing}}.encode(sizeOf(text), hash{})
		},
		"other parts": func(text []byte) []byte {
			return index{{bytes: 100, newest: 1 << 40, filter: anyTerm},
				{bytes: sizeOf(text) - 100, newest: 1 << 40, filter: anyTerm}}.encode(sizeOf(text), sumOf(text))
		},
	} {
		for path, text := range good {
			if text = damage(bytes.Clone(text)); text == nil {
				require.NoError(t, os.Remove(path))
				continue
			}
			require.NoError(t, os.WriteFile(path, text, 0o600))
		}
		checkQueries(t, dir, want, name, "newest key", "user", "key, times") // the first makes the indexes anew
		for path, was := range good {
			text, err := os.ReadFile(path)
			require.NoError(t, err, name)
			require.Equal(t, was, text, name)
		}
	}
}

// A page ends with the newer of two records of one second, which is that of the later chain, also where others of the file of the earlier
// chain are newer than both.
func TestAPageThatEndsWithinASecond(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var logs []*Log
	for range 2 {
		l, err := Open(dir, Options{Fsync: FsyncOff, Now: func() time.Time { return now }})
		require.NoError(t, err)
		logs = append(logs, l)
	}
	const seconds = 500
	record := func(l *Log, id string) {
		e := someEvent(0)
		e.RequestID = id
		require.NoError(t, l.Record(t.Context(), e))
	}
	for n := range seconds {
		now = now.Add(time.Second)
		record(logs[0], fmt.Sprint("first-", n))
		if n < seconds-3 {
			record(logs[1], fmt.Sprint("second-", n))
		}
	}
	for _, l := range logs {
		l.Rotate()
		require.NoError(t, l.Close())
	}
	got, err := Search(t.Context(), dir, Query{Max: 4})
	require.NoError(t, err)
	require.Equal(t, []string{"second-496", "first-497", "first-498", "first-499"}, idsOf(got))
}

// What is read of a file that has an index are the parts that may have what is asked for.
func TestASearchReadsLittle(t *testing.T) {
	dir := newIndexed(t, 12_000, someEvent)
	q := Query{KeyID: "key-250"}
	parts, err := partsOf(t.Context(), dir, q)
	require.NoError(t, err)
	every, err := partsOf(t.Context(), dir, Query{})
	require.NoError(t, err)
	require.Less(t, len(parts), len(every)/2)
	want, err := Search(t.Context(), dir, q)
	require.NoError(t, err)
	for _, path := range paths(t, dir, packedSuffix) { // the others are destroyed
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, p := range every {
			if p.file.name() == path && !slices.ContainsFunc(parts, func(o part) bool { return o.file == p.file && o.offset == p.offset }) {
				clear(text[max(p.offset, ends):max(ends, min(p.offset+p.bytes, int64(len(text)-ends)))])
			}
		}
		require.NoError(t, os.WriteFile(path, text, 0o600))
	}
	got, err := Search(t.Context(), dir, q)
	require.NoError(t, err)
	require.Equal(t, idsOf(want), idsOf(got))
	_, err = Search(t.Context(), dir, Query{})
	require.ErrorContains(t, err, ".jsonl.gz", "what cannot be read is told")
}

// Files that were packed otherwise, as one whole or in parts that are no whole lines, are searched and verified like others.
func TestFilesPackedOtherwise(t *testing.T) {
	dir := newIndexed(t, 12_000, someEvent)
	want := expected(t, dir)
	for name, size := range map[string]int{"as one": 1 << 30, "in pieces": 100_001} {
		for _, path := range paths(t, dir, packedSuffix) {
			text := unpack(t, path)
			var packed bytes.Buffer
			for piece := range slices.Chunk(text, size) {
				z := gzip.NewWriter(&packed)
				_, err := z.Write(piece)
				require.NoError(t, err)
				require.NoError(t, z.Close())
			}
			require.NoError(t, os.WriteFile(path, packed.Bytes(), 0o600))
		}
		told, of := int64(0), int64(0)
		_, err := Search(t.Context(), dir, Query{KeyID: someKey, Progress: func(read, all int64) {
			require.GreaterOrEqual(t, read, told)
			told, of = read, all
		}})
		require.NoError(t, err)
		require.Positive(t, of)
		require.Equal(t, of, told, "all was read for the new indexes")
		checkQueries(t, dir, want, name)
		mustVerify(t, dir)
	}
}

func unpack(t testing.TB, path string) []byte {
	t.Helper()
	packed, err := os.ReadFile(path)
	require.NoError(t, err)
	z, err := gzip.NewReader(bytes.NewReader(packed))
	require.NoError(t, err)
	text, err := io.ReadAll(z)
	require.NoError(t, err)
	return text
}

// An index has at most a tenth of its file's size, also where no two records have anything in common.
func TestTheSizeOfIndexes(t *testing.T) {
	dir := newIndexed(t, 12_000, func(n int) Event {
		e := someEvent(n)
		e.Principal, e.Origin.AccessKeyID, e.Resource = "arn:aws:iam::1:user/"+NewID(), NewID(), "arn:aws:kms:eu-west-1:1:key/"+NewID()
		e.Alias, e.Input = "arn:aws:kms:eu-west-1:1:alias/"+NewID(), &input{KeyId: ptr(NewID())}
		return e
	})
	for _, path := range paths(t, dir, indexSuffix) {
		x, err := os.Stat(path)
		require.NoError(t, err)
		packed, err := os.Stat(strings.TrimSuffix(path, indexSuffix) + plainSuffix + packedSuffix)
		require.NoError(t, err)
		assert.LessOrEqual(t, x.Size(), packed.Size()/10)
	}
}

// An index whose file was moved away goes with the next process that writes to the chain, and a search without the right to make indexes
// does without.
func TestIndexesOfFilesThatHaveGone(t *testing.T) {
	dir := newIndexed(t, 12_000, someEvent)
	moved := paths(t, dir, packedSuffix)[0]
	require.NoError(t, os.Rename(moved, filepath.Join(t.TempDir(), "moved")))
	orphan := strings.TrimSuffix(moved, plainSuffix+packedSuffix) + indexSuffix
	draft := orphan + ".1.tmp"
	require.NoError(t, os.WriteFile(draft, nil, 0o600))
	_, err := Search(t.Context(), dir, Query{KeyID: someKey})
	require.NoError(t, err)
	require.FileExists(t, orphan)
	kept := paths(t, dir, indexSuffix)[1:]
	mustOpen(t, dir, Options{})
	mustOpen(t, dir, Options{}) // both chains
	require.NoFileExists(t, orphan)
	require.FileExists(t, draft, "which somebody may be writing")
	require.Equal(t, kept, paths(t, dir, indexSuffix))
	old := time.Now().Add(-2 * time.Hour)
	require.NoError(t, os.Chtimes(draft, old, old))
	require.NoError(t, sweepIndexes(dir, 1))
	require.NoError(t, sweepIndexes(dir, 2))
	require.NoFileExists(t, draft)

	require.NoError(t, os.Remove(kept[0]))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Search(ctx, dir, Query{KeyID: someKey})
	require.ErrorIs(t, err, context.Canceled)
}

// Bytes that were found as the index of a file are read without a panic, and are its index or none.
func FuzzIndex(f *testing.F) {
	x := newIndexer()
	x.line([]byte(`{"eventTime":"2026-01-02T03:04:05Z","eventName":"Sign"}`))
	x.end(1000)
	f.Add(x.parts.encode(1000, hash{})[len(indexMagic)+32:])
	f.Fuzz(func(t *testing.T, b []byte) {
		r := indexReader{b: b}
		for range 3 {
			_, _, _ = r.unsigned(), r.signed(), r.filter()
		}
		if x, err := decodeIndex(append(append([]byte(indexMagic), make([]byte, 32)...), b...), 1000, hash{}); err == nil {
			require.Equal(t, int64(1000), x[len(x)-1].offset+x[len(x)-1].bytes)
		}
	})
}
