package sqlite_test

import (
	"context"
	"database/sql"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// holdWriteLock has another program sit on the write lock until the test ends or release is called.
func holdWriteLock(t *testing.T, path string) (release func()) {
	t.Helper()
	db := raw(t, path)
	mustExec(t, db, "BEGIN IMMEDIATE")
	return func() { mustExec(t, db, "ROLLBACK") }
}

func TestCommitWaitsForTheWriteLock(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	release := holdWriteLock(t, path)
	done := make(chan error, 1)
	go func() { _, err := s.Commit(context.Background(), key("a").Put(0)); done <- err }()

	// Reading and watching go on meanwhile.
	_, err := s.Get(t.Context(), key("a").Ref())
	require.ErrorIs(t, err, keystore.ErrNotFound)
	before, err := s.ChangedSince(t.Context(), "")
	require.NoError(t, err)

	release()
	require.NoError(t, <-done)
	after, err := s.ChangedSince(t.Context(), before.Now)
	require.NoError(t, err)
	assert.Equal(t, []keystore.Ref{key("a").Ref()}, after.Refs)
}

func TestCommitGivesUpWithItsContext(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	release := holdWriteLock(t, path)
	// Two: one waits for the lock, the other for its turn behind the first.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	for _, id := range []string{"a", "b"} {
		go func() { _, err := s.Commit(ctx, key(id).Put(0)); done <- err }()
	}
	cancel()
	for range 2 {
		require.ErrorIs(t, <-done, context.Canceled)
	}
	short, cancelShort := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancelShort()
	_, err := s.Commit(short, key("c").Put(0))
	require.ErrorIs(t, err, context.DeadlineExceeded)

	release()
	_, err = s.Commit(t.Context(), key("a").Put(0))
	require.NoError(t, err, "nothing was committed, and the store works on")
}

// Who gives up while the transaction is on its way is answered so, and has changed nothing: the context is looked at before the
// changes are made, and once more before they count.
func TestCommitWhoseContextEndsChangesNothing(t *testing.T) {
	s := mustOpen(t, newPath(t))
	looks := int32(0)
	for {
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(looks)
		_, err := s.Commit(ctx, key("a").Put(0))
		if err == nil {
			break
		}
		require.ErrorIs(t, err, context.Canceled)
		_, err = s.Get(t.Context(), key("a").Ref())
		require.ErrorIs(t, err, keystore.ErrNotFound)
		looks++
	}
	require.GreaterOrEqual(t, looks, int32(2))
}

func TestCloseEndsWaitingCommits(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	holdWriteLock(t, path)
	const waiting = 3
	entered, done := make(chan struct{}, waiting), make(chan error, waiting)
	for range waiting {
		go func() {
			entered <- struct{}{}
			_, err := s.Commit(context.Background(), key("a").Put(0))
			done <- err
		}()
	}
	for range waiting {
		<-entered
	}
	require.NoError(t, s.Close())
	for range waiting {
		require.ErrorIs(t, <-done, keystore.ErrClosed)
	}
}

func TestCommitGivesUpOnAStuckProcess(t *testing.T) {
	t.Parallel() // it waits for the store's own limit
	path := newPath(t)
	s := mustOpen(t, path)
	release := holdWriteLock(t, path)
	_, err := s.Commit(context.Background(), key("a").Put(0))
	require.ErrorIs(t, err, keystore.ErrBusy)
	requireHint(t, err, "(this one) holds the write lock")
	release()
	_, err = s.Commit(t.Context(), key("a").Put(0))
	require.NoError(t, err)
}

// requireReplaced makes sure that a store whose file is gone says so for good.
func requireReplaced(t *testing.T, s *sqlite.Store) {
	t.Helper()
	_, err := s.ChangedSince(t.Context(), "")
	require.ErrorIs(t, err, keystore.ErrReplaced)
	requireHint(t, err, "replaced")
	_, err = s.Get(t.Context(), key("a").Ref())
	require.ErrorIs(t, err, keystore.ErrReplaced)
	_, err = s.Commit(t.Context(), key("x").Put(0))
	require.ErrorIs(t, err, keystore.ErrReplaced)
}

func TestFileIsReplaced(t *testing.T) {
	for name, swap := range map[string]func(t *testing.T, path string){
		"removed": func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
		"moved":   func(t *testing.T, path string) { require.NoError(t, os.Rename(path, path+".old")) },
		"another": func(t *testing.T, path string) { require.NoError(t, os.Rename(newPath(t), path)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			watching, committing := mustOpen(t, path), mustOpen(t, path)
			_, err := watching.Commit(t.Context(), key("a").Put(0))
			require.NoError(t, err)

			swap(t, path)
			// A commit that nobody has warned is not acknowledged either.
			_, err = committing.Commit(t.Context(), key("b").Put(0))
			require.ErrorIs(t, err, keystore.ErrReplaced)
			requireReplaced(t, watching)
			requireReplaced(t, committing)
			require.NoError(t, watching.Close())
			_, err = watching.ChangedSince(t.Context(), "")
			require.ErrorIs(t, err, keystore.ErrClosed)
		})
	}
}

func TestReplacedIsFinal(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	require.NoError(t, os.Rename(path, path+".old"))
	requireReplaced(t, s)
	require.NoError(t, os.Rename(path+".old", path))
	requireReplaced(t, s) // others may have worked with another file meanwhile
	require.NoError(t, s.Close())
	require.NoError(t, mustOpen(t, path).Verify(t.Context()))
}

func TestMigratedByNewerProgramWhileOpen(t *testing.T) {
	for name, use := range map[string]func(*sqlite.Store) error{
		"commit": func(s *sqlite.Store) error {
			_, err := s.Commit(context.Background(), key("x").Put(0))
			return err
		},
		"watching": func(s *sqlite.Store) error { _, err := s.ChangedSince(context.Background(), ""); return err },
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			s := mustOpen(t, path)
			_, err := s.ChangedSince(t.Context(), "")
			require.NoError(t, err)
			db := raw(t, path)
			mustExec(t, db, "PRAGMA user_version = 9")
			requireHint(t, use(s), "version 9 is newer")
			_, err = s.Get(t.Context(), key("x").Ref())
			require.ErrorContains(t, err, "version 9 is newer", "and from then on nothing is read either")
			requireRows(t, db, 0)
			// The version in the journal counts when the store is opened, too.
			_, err = sqlite.Open(t.Context(), path, sqlite.Options{})
			requireHint(t, err, "version 9 is newer")
		})
	}
}

func requireRows(t *testing.T, db *sql.DB, want int) {
	t.Helper()
	var n int
	require.NoError(t, db.QueryRow("SELECT count(*) FROM record").Scan(&n))
	require.Equal(t, want, n)
}
