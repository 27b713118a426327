package audit

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/test/disk"
)

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
	v, err := VerifyDir(dir, Known{})
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

// A disk that does not answer is told, and nobody more waits for it; when it answers, all is well.
func TestAHungDisk(t *testing.T) {
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	defer reader.Close()
	defer writer.Close()
	for err == nil { // until the pipe takes no more
		require.NoError(t, writer.SetWriteDeadline(time.Now().Add(time.Millisecond)))
		_, err = writer.Write(make([]byte, 4096))
	}
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, writer.SetWriteDeadline(time.Time{}))
	l := &Log{o: Options{}.withDefaults(), filling: &batch{}, kept: map[string]int64{}, limit: 1 << 40, cannot: true, file: writer,
		dir: t.TempDir(), began: time.Now()}
	l.idle = sync.NewCond(&l.mu)
	var waiting sync.WaitGroup
	waiting.Go(func() { assert.NoError(t, l.Record(t.Context(), use(1))) })
	require.Eventually(t, func() bool { // it writes; make that ten seconds ago
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.since.IsZero() {
			return false
		}
		l.since = l.since.Add(-2 * hungAfter)
		return true
	}, time.Minute, time.Millisecond)
	require.ErrorIs(t, l.Health(), errHangs)
	require.ErrorIs(t, l.Record(t.Context(), use(0)), errHangs)
	require.ErrorIs(t, l.Intend(t.Context(), intent(0)), errHangs)
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	waiting.Wait()
	require.NoError(t, l.Health())
	require.NoError(t, l.Record(t.Context(), use(0)))
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

const limitedDir = "PKCS11KMS_AUDIT_LIMITED"

// A process whose files have a limit rotates early, and refuses before the limit.
func TestALimitOfFiles(t *testing.T) {
	if dir := os.Getenv(limitedDir); dir != "" {
		signal.Ignore(syscall.SIGXFSZ)
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 320_000, Max: 320_000}))
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
