package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func use(n int) Event {
	return Event{Service: "kms", Operation: "GenerateMac", ReadOnly: true, RequestID: fmt.Sprint("use-", n),
		Input: &input{KeyId: ptr("k")}, Recorded: every[:1]}
}

func intent(n int) Event {
	return Event{Kind: Intent, Service: "kms", Operation: "CreateKey", RequestID: fmt.Sprint("change-", n)}
}

func outcome(n int) Event {
	e := intent(n)
	e.Kind, e.Intended = Call, true
	return e
}

func mustOpen(t testing.TB, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// mustVerify holds that the log is whole, and returns what was found.
func mustVerify(t testing.TB, dir string) *Verification {
	t.Helper()
	heads, err := Heads(dir)
	require.NoError(t, err)
	v, err := VerifyDir(dir, Known{Heads: heads})
	require.NoError(t, err)
	require.Empty(t, v.Problems)
	return v
}

// requestIDs are those of the records of a directory, in their order.
func requestIDs(t testing.TB, dir string) (ids []string) {
	t.Helper()
	require.NoError(t, Scan(dir, func(line []byte) error {
		_, rest, _ := strings.Cut(string(line), `"requestID":"`)
		id, _, _ := strings.Cut(rest, `"`)
		ids = append(ids, id)
		return nil
	}))
	return ids
}

// Records of calls at one time are all there, in one chain, and share writes.
func TestConcurrentRecords(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{RotateBytes: 20_000})
	var wg sync.WaitGroup
	const callers, each = 32, 50
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				n := c*each + i
				if n%10 == 0 {
					assert.NoError(t, l.Intend(t.Context(), intent(n)))
					assert.NoError(t, l.Record(t.Context(), outcome(n)))
					continue
				}
				assert.NoError(t, l.Record(t.Context(), use(n)))
			}
		})
	}
	wg.Wait()
	stats := l.Stats()
	require.EqualValues(t, callers*each*11/10, stats.Records)
	require.LessOrEqual(t, stats.Writes, stats.Records)
	require.NoError(t, l.Health())
	require.Zero(t, l.reserved)
	require.NoError(t, l.Close())
	v := mustVerify(t, dir)
	require.EqualValues(t, stats.Records, v.Records)
	require.Greater(t, v.Files, 1)
	require.Empty(t, v.Notes)
	seen := map[string]int{}
	for _, id := range requestIDs(t, dir) {
		seen[id]++
	}
	for n := range callers * each {
		if n%10 == 0 {
			require.Equal(t, 2, seen[fmt.Sprint("change-", n)])
		} else {
			require.Equal(t, 1, seen[fmt.Sprint("use-", n)])
		}
	}
	require.ErrorIs(t, l.Record(t.Context(), use(0)), ErrClosed)
	require.ErrorIs(t, l.Health(), ErrClosed)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	plain := 0
	for _, entry := range entries {
		info, err := entry.Info()
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode(), entry.Name())
		require.NotContains(t, entry.Name(), ".tmp")
		if strings.HasSuffix(entry.Name(), plainSuffix) {
			plain++
		}
	}
	require.Equal(t, 1, plain, "closed files are compressed")
}

// What runs one after the other shares a chain; what runs at once has one each, and no more chains come of it.
func TestChainsAreContinued(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	for i := range 20 {
		l, err := Open(dir, Options{})
		require.NoError(t, err)
		require.NoError(t, l.Record(t.Context(), use(i)))
		require.NoError(t, l.Close())
	}
	v := mustVerify(t, dir)
	require.Len(t, v.Heads, 1)
	require.EqualValues(t, 20, v.Heads[0].Seq)
	for range 2 {
		var open []*Log
		for i := range 3 {
			l, err := Open(dir, Options{})
			require.NoError(t, err)
			require.NoError(t, l.Record(t.Context(), use(i)))
			open = append(open, l)
		}
		for _, l := range open {
			require.NoError(t, l.Close())
		}
	}
	v = mustVerify(t, dir)
	require.Len(t, v.Heads, 3)
	require.EqualValues(t, 26, v.Records)
}

// A line that was half written when a process ended stays, and a record tells of it.
func TestATornRecord(t *testing.T) {
	for name, torn := range map[string]func(line []byte) []byte{
		"half":    func(line []byte) []byte { return line[:len(line)/2] },
		"a byte":  func(line []byte) []byte { return line[:1] },
		"all":     func(line []byte) []byte { return line },
		"zeros":   func(line []byte) []byte { return make([]byte, len(line)) },
		"garbage": func([]byte) []byte { return []byte(`{"x`) },
	} {
		for _, records := range []int{0, 1, 3} {
			dir := filepath.Join(t.TempDir(), "audit")
			l, err := Open(dir, Options{})
			require.NoError(t, err)
			for i := range records {
				require.NoError(t, l.Record(t.Context(), use(i)))
			}
			next := l.place
			next.seq++
			line := next.append(appendOpen(nil, ptr(use(9)), time.Now()))
			path := l.current.path
			require.NoError(t, l.Close())
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			require.NoError(t, err)
			_, err = f.Write(torn(line))
			require.NoError(t, err)
			require.NoError(t, f.Close())
			v, err := VerifyDir(dir, Known{})
			require.NoError(t, err)
			require.Empty(t, v.Problems, name)
			require.Len(t, v.Notes, 1)
			for range 2 {
				l, err = Open(dir, Options{})
				require.NoError(t, err)
				require.NoError(t, l.Record(t.Context(), use(5)))
				require.NoError(t, l.Close())
			}
			v = mustVerify(t, dir)
			require.Len(t, v.Notes, 1, "%s after %d", name, records)
			require.EqualValues(t, records+3, v.Records, name)
			require.Len(t, v.Heads, 1)
		}
	}
}

// A chain that does not end as it was written is left alone.
func TestABrokenChainIsNotContinued(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := Open(dir, Options{})
	require.NoError(t, err)
	for i := range 3 {
		require.NoError(t, l.Record(t.Context(), use(i)))
	}
	path := l.current.path
	require.NoError(t, l.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, bytes.Replace(text, []byte("use-1"), []byte("use-7"), 1), 0o600))
	for i := range 2 {
		l, err = Open(dir, Options{})
		require.NoError(t, err)
		require.NoError(t, l.Record(t.Context(), use(i)))
		require.NoError(t, l.Close())
	}
	v, err := VerifyDir(dir, Known{})
	require.NoError(t, err)
	require.Len(t, v.Problems, 1)
	require.EqualValues(t, 3, v.Problems[0].Seq)
	require.Len(t, v.Heads, 2)
	require.EqualValues(t, 2, v.Heads[1].Seq)
}

// A change waits for the disk, and a use does not; it gets there by itself.
func TestFsync(t *testing.T) {
	for mode, want := range map[Fsync][3]bool{FsyncGroup: {false, true, true}, FsyncAlways: {true, true, true}, FsyncOff: {}} {
		l := mustOpen(t, filepath.Join(t.TempDir(), "audit"), Options{Fsync: mode})
		for i, e := range []Event{use(0), intent(1), outcome(1)} {
			require.NoError(t, l.Record(t.Context(), e))
			if want[i] {
				require.GreaterOrEqual(t, l.synced.Load(), uint64(i+1), "%s %d", mode, i)
			}
		}
		if mode == FsyncOff {
			require.Zero(t, l.synced.Load())
			continue
		}
		require.NoError(t, l.Record(t.Context(), use(2)))
		require.Eventually(t, func() bool { return l.synced.Load() == 4 }, time.Minute, time.Millisecond)
	}
}

// Short lives do not keep a file from getting old.
func TestAFileOfManyProcessesGetsOld(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 5 {
		l, err := Open(dir, Options{Now: func() time.Time { return now }, RotateAge: 3 * time.Hour})
		require.NoError(t, err)
		require.NoError(t, l.Record(t.Context(), use(i)))
		require.NoError(t, l.Close())
		now = now.Add(time.Hour)
	}
	require.Equal(t, 2, mustVerify(t, dir).Files)
}

// A file that is old, or that somebody wants closed, is closed, also while nothing is recorded.
func TestRotationByAgeAndOnDemand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{RotateAge: 10 * time.Millisecond})
	require.NoError(t, l.Record(t.Context(), use(0)))
	packed := func(first uint64) func() bool {
		return func() bool {
			_, err := os.Stat(filePath(dir, 1, first) + packedSuffix)
			return err == nil
		}
	}
	require.Eventually(t, packed(1), time.Minute, time.Millisecond)
	require.NoError(t, l.Close())
	l = mustOpen(t, dir, Options{})
	require.NoError(t, l.Record(t.Context(), use(1)))
	l.Rotate()
	require.Eventually(t, packed(2), time.Minute, time.Millisecond)
	l.Rotate()
	require.NoError(t, l.Record(t.Context(), use(2)))
	require.NoError(t, l.Close())
	require.Equal(t, []string{"use-0", "use-1", "use-2"}, requestIDs(t, dir))
	require.Equal(t, 3, mustVerify(t, dir).Files, "an empty file is not closed")
}
