package sqlite

import (
	"database/sql"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A Commit that returned is on the disk: every connection that writes to a store syncs the journal before it says so
// (PRAGMA synchronous, 2 is FULL), and none writes otherwise. What a crash of the machine would show cannot be tried here.
func TestEveryWriterIsSynchronous(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, Create(path))
	s, err := Open(t.Context(), path, Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	level, err := queryInt(t.Context(), s.writer.conn, "PRAGMA synchronous")
	require.NoError(t, err)
	require.EqualValues(t, 2, level)
	draft, err := writing(path, nil).open(1).Conn(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, draft.Close()) })
	level, err = queryInt(t.Context(), draft, "PRAGMA synchronous")
	require.NoError(t, err)
	require.EqualValues(t, 2, level, "as for the file that a backup or a restore makes")

	for name, db := range map[string]*sql.DB{"readers": s.readers, "watch": s.watch.db} {
		if name == "watch" {
			_, err = s.watch.conn.ExecContext(t.Context(), "DELETE FROM record")
		} else {
			_, err = db.ExecContext(t.Context(), "DELETE FROM record")
		}
		require.ErrorContains(t, err, "readonly", name)
	}
}

// Without its write-ahead log, readers would meet the locks of writers: where a file system, here one without locks, does not
// allow it, a store is not used.
func TestAStoreWithoutAWriteAheadLogIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, Create(path))
	conn, err := writing(path, nil).open(1).Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "PRAGMA journal_mode = DELETE")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	without := &connector{uri: fileURI(path, url.Values{"mode": {"rw"}, "nolock": {"1"}})}
	conn, err = without.open(1).Conn(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	err = confirm(t.Context(), path, conn)
	require.ErrorContains(t, err, `no write-ahead log (mode is "delete")`)
	var refused *Error
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Hint(), "local file system")
}
