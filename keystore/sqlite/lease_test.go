package sqlite_test

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// What happens between two steps with a lock file is tried with a lease (fcntl(2), F_SETLEASE): it holds up whoever opens the
// file to write, and tells its holder so with a signal.
type lease struct {
	t      *testing.T
	file   *os.File
	opened chan os.Signal
}

// leaseOn holds the lock file of an instance. Nobody may have the file open for writing.
func leaseOn(t *testing.T, path, instance string) *lease {
	t.Helper()
	f, err := os.Open(filepath.Join(filepath.Dir(path), "locks", instance+".lock"))
	require.NoError(t, err)
	l := &lease{t, f, make(chan os.Signal, 1)}
	signal.Notify(l.opened, syscall.SIGIO)
	t.Cleanup(func() { signal.Stop(l.opened); _ = f.Close() })
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		t.Skip("the file system has no leases:", err)
	}
	return l
}

// during runs call, and meanwhile once the file is about to be opened. It tells whether it was.
func (l *lease) during(call func() error, meanwhile func()) (opened bool, err error) {
	l.t.Helper()
	answer := make(chan error, 1)
	go func() { answer <- call() }()
	select {
	case err = <-answer:
		return false, err
	case <-l.opened:
	}
	meanwhile()
	_, err = unix.FcntlInt(l.file.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	require.NoError(l.t, err)
	return true, <-answer
}

// Two may come for the work of a dead instance at the same time, and the first may be done, and have removed the lock file,
// while the second has opened it already: the lock on a file that has no name keeps nobody out, so it proves nothing.
func TestTakeOverOfAFileThatIsRemovedMeanwhile(t *testing.T) {
	path := newPath(t)
	gone := leaveWork(t, path)
	s := mustOpen(t, path)
	l := leaseOn(t, path, gone)
	opened, err := l.during(func() error { _, err := s.TakeOver(t.Context(), gone); return err },
		func() { require.NoError(t, os.Remove(l.file.Name())) })
	require.True(t, opened)
	require.ErrorIs(t, err, keystore.ErrUndecided)
}

// Opening a store lets the lock files alone that others need as a proof.
func TestLockFilesThatRecordsNameStayWhenAStoreIsOpened(t *testing.T) {
	path := newPath(t)
	gone := leaveWork(t, path)
	s := mustOpen(t, path)
	open := func() error {
		opened, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		if err == nil {
			err = opened.Close()
		}
		return err
	}
	l := leaseOn(t, path, gone)
	opened, err := l.during(open, func() {})
	require.NoError(t, err)
	assert.False(t, opened, "it is not even locked: a janitor would take the instance for a living one")

	// A record that comes after the first look at the records, and before the file is locked.
	rec, err := s.Get(t.Context(), key("left").Ref())
	require.NoError(t, err)
	commit(t, s, keystore.Change{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version})
	opened, err = l.during(open, func() { commit(t, s, creating("late", gone).Put(0)) })
	require.NoError(t, err)
	require.True(t, opened, "no record named it")
	assert.Contains(t, locksOf(t, path), gone+".lock")
	release, err := s.TakeOver(t.Context(), gone)
	require.NoError(t, err)
	release(false)
}
