package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// frozen makes the store that the program of a version has left.
func frozen(t *testing.T, version int) (path string) {
	t.Helper()
	script, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("v%d.sql", version)))
	require.NoError(t, err)
	path = filepath.Join(t.TempDir(), "kms.db")
	build(t, path, string(script))
	return path
}

// filledFrozen is a store of version 2 that is large enough to take a while.
func filledFrozen(t *testing.T) (path string) {
	path = frozen(t, 2)
	db := raw(t, path)
	mustExec(t, db, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
		INSERT INTO record SELECT 'counter', 'r', 'a', 'counter-' || i, 42, CAST('{"n":1}' AS BLOB), x'' FROM n`)
	require.NoError(t, db.Close())
	return path
}

// Who merely opens a store of an older version is told what to run, and leaves every file as it is.
func TestOpenDoesNotMigrate(t *testing.T) {
	for version := 1; version < sqlite.Version(); version++ {
		path := frozen(t, version)
		require.NoError(t, os.Mkdir(filepath.Join(filepath.Dir(path), "locks"), 0o700))
		before := snapshot(t, filepath.Dir(path))
		for range 2 {
			_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
			requireHint(t, err, fmt.Sprintf("schema version %d is older than version %d of this program", version, sqlite.Version()))
			requireHintText(t, err, "pkcs11kms doctor --migrate")
			assert.Equal(t, before, snapshot(t, filepath.Dir(path)))
		}
	}
}

// The main file can be of an older version than the store is, where a process that migrated it was killed: its journal counts.
func TestTheVersionInTheJournalCounts(t *testing.T) {
	path := frozen(t, 2)
	db := raw(t, path) // keeps the journal from being moved to the main file
	mustExec(t, db, "PRAGMA wal_autocheckpoint = 0")
	mustMigrate(t, path)
	requireText(t, db, "PRAGMA user_version", fmt.Sprint(sqlite.Version()))
	header, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, byte(2), header[63], "the main file is of before")
	s := mustOpen(t, path)
	require.NoError(t, s.Verify(t.Context()))
	require.NoError(t, s.Close())
	done := mustMigrate(t, path)
	assert.Equal(t, done.From, done.To, "it is done")
}

// A store that is migrated loses nothing, the copy is what was before, and Restore takes it.
func TestACopyIsKept(t *testing.T) {
	path := filledFrozen(t)
	done := mustMigrate(t, path)
	old, migrated := raw(t, done.Copy), raw(t, path)
	const records = "SELECT count(*) || ' ' || sum(length(value)) || ' ' || max(version) FROM record"
	var want string
	require.NoError(t, old.QueryRow(records).Scan(&want))
	requireText(t, migrated, records, want)
	require.NoError(t, old.Close())
	require.NoError(t, migrated.Close())
	info, err := os.Stat(done.Copy)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())
	_, err = sqlite.Restore(t.Context(), done.Copy, filepath.Join(t.TempDir(), "kms.db"), nil)
	require.NoError(t, err)
}

// While another instance is alive, of whatever version, nothing is changed; when it has ended, it is done.
func TestAStoreInUseIsNotMigrated(t *testing.T) {
	for name, content := range map[string]string{"of the first version": "", "of version 2": "2\n"} {
		t.Run(name, func(t *testing.T) {
			path := frozen(t, 2)
			locks := filepath.Join(filepath.Dir(path), "locks")
			require.NoError(t, os.Mkdir(locks, 0o700))
			held, err := os.OpenFile(filepath.Join(locks, strings.Repeat("0123456789abcdef", 3)+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
			require.NoError(t, err)
			_, err = held.WriteString(content)
			require.NoError(t, err)
			lock(t, held)
			before := snapshot(t, filepath.Dir(path))

			_, err = sqlite.Migrate(t.Context(), path, sqlite.Options{})
			requireHint(t, err, "another process has the store open")
			requireHintText(t, err, "Stop that process first")
			assert.Equal(t, before, snapshot(t, filepath.Dir(path)))

			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err = sqlite.Migrate(ctx, path, sqlite.Options{})
			require.ErrorIs(t, err, context.Canceled)
			require.NoError(t, held.Close())
			mustMigrate(t, path)
		})
	}
}

// A damaged store is not migrated.
func TestADamagedStoreIsNotMigrated(t *testing.T) {
	path := frozen(t, 2)
	db := raw(t, path)
	mustExec(t, db, "UPDATE record SET value = CAST('nonsense' AS BLOB) WHERE kind = 'region'")
	require.NoError(t, db.Close())
	_, err := sqlite.Migrate(t.Context(), path, sqlite.Options{})
	requireHint(t, err, "damaged")
	_, version := schema(t, path)
	assert.Equal(t, 2, version)
	assert.Equal(t, []string{"kms.db", "locks"}, names(t, filepath.Dir(path)))
}

func childMigrate(path string) error {
	_, err := sqlite.Migrate(context.Background(), path, sqlite.Options{})
	return err
}

// copiesOf are the copies of before a migration.
func copiesOf(t *testing.T, path string) []string {
	t.Helper()
	found, err := filepath.Glob(path + ".format-2-*")
	require.NoError(t, err)
	return found
}

// A process that is killed anywhere in the middle leaves the old store or the new one, never anything else, and the copy where it is
// the new one. The next one does the rest.
func TestKilledMigrations(t *testing.T) {
	for what, there := range map[string]func(path string) bool{
		"it has begun":    func(path string) bool { return len(drafts(t, path)) > 0 },
		"a copy is there": func(path string) bool { return len(copiesOf(t, path)) > 0 },
		"it writes": func(path string) bool {
			info, err := os.Stat(path + "-wal")
			return len(copiesOf(t, path)) > 0 && err == nil && info.Size() > 0
		},
	} {
		t.Run(what, func(t *testing.T) {
			for range 5 {
				path := filledFrozen(t)
				c := startChild(t, "migrate", path)
				ended := make(chan error, 1)
				go func() { ended <- c.cmd.Wait() }()
				require.Eventually(t, func() bool { return there(path) || len(ended) > 0 }, time.Minute, 50*time.Microsecond)
				_ = c.cmd.Process.Kill() // fails when it has ended
				<-ended

				db := raw(t, path)
				var version int
				require.NoError(t, db.QueryRow("PRAGMA user_version").Scan(&version))
				requireText(t, db, "PRAGMA integrity_check", "ok")
				requireText(t, db, "SELECT count(*) FROM record WHERE kind = 'counter' AND account = 'a'", "5000")
				require.NoError(t, db.Close())
				switch version {
				case 2:
				case sqlite.Version():
					require.NotEmpty(t, copiesOf(t, path))
				default:
					t.Fatal(version)
				}
				for _, copied := range copiesOf(t, path) {
					_, of := schema(t, copied)
					require.Equal(t, 2, of)
				}
				mustMigrate(t, path)
				s := mustOpen(t, path)
				require.NoError(t, s.Verify(t.Context()))
				require.NoError(t, s.Backup(t.Context(), filepath.Join(t.TempDir(), "kms.bak")), "which removes the drafts of the dead")
				require.NoError(t, s.Close())
				require.Empty(t, drafts(t, path))
			}
		})
	}
}

func drafts(t *testing.T, path string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*.new-*"))
	require.NoError(t, err)
	return found
}

// childFullMigrate migrates on a disk that is full when the copy, or later when the journal, has reached a size.
func childFullMigrate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	for _, limit := range []int64{40_000, info.Size() - 4096, info.Size() / 2} {
		if err := underLimit(uint64(limit), func() error { return childMigrate(path) }); err != nil {
			return err
		}
	}
	return nil
}

// On a full disk nothing is lost: the store is the old one, and nothing lies in the way of the next attempt.
func TestMigrationOnAFullDisk(t *testing.T) {
	path := filledFrozen(t)
	lines := startChild(t, "fullmigrate", path).finish(t)
	require.Len(t, lines, 3)
	for _, line := range lines {
		assert.Contains(t, line, "migrate store")
	}
	_, version := schema(t, path)
	assert.Equal(t, 2, version)
	assert.Equal(t, []string{"kms.db", "locks"}, names(t, filepath.Dir(path)))
	mustMigrate(t, path)
	s := mustOpen(t, path)
	require.NoError(t, s.Verify(t.Context()))
	_, err := s.Get(t.Context(), keystore.CounterRef("r", "a", "counter-5000"))
	require.NoError(t, err)
}

// Who is told of a migration can keep it from being made; where there is nothing to do nobody is told.
func TestWhoIsToldOfAMigrationCanKeepItFromBeingMade(t *testing.T) {
	path := frozen(t, 3)
	var told [][2]int
	refusal := errors.New("it cannot be written down")
	migrating := func(answer error) sqlite.Options {
		return sqlite.Options{Migrating: func(from, to int) error {
			told = append(told, [2]int{from, to})
			return answer
		}}
	}
	_, err := sqlite.Migrate(t.Context(), path, migrating(refusal))
	require.ErrorIs(t, err, refusal)
	requireText(t, raw(t, path), "PRAGMA user_version", "3")
	copies, err := filepath.Glob(path + ".format-*")
	require.NoError(t, err)
	require.Empty(t, copies)
	for range 2 {
		_, err = sqlite.Migrate(t.Context(), path, migrating(nil))
		require.NoError(t, err)
	}
	require.Equal(t, [][2]int{{3, sqlite.Version()}, {3, sqlite.Version()}}, told)
}
