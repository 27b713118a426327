package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newLogWithAFreshFile makes a log whose first file, with uses 0 to 2, is closed and on its way to the disk, which does not answer before
// the result is called; uses 3 and 4 are in the file after it.
func newLogWithAFreshFile(t *testing.T) (l *Log, dir string, answer func()) {
	dir = filepath.Join(t.TempDir(), "audit")
	l = mustOpen(t, dir, Options{})
	for i := range 3 {
		require.NoError(t, l.Record(t.Context(), use(i)))
	}
	l.syncing.Lock()
	var once sync.Once
	answer = func() { once.Do(l.syncing.Unlock) }
	t.Cleanup(answer)
	l.Rotate()
	for i := 3; i < 5; i++ {
		require.NoError(t, l.Record(t.Context(), use(i)), "no use waits for the disk to have the file before")
	}
	require.FileExists(t, filePath(dir, 1, 4)+freshSuffix)
	return l, dir, answer
}

// copied is a directory as a killed process, or a power cut, may leave it.
func copied(t *testing.T, dir string) string {
	to := filepath.Join(t.TempDir(), "copied")
	require.NoError(t, os.CopyFS(to, os.DirFS(dir)))
	require.NoError(t, os.Chmod(to, 0o700))
	return to
}

// While the disk takes a closed file, what waits for nothing goes on, and what waits for the disk is answered when it has both files.
func TestNobodyWaitsForAClosedFileButForTheDisk(t *testing.T) {
	l, dir, answer := newLogWithAFreshFile(t)
	var waiting sync.WaitGroup
	done := make(chan struct{})
	waiting.Go(func() {
		assert.NoError(t, l.Intend(t.Context(), intent(1)))
		close(done)
	})
	require.Eventually(t, func() bool { return l.lastWritten() == 6 }, time.Minute, time.Millisecond)
	require.NoError(t, l.Record(t.Context(), use(5)))
	select {
	case <-done:
		require.Fail(t, "the disk has not the file before")
	default:
	}
	require.Zero(t, l.synced.Load())
	require.Equal(t, []string{"use-0", "use-1", "use-2", "use-3", "use-4", "change-1", "use-5"}, requestIDs(t, dir),
		"it can be read meanwhile")
	mustVerify(t, dir)
	answer()
	waiting.Wait()
	require.GreaterOrEqual(t, l.synced.Load(), uint64(6))
	require.FileExists(t, filePath(dir, 1, 4))
	require.NoFileExists(t, filePath(dir, 1, 4)+freshSuffix)
	require.NoError(t, l.Record(t.Context(), outcome(1)))
	require.NoError(t, l.Close())
	mustVerify(t, dir)
}

// What a killed process has left in the next file is there, and goes on.
func TestAProcessKilledWhileAFileIsClosed(t *testing.T) {
	_, dir, _ := newLogWithAFreshFile(t)
	dir = copied(t, dir)
	l := mustOpen(t, dir, Options{})
	require.NoError(t, l.Record(t.Context(), use(5)))
	require.NoError(t, l.Close())
	require.NoFileExists(t, filePath(dir, 1, 4)+freshSuffix)
	require.Equal(t, []string{"use-0", "use-1", "use-2", "use-3", "use-4", "use-5"}, requestIDs(t, dir))
	v := mustVerify(t, dir)
	require.Len(t, v.Heads, 1)
	require.Equal(t, 2, v.Files)
}

// When a power cut has taken records of the closed file, those after it follow nothing. They are laid aside, and the chain tells it.
func TestAPowerCutWhileAFileIsClosed(t *testing.T) {
	_, dir, _ := newLogWithAFreshFile(t)
	dir = copied(t, dir)
	text, err := os.ReadFile(filePath(dir, 1, 1))
	require.NoError(t, err)
	lines := strings.SplitAfter(string(text), "\n")
	require.NoError(t, os.WriteFile(filePath(dir, 1, 1), []byte(lines[0]+lines[1]), 0o600))
	lost, err := os.ReadFile(filePath(dir, 1, 4) + freshSuffix)
	require.NoError(t, err)

	empty := copied(t, dir)
	require.NoError(t, os.Truncate(filePath(empty, 1, 4)+freshSuffix, 0))
	l := mustOpen(t, empty, Options{})
	require.NoError(t, l.Record(t.Context(), use(7)))
	require.NoError(t, l.Close())
	require.Equal(t, []string{"use-0", "use-1", "use-7"}, requestIDs(t, empty), "where it is empty there is nothing to be told")
	mustVerify(t, empty)

	l = mustOpen(t, dir, Options{})
	require.NoError(t, l.Record(t.Context(), use(7)))
	require.NoError(t, l.Close())
	var told string
	require.NoError(t, Scan(dir, func(line []byte) error {
		if strings.Contains(string(line), fileAside) {
			told = string(line)
		}
		return nil
	}))
	require.Contains(t, told, `"file":"`+filepath.Base(filePath(dir, 1, 4))+`.aside"`)
	require.Contains(t, told, `"sha256":"`+hexOf(hashOf(lost))+`"`)
	aside, err := os.ReadFile(filePath(dir, 1, 4) + asideSuffix)
	require.NoError(t, err)
	require.Equal(t, lost, aside)
	v := mustVerify(t, dir)
	require.Len(t, v.Heads, 1)
	require.EqualValues(t, 4, v.Records)
}

// A closed file that the disk does not take refuses those who wait for its records, also when they come to ask after what follows is on
// the disk, and nobody else.
func TestAClosedFileThatCannotBeSynced(t *testing.T) {
	l, _, answer := newLogWithAFreshFile(t)
	reader, writer, err := os.Pipe() // which no disk takes
	require.NoError(t, err)
	defer reader.Close()
	l.mu.Lock()
	good := l.closing[0].f
	l.closing[0].f = writer
	l.mu.Unlock()
	defer good.Close()
	answer()
	err = l.sync(2)
	require.Error(t, err)
	require.False(t, errors.Is(err, os.ErrClosed))
	require.Error(t, l.Health())
	require.NoError(t, l.Intend(t.Context(), intent(1)), "this is in the next file")
	require.NoError(t, l.Health())
	require.Error(t, l.sync(3))
	require.NoError(t, l.sync(4))
}
