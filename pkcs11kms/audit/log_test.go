package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/test/disk"
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
	v, err := VerifyDir(dir, heads)
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
			v, err := VerifyDir(dir, nil)
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
	v, err := VerifyDir(dir, nil)
	require.NoError(t, err)
	require.Len(t, v.Problems, 1)
	require.EqualValues(t, 3, v.Problems[0].Seq)
	require.Len(t, v.Heads, 2)
	require.EqualValues(t, 2, v.Heads[1].Seq)
}

// A file that is moved away is noticed, and does not stop the service.
func TestAFileThatVanishes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{})
	require.NoError(t, l.Record(t.Context(), use(0)))
	require.NoError(t, os.Remove(l.current.path))
	require.Eventually(t, func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.current.first == 2 }, time.Minute, time.Millisecond)
	require.NoError(t, l.Record(t.Context(), use(1)))
	require.Eventually(t, func() bool {
		found := false
		require.NoError(t, Scan(dir, func(line []byte) error {
			found = found || bytes.Contains(line, []byte(fileVanished))
			return nil
		}))
		return found
	}, time.Minute, time.Millisecond)
	require.NoError(t, l.Close())
	v, err := VerifyDir(dir, nil)
	require.NoError(t, err)
	require.Len(t, v.Problems, 1)
	require.Contains(t, v.Problems[0].Text, "it begins with record 2 by its name, where 1 was to follow")
}

// Without its directory the log refuses, until it is there again.
func TestADirectoryThatVanishes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{})
	require.NoError(t, l.Record(t.Context(), use(0)))
	require.NoError(t, os.Rename(dir, dir+".away"))
	require.Eventually(t, func() bool { return l.Record(t.Context(), use(1)) != nil }, time.Minute, time.Millisecond)
	require.ErrorIs(t, l.Health(), os.ErrNotExist)
	require.ErrorIs(t, l.Intend(t.Context(), intent(1)), os.ErrNotExist)
	require.NoError(t, os.Rename(dir+".away", dir))
	require.Eventually(t, func() bool { return l.Health() == nil }, time.Minute, time.Millisecond)
	require.NoError(t, l.Record(t.Context(), use(2)))
	require.NoError(t, l.Close())
	mustVerify(t, dir)
}

// A write that fails refuses its calls, and those that come after are recorded as if nothing had been.
func TestAWriteThatFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := mustOpen(t, dir, Options{})
	require.NoError(t, l.Record(t.Context(), use(0)))
	good := l.file
	broken, err := os.Open(l.current.path) // only for reading
	require.NoError(t, err)
	l.mu.Lock()
	l.file, l.cannot = broken, true
	l.mu.Unlock()
	require.Error(t, l.Intend(t.Context(), intent(0)))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { assert.Error(t, l.Record(t.Context(), use(1+i))) })
	}
	wg.Wait()
	require.Error(t, l.Health())
	require.Error(t, l.Intend(t.Context(), intent(1)))
	require.Zero(t, l.reserved)
	l.mu.Lock()
	l.file = good
	l.mu.Unlock()
	require.NoError(t, broken.Close())
	require.NoError(t, l.Record(t.Context(), use(20)))
	require.NoError(t, l.Health())
	require.NoError(t, l.Close())
	require.Equal(t, []string{"use-0", "use-20"}, requestIDs(t, dir))
	require.EqualValues(t, 2, mustVerify(t, dir).Records)
}

// What was begun with an intent has room for its end on a disk that is full; nothing else is begun. With room there is service again.
func TestAFullDisk(t *testing.T) {
	d, ok := disk.New(t, "4m")
	if !ok {
		t.Skip("a file system cannot be mounted here")
	}
	dir := filepath.Join(d.Dir, "audit")
	l := mustOpen(t, dir, Options{})
	require.NoError(t, l.Record(t.Context(), use(0)))
	const open = 3
	for i := range open {
		require.NoError(t, l.Intend(t.Context(), intent(i)))
	}
	filler := filepath.Join(d.Dir, "filler")
	fill(t, filler)
	n := 1
	require.Eventually(t, func() bool { // what is kept may take some
		err := l.Record(t.Context(), use(n))
		if err == nil {
			n++
			return false
		}
		return assert.ErrorIs(t, err, ErrFull)
	}, time.Minute, time.Nanosecond)
	require.ErrorIs(t, l.Intend(t.Context(), intent(9)), ErrFull)
	require.Eventually(t, func() bool { return errors.Is(l.Health(), ErrFull) }, time.Minute, time.Millisecond, "told within a second")
	require.NotEmpty(t, l.Warning())
	for i := range open {
		require.NoError(t, l.Record(t.Context(), outcome(i)), "what was done is recorded")
	}
	require.NoError(t, os.Remove(filler))
	require.Eventually(t, func() bool { return l.Health() == nil }, time.Minute, time.Millisecond)
	require.NoError(t, l.Record(t.Context(), use(n)))
	require.NoError(t, l.Close())
	require.EqualValues(t, n+1+2*open, mustVerify(t, dir).Records)
}

// fill takes all the room that there is.
func fill(t *testing.T, path string) {
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
}

const limitedDir = "PKCS11KMS_AUDIT_LIMITED"

// A process whose files have a limit rotates early, and refuses before the limit.
func TestALimitOfFiles(t *testing.T) {
	if dir := os.Getenv(limitedDir); dir != "" {
		signal.Ignore(syscall.SIGXFSZ)
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 300_000, Max: 300_000}))
		l := mustOpen(t, dir, Options{})
		for i := range 1000 {
			require.NoError(t, l.Record(t.Context(), use(i)))
		}
		require.NoError(t, l.Intend(t.Context(), intent(1)))
		require.ErrorIs(t, l.Intend(t.Context(), intent(2)), ErrFull, "both outcomes do not fit")
		require.NoError(t, l.Record(t.Context(), outcome(1)))
		require.NoError(t, l.Intend(t.Context(), intent(2)))
		require.NoError(t, l.Record(t.Context(), outcome(2)))
		return
	}
	dir := filepath.Join(t.TempDir(), "audit")
	child := exec.Command(os.Args[0], "-test.run=^TestALimitOfFiles$")
	child.Env = append(os.Environ(), limitedDir+"="+dir)
	out, err := child.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.EqualValues(t, 1004, mustVerify(t, dir).Records)
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

// Below what is to be left of the disk nothing is recorded but the ends of what was begun. Before that there is a warning.
func TestANearlyFullDisk(t *testing.T) {
	l := mustOpen(t, filepath.Join(t.TempDir(), "audit"), Options{})
	require.NoError(t, l.Intend(t.Context(), intent(1)))
	free := func(percent uint64) {
		l.free.Store(percent * 100)
		l.full.Store(percent <= 2)
	}
	for percent, want := range map[uint64]string{50: "", 21: "", 20: "has 20.0 % left", 10: "only 10.0 % left; at 2 %"} {
		free(percent)
		if want == "" {
			require.Empty(t, l.Warning())
		} else {
			require.Contains(t, l.Warning(), want)
		}
	}
	require.Eventually(t, func() bool { // the look at the disk, each second, may come in between
		free(2)
		err := l.Record(t.Context(), use(1))
		return errors.Is(err, ErrFull) && errors.Is(l.Intend(t.Context(), intent(2)), ErrFull)
	}, time.Minute, time.Millisecond)
	free(2)
	require.NoError(t, l.Record(t.Context(), outcome(1)))
	free(50)
	require.NoError(t, l.Record(t.Context(), use(2)))
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
