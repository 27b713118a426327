package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

func commit(t *testing.T, s *sqlite.Store, changes ...keystore.Change) {
	t.Helper()
	_, err := s.Commit(t.Context(), changes...)
	require.NoError(t, err)
}

func decoded(t *testing.T, s *sqlite.Store, id string) keystore.Key {
	t.Helper()
	rec, err := s.Get(t.Context(), key(id).Ref())
	require.NoError(t, err)
	k, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	return k
}

// Nobody knows what became of a key that was between two of its steps, so no janitor may find it.
func TestRestoreDropsHalfMadeKeys(t *testing.T) {
	s := mustOpen(t, newPath(t))
	half := map[string]keystore.KeyState{"creating": keystore.Creating, "deleting": keystore.Deleting}
	for id, state := range half {
		k := key(id)
		k.State, k.Instance = state, s.Instance()
		commit(t, s, k.Put(0))
	}
	service := keystore.Key{Region: "us-east-1", ID: "service", State: keystore.Creating, Instance: s.Instance(),
		CKAID: keystore.HexBytes("s")}
	commit(t, s, key("whole").Put(0), service.Put(0))
	counter := keystore.Counter{Region: "us-east-1", Account: "111122223333", Name: keystore.CounterKeys, N: 3}
	commit(t, s, counter.Put(0))

	again, done := restored(t, backedUp(t, s))
	assert.ElementsMatch(t, []keystore.Ref{key("creating").Ref(), key("deleting").Ref(), service.Ref()}, done.Dropped)
	recs, err := again.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 10)
	require.NoError(t, err)
	assert.Empty(t, recs)
	assert.Equal(t, keystore.Enabled, decoded(t, again, "whole").State)
	rec, err := again.Get(t.Context(), keystore.CounterRef("us-east-1", "111122223333", keystore.CounterKeys))
	require.NoError(t, err)
	counter, err = keystore.DecodeCounter(rec)
	require.NoError(t, err)
	assert.Equal(t, 1, counter.N)
	require.NoError(t, again.Verify(t.Context()))

	recs, err = s.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 10)
	require.NoError(t, err)
	assert.Len(t, recs, 3, "the store that was backed up goes its own way")
	_, err = again.TakeOver(t.Context(), s.Instance())
	require.ErrorIs(t, err, keystore.ErrUndecided, "its instances are unknown to the restored one")
}

// A deletion may have been cancelled since the backup.
func TestRestorePutsDeletionsOff(t *testing.T) {
	s := mustOpen(t, newPath(t))
	now := time.Now().UTC().Truncate(time.Millisecond)
	dates := map[string]time.Time{"past": now.Add(-time.Hour), "soon": now.Add(time.Hour), "later": now.Add(2 * sqlite.RestoreGrace)}
	for id, date := range dates {
		k := key(id)
		k.State, k.DeletionDate = keystore.PendingDeletion, date
		commit(t, s, k.Put(0))
	}
	again, done := restored(t, backedUp(t, s))
	assert.ElementsMatch(t, []keystore.Ref{key("past").Ref(), key("soon").Ref()}, done.Postponed)
	for _, id := range []string{"past", "soon"} {
		k := decoded(t, again, id)
		assert.Equal(t, keystore.PendingDeletion, k.State)
		assert.False(t, k.DeletionDate.Before(now.Add(sqlite.RestoreGrace)))
	}
	assert.Equal(t, dates["later"], decoded(t, again, "later").DeletionDate)
	require.NoError(t, again.Verify(t.Context()))
}

func TestRestoreReplacesNothing(t *testing.T) {
	s := mustOpen(t, newPath(t))
	backup := backedUp(t, s)
	for _, inTheWay := range []string{"kms.db", "kms.db-wal", "kms.db-journal", "kms.db-shm"} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, inTheWay), []byte("precious"), 0o600))
		_, err := sqlite.Restore(t.Context(), backup, filepath.Join(dir, "kms.db"), nil)
		requireHint(t, err, "restore store")
		assert.Equal(t, []string{inTheWay}, names(t, dir))
		content, err := os.ReadFile(filepath.Join(dir, inTheWay))
		require.NoError(t, err)
		assert.Equal(t, "precious", string(content))
	}
}

func TestRestoreRefusesBadBackups(t *testing.T) {
	for name, test := range map[string]struct {
		harm func(t *testing.T, path string)
		want string
	}{
		"half of it": {func(t *testing.T, path string) { truncate(t, path, func(n int64) int64 { return n / 2 }) }, "file is damaged"},
		"last page missing": {func(t *testing.T, path string) {
			truncate(t, path, func(n int64) int64 { return n - 4096 })
		}, "file is damaged"},
		"record changed": {func(t *testing.T, path string) {
			db := raw(t, path)
			mustExec(t, db, "UPDATE record SET value = x'7b7d' WHERE id = 'key-000003'")
			require.NoError(t, db.Close())
		}, "file is damaged"},
		"text":      {func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, []byte("text"), 0o600)) }, "not a key store"},
		"missing":   {func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) }, "no such file"},
		"newer":     {newer(9), "version 9 is newer than version 8 of"},
		"of others": {mode(0o644), "mode 0644 lets other users in"},
		"a store in use": {func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path+"-wal", []byte("x"), 0o600)) },
			"it is a store and no backup"},
		"foreign": {func(t *testing.T, path string) { require.NoError(t, os.Remove(path)); foreign("DELETE", 7)(t, path) },
			"not a key store"},
		"another journal": {func(t *testing.T, path string) { require.NoError(t, os.Remove(path)); foreign("WAL", 7)(t, path) },
			"it is a store and no backup"},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, newPath(t))
			fill(t, s, 500)
			backup := backedUp(t, s)
			test.harm(t, backup)
			before := snapshot(t, filepath.Dir(backup))
			dir := t.TempDir()
			_, err := sqlite.Restore(t.Context(), backup, filepath.Join(dir, "kms.db"), nil)
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, backup)
			if name != "missing" {
				requireHint(t, err, test.want)
			}
			assert.NotContains(t, err.Error(), ".new-", "the draft is nobody's business")
			assert.Empty(t, names(t, dir))
			assert.True(t, equal(before, snapshot(t, filepath.Dir(backup))), "no byte of the backup changes")
		})
	}
}

// Whatever page of a backup is overwritten, it is not restored.
func TestRestoreFindsOverwrittenPages(t *testing.T) {
	const page = 4096
	s := mustOpen(t, newPath(t))
	fill(t, s, 100)
	backup := backedUp(t, s)
	whole, err := os.ReadFile(backup)
	require.NoError(t, err)
	dir := t.TempDir()
	for at := 0; at < len(whole); at += page {
		harmed := append([]byte(nil), whole...)
		for i := at; i < at+page; i++ {
			harmed[i] = 0xff
		}
		require.NoError(t, os.WriteFile(backup, harmed, 0o600))
		_, err := sqlite.Restore(t.Context(), backup, filepath.Join(dir, "kms.db"), nil)
		requireHint(t, err, backup)
		require.Empty(t, names(t, dir), fmt.Sprint("page ", at/page))
	}
}
