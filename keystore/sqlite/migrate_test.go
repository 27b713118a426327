package sqlite_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// build makes a private database by running SQL, as a program of another version would have.
func build(t *testing.T, path, script string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	db := raw(t, path)
	mustExec(t, db, script)
	require.NoError(t, db.Close())
}

// schema lists the statements that made a database, and its version.
func schema(t *testing.T, path string) (list []string, version int) {
	t.Helper()
	db := raw(t, path)
	require.NoError(t, db.QueryRow("PRAGMA user_version").Scan(&version))
	rows, err := db.Query("SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY name")
	require.NoError(t, err)
	for rows.Next() {
		var text string
		require.NoError(t, rows.Scan(&text))
		list = append(list, strings.Join(strings.Fields(text), " "))
	}
	require.NoError(t, rows.Err())
	require.NoError(t, db.Close())
	return list, version
}

// TestEveryReleasedVersionIsMigrated takes a frozen store of each version that was ever released. A new migration
// needs a new one beside the old ones.
func TestEveryReleasedVersionIsMigrated(t *testing.T) {
	fresh, current := schema(t, newPath(t))
	for version := 1; version <= current; version++ {
		script, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("v%d.sql", version)))
		require.NoError(t, err, "every version has its frozen store")
		path := filepath.Join(t.TempDir(), "kms.db")
		build(t, path, string(script))

		done := mustMigrate(t, path)
		assert.Equal(t, version, done.From)
		s := mustOpen(t, path)
		require.NoError(t, s.Verify(t.Context()))
		requireFrozenRecords(t, s)
		require.NoError(t, s.Close())
		got, migrated := schema(t, path)
		assert.Equal(t, fresh, got, "version %d ends as a new store begins", version)
		assert.Equal(t, current, migrated)
	}
}

// requireFrozenRecords looks for what the frozen stores hold.
func requireFrozenRecords(t *testing.T, s *sqlite.Store) {
	t.Helper()
	recs, err := s.List(t.Context(), keystore.KindKey, "us-east-1", "111122223333", "", 10)
	require.NoError(t, err)
	var states []keystore.KeyState
	for _, rec := range recs {
		k, err := keystore.DecodeKey(rec)
		require.NoError(t, err)
		states = append(states, k.State)
	}
	assert.Equal(t, []keystore.KeyState{keystore.Enabled, keystore.Disabled, keystore.Creating}, states)
	rec, err := s.Get(t.Context(), keystore.RegionRef("us-east-1"))
	require.NoError(t, err)
	region, err := keystore.DecodeRegion(rec)
	require.NoError(t, err)
	assert.Equal(t, "5f3a9c0e12345678", region.Serial)

	_, err = s.TakeOver(t.Context(), "0123456789abcdef0123456789abcdef")
	require.Error(t, err, "nothing proves that the instance which was creating is dead")
	version, err := s.Commit(t.Context(), key("new").Put(0))
	require.NoError(t, err)
	assert.Equal(t, uint64(43), version, "the numbers go on")
}

// mustMigrate migrates a store and looks at the copy that is kept.
func mustMigrate(t *testing.T, path string) sqlite.Migrated {
	t.Helper()
	done, err := sqlite.Migrate(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	require.Equal(t, sqlite.Version(), done.To)
	if done.From == done.To {
		require.Empty(t, done.Copy)
		return done
	}
	_, version := schema(t, done.Copy)
	require.Equal(t, done.From, version)
	require.Equal(t, filepath.Dir(path), filepath.Dir(done.Copy))
	return done
}

// Who comes second finds it done.
func TestMigrationsAtOnce(t *testing.T) {
	path := frozen(t, 2)
	var group errgroup.Group
	var copies atomic.Int32
	for range 4 {
		group.Go(func() error {
			done, err := sqlite.Migrate(t.Context(), path, sqlite.Options{})
			if done.Copy != "" {
				copies.Add(1)
			}
			return err
		})
	}
	require.NoError(t, group.Wait())
	assert.Equal(t, int32(1), copies.Load())
	s := mustOpen(t, path)
	require.NoError(t, s.Verify(t.Context()))
	requireFrozenRecords(t, s)
}

func TestFailedMigrationChangesNothing(t *testing.T) {
	path := frozen(t, 2)
	db := raw(t, path)
	// The trigger in the way makes the step fail after it has done something.
	mustExec(t, db, "CREATE TRIGGER record_deleted AFTER DELETE ON record BEGIN SELECT 1; END")
	require.NoError(t, db.Close())
	before, _ := schema(t, path)
	_, err := sqlite.Migrate(t.Context(), path, sqlite.Options{})
	require.ErrorContains(t, err, "migrate from version 2")
	after, version := schema(t, path)
	assert.Equal(t, before, after)
	assert.Equal(t, 2, version)
	assert.Equal(t, []string{"kms.db", "locks"}, names(t, filepath.Dir(path)), "nor is a copy kept of what is as it was")
	assert.Empty(t, names(t, filepath.Join(filepath.Dir(path), "locks")))
}

func TestOpenRestoresTheJournalMode(t *testing.T) {
	path := newPath(t)
	db := raw(t, path)
	mustExec(t, db, "PRAGMA journal_mode = DELETE")
	require.NoError(t, db.Close())
	s := mustOpen(t, path)
	_, err := s.Commit(t.Context(), key("a").Put(0))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	db = raw(t, path)
	requireText(t, db, "PRAGMA journal_mode", "wal")
}

func requireText(t *testing.T, db *sql.DB, query, want string) {
	t.Helper()
	var got string
	require.NoError(t, db.QueryRow(query).Scan(&got))
	require.Equal(t, want, got)
}
