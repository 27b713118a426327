package sqlite_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// raw opens a file with the bare driver, as a foreign program would.
func raw(tb testing.TB, path string) *sql.DB {
	tb.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=5000")
	require.NoError(tb, err)
	db.SetMaxOpenConns(1)
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

func mustExec(tb testing.TB, db *sql.DB, query string) {
	tb.Helper()
	_, err := db.Exec(query)
	require.NoError(tb, err)
}

// snapshot reads all files in a directory. Only for when nobody in this process has one of them open with SQLite.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	content := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			content[path] = d.Type().String()
			return err
		}
		data, err := os.ReadFile(path)
		content[path] = string(data)
		return err
	}))
	return content
}

func key(id string) keystore.Key {
	return keystore.Key{Region: "us-east-1", Account: "111122223333", ID: id, State: keystore.Enabled, CKAID: keystore.HexBytes(id)}
}

// fill puts in enough for some tens of pages.
func fill(tb testing.TB, s *sqlite.Store, n int) {
	tb.Helper()
	for from := 0; from < n; from += keystore.MaxChanges {
		var changes []keystore.Change
		for i := from; i < min(from+keystore.MaxChanges, n); i++ {
			changes = append(changes, key(fmt.Sprintf("key-%06d", i)).Put(0))
		}
		_, err := s.Commit(tb.Context(), changes...)
		require.NoError(tb, err)
	}
}

// filledPath makes a store with some tens of pages, closed.
func filledPath(t *testing.T) string {
	t.Helper()
	path := newPath(t)
	s := mustOpen(t, path)
	fill(t, s, 500)
	require.NoError(t, s.Close())
	return path
}

func truncate(t *testing.T, path string, size func(int64) int64) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, size(info.Size())))
}

func TestOpenRefusesAndTouchesNothing(t *testing.T) {
	overwrite := func(text string) func(*testing.T, string) {
		return func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	}
	replace := func(make func(t *testing.T, path string)) func(*testing.T, string) {
		return func(t *testing.T, path string) { require.NoError(t, os.Remove(path)); make(t, path) }
	}
	for name, test := range map[string]struct {
		harm func(t *testing.T, path string)
		want string
	}{
		"half of it": {func(t *testing.T, path string) {
			truncate(t, path, func(n int64) int64 { return n / 2 })
		}, "file is damaged"},
		"last page missing": {func(t *testing.T, path string) {
			truncate(t, path, func(n int64) int64 { return n - 4096 })
		}, "file is damaged"},
		"half of the last page": {func(t *testing.T, path string) {
			truncate(t, path, func(n int64) int64 { return n - 4096 + 100 })
		}, "file is damaged"},
		"header only": {func(t *testing.T, path string) {
			truncate(t, path, func(int64) int64 { return 100 })
		}, "file is damaged"},
		"empty":                 {overwrite(""), "empty"},
		"one byte":              {overwrite("S"), "not a key store"},
		"text":                  {overwrite("account: \"111122223333\"\n"), "not a key store"},
		"zeros":                 {overwrite(string(make([]byte, 8192))), "not a key store"},
		"foreign database":      {replace(foreign("DELETE", 0)), "not a key store"},
		"of another program":    {replace(foreign("DELETE", 0x0f055112)), "application id 0xf055112"},
		"foreign with WAL":      {replace(foreign("WAL", 0)), "not a key store"},
		"newer version":         {newer(99), "version 99 is newer than version 8 of"},
		"next version":          {newer(9), "version 9 is newer than version 8 of"},
		"directory":             {replace(func(t *testing.T, path string) { require.NoError(t, os.Mkdir(path, 0o700)) }), "is a directory"},
		"pipe":                  {replace(func(t *testing.T, path string) { require.NoError(t, unix.Mkfifo(path, 0o600)) }), "not a key store"},
		"readable for others":   {mode(0o604), "mode 0604 lets other users in"},
		"readable for a group":  {mode(0o640), "mode 0640"},
		"writable for everyone": {mode(0o666), "mode 0666"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filledPath(t)
			require.NoError(t, os.Remove(filepath.Join(filepath.Dir(path), "locks")))
			test.harm(t, path)
			before := snapshot(t, filepath.Dir(path))
			for range 2 {
				_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
				requireHint(t, err, test.want)
				require.ErrorContains(t, err, path)
			}
			assert.True(t, equal(before, snapshot(t, filepath.Dir(path))), "no byte of it changes, no file comes or goes")
		})
	}
}

func equal(a, b map[string]string) bool {
	for name, content := range a {
		if other, there := b[name]; !there || other != content {
			return false
		}
	}
	return len(a) == len(b)
}

func mode(m os.FileMode) func(*testing.T, string) {
	return func(t *testing.T, path string) { require.NoError(t, os.Chmod(path, m)) }
}

func newer(version int) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		db := raw(t, path)
		mustExec(t, db, fmt.Sprintf("PRAGMA user_version = %d", version))
		require.NoError(t, db.Close())
	}
}

// foreign makes a database of another program, private to its owner. In WAL mode it has a journal with changes that
// the main file lacks, as a program that was killed leaves it.
func foreign(journal string, id int) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		scratch := filepath.Join(t.TempDir(), "scratch.db")
		db := raw(t, scratch)
		mustExec(t, db, fmt.Sprintf("PRAGMA application_id = %d", id))
		mustExec(t, db, "PRAGMA journal_mode = "+journal)
		mustExec(t, db, "CREATE TABLE record (name TEXT)")
		if journal == "WAL" {
			mustExec(t, db, "PRAGMA wal_checkpoint(TRUNCATE)")
			mustExec(t, db, "INSERT INTO record VALUES ('only in the journal')")
		}
		for _, suffix := range []string{"", "-wal"} {
			data, err := os.ReadFile(scratch + suffix)
			if suffix == "-wal" && journal != "WAL" {
				continue
			}
			require.NoError(t, err)
			require.NotEmpty(t, data)
			require.NoError(t, os.WriteFile(path+suffix, data, 0o600))
		}
	}
}

func TestOpenRefusesAnotherUsersFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := newPath(t)
	require.NoError(t, os.Chown(path, 65534, 65534))
	_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	requireHint(t, err, "belongs to user 65534")
}

func TestOpenRefusesLocksThatOthersCanRemove(t *testing.T) {
	path := newPath(t)
	locks := filepath.Join(filepath.Dir(path), "locks")
	require.NoError(t, os.Chmod(locks, 0o777))
	_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	requireHint(t, err, "mode 0777")

	require.NoError(t, os.Remove(locks))
	require.NoError(t, os.WriteFile(locks, nil, 0o600))
	_, err = sqlite.Open(t.Context(), path, sqlite.Options{})
	requireHint(t, err, "not a directory")

	require.NoError(t, os.Remove(locks))
	mustOpen(t, path) // it is made when missing
}

func TestOpenReplaysItsJournal(t *testing.T) {
	path := filledPath(t)
	s := mustOpen(t, path)
	_, err := s.Commit(t.Context(), key("in the journal").Put(0))
	require.NoError(t, err)
	// What a machine that lost its power leaves: both files, with the change in the journal only. (Reading them here
	// drops the locks of s, which matters to other processes only.)
	crashed := filepath.Join(t.TempDir(), "kms.db")
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + suffix)
		require.NoError(t, err)
		if suffix == "-wal" {
			data = append(data, bytes.Repeat([]byte{7}, 3000)...) // and a write that was under way
		}
		require.NoError(t, os.WriteFile(crashed+suffix, data, 0o600))
	}
	restarted := mustOpen(t, crashed)
	_, err = restarted.Get(t.Context(), key("in the journal").Ref())
	require.NoError(t, err)
	require.NoError(t, restarted.Verify(t.Context()))
}

func TestVerifyFindsDamage(t *testing.T) {
	for name, harm := range map[string]string{
		"entry lost":          "DELETE FROM entry WHERE id = 'key-000003'",
		"entry changed":       "UPDATE entry SET value = 'ff', guard = 'ff' WHERE id = 'key-000003'",
		"entry unguarded":     "UPDATE entry SET guard = NULL WHERE id = 'key-000003'",
		"entry added":         "INSERT INTO entry SELECT 'unfinished', kind, region, account, id, 'i', NULL FROM record LIMIT 1",
		"record lost":         "PRAGMA foreign_keys = 0; DELETE FROM record WHERE id = 'key-000003'",
		"value changed":       "UPDATE record SET value = x'7b7d' WHERE id = 'key-000003'",
		"state from tomorrow": "UPDATE record SET value = CAST(replace(value, 'Enabled', 'Paused') AS BLOB) WHERE id = 'key-000003'",
		"version from beyond": "UPDATE record SET version = 1000 WHERE id = 'key-000003'",
		"unknown kind":        "INSERT INTO record VALUES ('alias', '', '', 'a', 1, x'7b7d', x'')",
	} {
		t.Run(name, func(t *testing.T) {
			path := filledPath(t)
			s := mustOpen(t, path)
			require.NoError(t, s.Verify(t.Context()))
			db := raw(t, path)
			mustExec(t, db, harm)
			requireHint(t, s.Verify(t.Context()), "damaged")
		})
	}
}

// TestOverwrittenPages harms each page in turn, except the first, which is what makes the file a store. Whatever the
// page, Verify finds it, and no read passes a part of the records for all of them.
func TestOverwrittenPages(t *testing.T) {
	const page, records = 4096, 500
	source := filledPath(t)
	whole, err := os.ReadFile(source)
	require.NoError(t, err)
	failures := 0
	for at := page; at < len(whole); at += page {
		harmed := bytes.Clone(whole)
		copy(harmed[at:at+page], bytes.Repeat([]byte{0xff}, page))
		require.NoError(t, os.WriteFile(source, harmed, 0o600))

		s := mustOpen(t, source)
		requireHint(t, s.Verify(t.Context()), "damaged")
		recs, err := s.List(t.Context(), keystore.KindKey, "us-east-1", "111122223333", "", keystore.MaxPage)
		if err != nil {
			requireHint(t, err, "read store")
			failures++
		} else {
			require.Len(t, recs, records, "page %d", at/page)
		}
		require.NoError(t, s.Close())
	}
	require.Greater(t, failures, 5, "several pages hold records")
}
