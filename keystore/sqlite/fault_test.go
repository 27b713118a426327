package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/test/disk"
)

func sorted(lines []string) []string { slices.Sort(lines); return slices.Compact(lines) }

func lock(t *testing.T, f *os.File) {
	t.Helper()
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}

// requireHintText looks into the hint of an error.
func requireHintText(t *testing.T, err error, text string) {
	t.Helper()
	var hinted interface{ Hint() string }
	require.ErrorAs(t, err, &hinted)
	require.Contains(t, hinted.Hint(), text)
}

// newDisk makes a disk of a size like "4m" for one test, which is skipped where that cannot be.
func newDisk(t *testing.T, size string) *disk.Disk {
	t.Helper()
	d, ok := disk.New(t, size)
	if !ok {
		t.Skip("a file system cannot be mounted here")
	}
	return d
}

// openOnDisk opens a store with one record on a disk of its own.
func openOnDisk(t *testing.T, size string) (d *disk.Disk, path string, s *sqlite.Store) {
	t.Helper()
	d = newDisk(t, size)
	path = storeOn(t, d)
	s = mustOpen(t, path)
	_, err := s.Commit(t.Context(), key("before").Put(0))
	require.NoError(t, err)
	return d, path, s
}

// storeOn makes a store on a disk of its own.
func storeOn(t *testing.T, d *disk.Disk) string {
	t.Helper()
	dir := filepath.Join(d.Dir, "kms")
	require.NoError(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "kms.db")
	require.NoError(t, sqlite.Create(path))
	return path
}

// childHoldWriteLock sits on the write lock as a process that was stopped inside a commit does.
func childHoldWriteLock(path string) error {
	db, err := sql.Open("sqlite3", "file:"+path)
	if err != nil {
		return err
	}
	if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	fmt.Println("held")
	return waitForParent()
}

// Whoever waits in vain is told that the store is busy, and by whom.
func TestABusyStoreNamesTheHolderOfItsLock(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	child := startChild(t, "holdlock", path)
	require.Equal(t, "held", child.line(t))
	require.NoError(t, child.cmd.Process.Signal(syscall.SIGSTOP))
	const waiting = 3 // one for the lock, the others for their turn behind it
	done := make(chan error, waiting)
	for i := range waiting {
		go func() { _, err := s.Commit(context.Background(), key(fmt.Sprint(i)).Put(0)); done <- err }()
	}
	holder := fmt.Sprintf("process %d (", child.cmd.Process.Pid)
	named := false
	for range waiting {
		err := <-done
		require.ErrorIs(t, err, keystore.ErrBusy)
		requireHintText(t, err, "A stopped or hung one must be continued or ended")
		named = named || strings.Contains(err.Error(), holder) && strings.Contains(err.Error(), ", stopped) holds the write lock")
	}
	assert.True(t, named, "the one that waited for the lock knows")
	require.NoError(t, child.cmd.Process.Signal(syscall.SIGCONT))
	child.kill(t)
	_, err := s.Commit(t.Context(), key("after").Put(0))
	require.NoError(t, err)
}

func TestAFullDisk(t *testing.T) {
	d, path, s := openOnDisk(t, "1m")
	free := d.Fill()
	var err error
	for i := 0; err == nil; i++ { // what SQLite has of the journal is used up first
		_, err = s.Commit(t.Context(), key(fmt.Sprint("filling ", i)).Put(0))
	}
	requireHintText(t, err, "Free space on the file system")
	_, err = s.Get(t.Context(), key("before").Ref())
	require.NoError(t, err)
	_, err = sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil { // a lock file takes a byte or two, for which there may be room
		requireHintText(t, err, "Free space on the file system")
	}
	free()
	_, err = s.Commit(t.Context(), key("after").Put(0))
	require.NoError(t, err)
	require.NoError(t, s.Verify(t.Context()))
}

// On a file system that is mounted read-only a store is opened, read and watched, and says why it does not change.
func TestAReadOnlyFileSystem(t *testing.T) {
	d, path, opened := openOnDisk(t, "4m")
	require.NoError(t, opened.Close())
	again := d.ReadOnly()
	before := snapshot(t, filepath.Dir(path))
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	_, err = s.Get(t.Context(), key("before").Ref())
	require.NoError(t, err)
	_, err = s.ChangedSince(t.Context(), "")
	require.NoError(t, err)
	require.NoError(t, s.Verify(t.Context()))
	_, err = s.Commit(t.Context(), key("after").Put(0))
	require.ErrorIs(t, err, syscall.EROFS)
	requireHintText(t, err, "The file system is mounted read-only")
	_, err = s.TakeOver(t.Context(), strings.Repeat("0123456789abcdef", 3))
	require.Error(t, err)
	require.ErrorContains(t, s.Backup(t.Context(), filepath.Join(d.Dir, "backup")), "read-only")
	require.NoError(t, s.Backup(t.Context(), filepath.Join(t.TempDir(), "backup")))
	assert.Equal(t, before, snapshot(t, filepath.Dir(path)))

	// Once somebody can write again, what was read without locks is not believed any more.
	again()
	writer := mustOpen(t, path)
	_, err = writer.Commit(t.Context(), key("after").Put(0))
	require.NoError(t, err)
	_, err = s.ChangedSince(t.Context(), "")
	requireHintText(t, err, "Restart the program")
	_, err = s.Get(t.Context(), key("before").Ref())
	requireHintText(t, err, "Restart the program")
	require.NoError(t, s.Close())
}

// A store that a process elsewhere writes to, seen through a read-only mount, is read with its journal.
func TestAReadOnlyMountOfAStoreInUse(t *testing.T) {
	d := newDisk(t, "4m")
	path := storeOn(t, d)
	writer := mustOpen(t, path)
	_, err := writer.Commit(t.Context(), key("one").Put(0))
	require.NoError(t, err)
	view := filepath.Join(t.TempDir(), "view")
	require.NoError(t, os.Mkdir(view, 0o700))
	if err := unix.Mount(filepath.Dir(path), view, "", unix.MS_BIND, ""); err != nil {
		t.Skip("a directory cannot be bound here:", err)
	}
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(view, unix.MNT_DETACH)) })
	require.NoError(t, unix.Mount("", view, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	child := startChild(t, "watch", filepath.Join(view, "kms.db")) // another process: in this one SQLite would know both
	require.Equal(t, "open", child.line(t))
	_, err = writer.Commit(t.Context(), key("two").Put(0))
	require.NoError(t, err)
	require.Equal(t, "changed", child.line(t))
	child.finish(t)
}

// childWatch waits until somebody else's change can be seen.
func childWatch(s *sqlite.Store) error {
	ctx := context.Background()
	if _, err := s.Get(ctx, key("one").Ref()); err != nil {
		return err
	}
	first, err := s.ChangedSince(ctx, "")
	if err != nil {
		return err
	}
	fmt.Println("open")
	for next := first; next.Now == first.Now; {
		if next, err = s.ChangedSince(ctx, first.Now); err != nil {
			return err
		}
	}
	if _, err := s.Get(ctx, key("two").Ref()); err != nil {
		return err
	}
	fmt.Println("changed")
	return waitForParent()
}

// The hint is about what is in the way, and not about owners where it is something else.
func TestHintsFitTheFault(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("d", 200), strings.Repeat("d", 200), strings.Repeat("d", 200))
	require.NoError(t, os.MkdirAll(long, 0o700))
	requireHintText(t, sqlite.Create(filepath.Join(long, "kms.db")), "The path is too long")

	path := newPath(t)
	var before unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &before))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}))
	_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before))
	requireHintText(t, err, "Too many files are open")
	mustOpen(t, path)
}

// No instance is alive before its file is locked and complete, and of one that fails nothing is left.
func TestAnInstanceThatCannotBeMadeLeavesNothing(t *testing.T) {
	path := newPath(t)
	locks := filepath.Join(filepath.Dir(path), "locks")
	require.NoError(t, os.RemoveAll(locks))
	require.NoError(t, os.WriteFile(locks, nil, 0o600))
	_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	requireHint(t, err, "not a directory")
	require.NoError(t, os.Remove(locks))

	s := mustOpen(t, path)
	files := names(t, locks)
	require.Equal(t, []string{s.Instance() + ".lock"}, files, "no draft is left")
	info, err := os.Stat(filepath.Join(locks, files[0]))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())

	d, ok := disk.New(t, "512k")
	if !ok {
		return
	}
	full := storeOn(t, d)
	free := d.Fill()
	_, err = sqlite.Open(t.Context(), full, sqlite.Options{})
	var hinted interface{ Hint() string }
	require.ErrorAs(t, err, &hinted, "SQLite has no room for its files beside the store")
	require.NotEmpty(t, hinted.Hint())
	assert.Empty(t, names(t, filepath.Join(filepath.Dir(full), "locks")))
	free()
	mustOpen(t, full)
}

// What is in the journal counts when a store is opened: confirm looks again where the header of the main file is old.
func TestOpenLooksAtTheJournalToo(t *testing.T) {
	for name, change := range map[string]struct{ pragma, text string }{
		"foreign": {"PRAGMA application_id = 7", "not a key store"},
		"newer":   {"PRAGMA user_version = 9", "version 9 is newer"},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			db := raw(t, path)
			mustExec(t, db, "PRAGMA wal_autocheckpoint = 0; "+change.pragma) // the main file stays as it was
			before := snapshot(t, filepath.Dir(path))
			_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
			requireHint(t, err, change.text)
			assert.Equal(t, before[path], snapshot(t, filepath.Dir(path))[path])
		})
	}
}
