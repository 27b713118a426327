package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// backedUp makes a backup in a directory of its own.
func backedUp(t *testing.T, s *sqlite.Store) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kms.bak")
	require.NoError(t, s.Backup(t.Context(), path))
	return path
}

// restored restores a backup to a directory of its own and opens it.
func restored(t *testing.T, backup string) (*sqlite.Store, *sqlite.Restored) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kms.db")
	done, err := sqlite.Restore(t.Context(), backup, path, nil)
	require.NoError(t, err)
	assert.Equal(t, []string{"kms.db", "locks"}, names(t, filepath.Dir(path)))
	return mustOpen(t, path), done
}

func TestBackupIsOnePrivateFile(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	s := mustOpen(t, newPath(t))
	fill(t, s, 3000) // several steps
	_, err := s.Commit(t.Context(), key("in the journal").Put(0))
	require.NoError(t, err)
	backup := backedUp(t, s)
	assert.Equal(t, []string{"kms.bak"}, names(t, filepath.Dir(backup)), "no journal, lock or draft is left")
	info, err := os.Stat(backup)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())

	content, err := os.ReadFile(backup)
	require.NoError(t, err)
	again, done := restored(t, backup)
	require.NoError(t, again.Verify(t.Context()))
	assert.Empty(t, done.Dropped)
	assert.Empty(t, done.Postponed)
	_, err = again.Get(t.Context(), key("in the journal").Ref())
	require.NoError(t, err)
	_, err = again.Get(t.Context(), key("key-002999").Ref())
	require.NoError(t, err)
	after, err := os.ReadFile(backup)
	require.NoError(t, err)
	assert.True(t, string(content) == string(after), "restoring changes nothing of the backup")
	assert.Equal(t, []string{"kms.bak"}, names(t, filepath.Dir(backup)))
}

// Each batch of the load is two records, one written and one removed, so that a backup of two moments would show.
func TestBackupDuringCommits(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	fill(t, s, 1500)
	const writers = 4
	var acknowledged [writers]atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load errgroup.Group
	for w := range writers {
		store := s
		if w%2 == 0 {
			store = mustOpen(t, path)
		}
		load.Go(func() error {
			var last uint64
			for n := int64(1); ctx.Err() == nil; n++ {
				changes := []keystore.Change{key(fmt.Sprintf("w%d-%d", w, n)).Put(0)}
				if last != 0 {
					changes = append(changes, keystore.Change{Op: keystore.Delete, Ref: key(fmt.Sprintf("w%d-%d", w, n-1)).Ref(), Expect: last})
				}
				version, err := store.Commit(t.Context(), changes...)
				if err != nil {
					return err
				}
				last = version
				acknowledged[w].Store(n)
			}
			return nil
		})
	}
	var backups []string
	var before [][writers]int64
	for range 5 {
		var seen [writers]int64
		for w := range writers {
			require.Eventually(t, func() bool { return acknowledged[w].Load() > 0 }, 20*time.Second, time.Millisecond)
			seen[w] = acknowledged[w].Load()
		}
		before = append(before, seen)
		backups = append(backups, backedUp(t, s))
	}
	stop()
	require.NoError(t, load.Wait())
	for i, backup := range backups {
		again, _ := restored(t, backup)
		require.NoError(t, again.Verify(t.Context()))
		for w := range writers {
			recs, err := again.List(t.Context(), keystore.KindKey, "us-east-1", "111122223333", fmt.Sprintf("w%d-", w), 2)
			require.NoError(t, err)
			require.NotEmpty(t, recs)
			var n int64
			_, err = fmt.Sscanf(recs[0].Ref.ID, fmt.Sprintf("w%d-%%d", w), &n)
			require.NoError(t, err)
			assert.GreaterOrEqual(t, n, before[i][w], "what was acknowledged before the backup began is in it")
			if len(recs) > 1 {
				assert.NotContains(t, recs[1].Ref.ID, fmt.Sprintf("w%d-", w), "one moment, not two")
			}
		}
	}
}

// meanwhile is a context that does something when it is asked.
type meanwhile struct {
	context.Context
	do func()
}

func (c *meanwhile) Err() error { c.do(); return nil }

// A backup holds the moment at which it began, whatever is committed until it is done: otherwise it would begin anew with each
// commit, and never end beside a busy server.
func TestBackupHoldsTheMomentOfItsBegin(t *testing.T) {
	path := newPath(t)
	s, other := mustOpen(t, path), mustOpen(t, path)
	large := key("large")
	for i := range 20 { // enough for two steps of the copy: between them it looks at its context
		large.ID, large.Policy, large.CKAID = fmt.Sprint("large-", i), strings.Repeat("p", 100_000), keystore.HexBytes{byte(i)}
		commit(t, s, large.Put(0))
	}
	dir := t.TempDir()
	committed := false
	ctx := &meanwhile{t.Context(), func() {
		if !committed && len(names(t, dir)) > 0 { // the copy has begun
			committed = true
			_, err := other.Commit(t.Context(), key("meanwhile").Put(0))
			assert.NoError(t, err)
		}
	}}
	backup := filepath.Join(dir, "kms.bak")
	require.NoError(t, s.Backup(ctx, backup))
	require.True(t, committed)
	info, err := os.Stat(backup)
	require.NoError(t, err)
	require.Greater(t, info.Size(), int64(256*4096))
	again, _ := restored(t, backup)
	_, err = again.Get(t.Context(), key("meanwhile").Ref())
	require.ErrorIs(t, err, keystore.ErrNotFound)
	_, err = again.Get(t.Context(), large.Ref())
	require.NoError(t, err)
}

func TestBackupReplacesNothing(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	for _, inTheWay := range []string{"kms.bak", "kms.bak-wal", "kms.bak-journal", "kms.bak-shm"} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, inTheWay), []byte("precious"), 0o600))
		requireHint(t, s.Backup(t.Context(), filepath.Join(dir, "kms.bak")), "write backup store")
		assert.Equal(t, []string{inTheWay}, names(t, dir))
		content, err := os.ReadFile(filepath.Join(dir, inTheWay))
		require.NoError(t, err)
		assert.Equal(t, "precious", string(content))
	}
	requireHint(t, s.Backup(t.Context(), path), "file exists already")
	require.Error(t, s.Backup(t.Context(), filepath.Join(t.TempDir(), "missing", "kms.bak")))
}

func TestBackupEndsWithItsContextOrStore(t *testing.T) {
	s := mustOpen(t, newPath(t))
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Backup(ctx, filepath.Join(dir, "kms.bak")), context.Canceled)
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Backup(t.Context(), filepath.Join(dir, "kms.bak")), keystore.ErrClosed)
	assert.Empty(t, names(t, dir))
}

func TestBackupOfADamagedStoreIsNone(t *testing.T) {
	path := filledPath(t)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	copy(whole[5*4096:6*4096], strings.Repeat("\xff", 4096))
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	dir := t.TempDir()
	requireHint(t, mustOpen(t, path).Backup(t.Context(), filepath.Join(dir, "kms.bak")), "damaged")
	assert.Empty(t, names(t, dir))
}

// underLimit runs try while no file may be longer than limit, and wants an error with a hint.
func underLimit(limit uint64, try func() error) error {
	signal.Ignore(syscall.SIGXFSZ) // the answer that counts is EFBIG
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: old.Max}); err != nil {
		return err
	}
	failure := try()
	var hinted interface{ Hint() string }
	if !errors.As(failure, &hinted) || hinted.Hint() == "" {
		return fmt.Errorf("no clear error with a hint: %w", failure)
	}
	fmt.Println(failure)
	return unix.Setrlimit(unix.RLIMIT_FSIZE, &old)
}

// childFullBackup backs up next to the store: to a disk that is full, then to one that is not.
func childFullBackup(path string) error {
	return withStore(func(s *sqlite.Store) error {
		backup := filepath.Join(filepath.Dir(path), "kms.bak")
		ctx := context.Background()
		return errors.Join(underLimit(40_000, func() error { return s.Backup(ctx, backup) }), s.Verify(ctx))
	})(path)
}

// childFullRestore restores the backup beside which the store is to be.
func childFullRestore(path string) error {
	return underLimit(40_000, func() error {
		_, err := sqlite.Restore(context.Background(), filepath.Join(filepath.Dir(path), "kms.bak"), path, nil)
		return err
	})
}

func TestFullDisk(t *testing.T) {
	path := filledPath(t)
	dir := filepath.Dir(path)
	lines := startChild(t, "fullbackup", path).finish(t)
	require.Len(t, lines, 1)
	assert.Contains(t, lines[0], "write backup store")
	assert.Equal(t, []string{"kms.db", "locks"}, names(t, dir))

	s := mustOpen(t, path)
	require.NoError(t, s.Backup(t.Context(), filepath.Join(dir, "kms.bak")))
	require.NoError(t, s.Close())
	require.NoError(t, os.Remove(path))
	lines = startChild(t, "fullrestore", path).finish(t)
	require.Len(t, lines, 1)
	assert.Contains(t, lines[0], "restore store")
	assert.Equal(t, []string{"kms.bak", "locks"}, names(t, dir))
	_, err := sqlite.Restore(t.Context(), filepath.Join(dir, "kms.bak"), path, nil)
	require.NoError(t, err)
}

// countdown is a context that ends when it has been asked often enough.
type countdown struct {
	context.Context
	left atomic.Int32
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// Wherever a backup is when its context ends, it leaves nothing.
func TestBackupEndsAtEveryStep(t *testing.T) {
	s := mustOpen(t, newPath(t))
	fill(t, s, 1500)
	dir := t.TempDir()
	backup := filepath.Join(dir, "kms.bak")
	ended := int32(0)
	for {
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(ended)
		err := s.Backup(ctx, backup)
		if err == nil {
			break
		}
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, names(t, dir), "after %d looks", ended)
		ended += 1 + ended/3 // first the few steps of copying, then the many of verifying
	}
	require.Greater(t, ended, int32(4), "it looks between its steps")
	assert.Equal(t, []string{"kms.bak"}, names(t, dir))
}

func TestBackupToARelativePath(t *testing.T) {
	s := mustOpen(t, newPath(t))
	commit(t, s, key("there").Put(0))
	t.Chdir(t.TempDir())
	require.NoError(t, s.Backup(t.Context(), "kms.bak"))
	_, err := sqlite.Restore(t.Context(), "kms.bak", "kms.db", nil)
	require.NoError(t, err)
	again := mustOpen(t, "kms.db")
	assert.Equal(t, keystore.Enabled, decoded(t, again, "there").State)
}
