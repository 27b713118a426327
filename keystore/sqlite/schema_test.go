package sqlite_test

import (
	"encoding/binary"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// Whoever can write to a store's file can put code into its schema. It is not run with the rights of the program: what
// SQLite does not hold for harmless makes Open fail.
func TestFunctionsOfAPreparedSchemaDoNotRun(t *testing.T) {
	for _, table := range []string{"record", "entry"} {
		path := filledPath(t)
		db := raw(t, path)
		mustExec(t, db, "CREATE TRIGGER prepared AFTER INSERT ON "+table+
			" BEGIN UPDATE store SET sequence = sequence + (SELECT count(*) FROM pragma_database_list); END")
		require.NoError(t, db.Close())
		_, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		require.ErrorContains(t, err, "unsafe use of virtual table", table)
	}
}

// Whatever writes an index entry, here a trigger that was prepared: it names a record that there is, or the commit is none.
func TestIndexEntriesNameRecordsThatThereAre(t *testing.T) {
	for name, trigger := range map[string]string{
		"no record": "AFTER INSERT ON record BEGIN INSERT INTO entry (name, kind, region, account, id, value) " +
			"VALUES ('tag', 'key', 'us-east-1', '111122223333', 'nowhere', 'value'); END",
		"record removed": "AFTER INSERT ON entry BEGIN DELETE FROM record WHERE id = NEW.id; END",
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			db := raw(t, path)
			mustExec(t, db, "CREATE TRIGGER prepared "+trigger)
			require.NoError(t, db.Close())
			s := mustOpen(t, path)
			_, err := s.Commit(t.Context(), key("a").Put(0))
			require.ErrorContains(t, err, "FOREIGN KEY constraint failed")
			_, err = s.Get(t.Context(), key("a").Ref())
			require.ErrorIs(t, err, keystore.ErrNotFound)
			require.NoError(t, s.Verify(t.Context()))
		})
	}
}

// Damage of a page is found when it is read, whichever of its records was asked for, and not by the write that would go wrong.
func TestDamageIsFoundWhenAPageIsRead(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	for _, id := range []string{"a", "b", "c"} {
		_, err := s.Commit(t.Context(), key(id).Put(0))
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
	var root int64
	db := raw(t, path)
	require.NoError(t, db.QueryRow("SELECT rootpage FROM sqlite_schema WHERE name = 'record'").Scan(&root))
	require.NoError(t, db.Close())

	// The one page of the records (SQLite's "Database File Format", "B-tree Pages"): a header of 8 bytes, with the number of
	// cells in bytes 3 and 4, and then the place of each cell, ordered by key. The last cell is moved so that it ends behind
	// the page; the search for the first record does not come by it.
	const size, header = 4096, 8
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	page := data[(root-1)*size:][:size]
	require.EqualValues(t, 10, page[0], "a leaf of an index")
	cells := int(binary.BigEndian.Uint16(page[3:]))
	require.Equal(t, 3, cells)
	binary.BigEndian.PutUint16(page[header+2*(cells-1):], size-4)
	copy(page[size-4:], []byte{0x83, 0x7f, 0x05, 0x17}) // a length of 511 bytes
	require.NoError(t, os.WriteFile(path, data, 0o600))

	s, err = sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err, "nothing was read of the page")
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	_, err = s.Get(t.Context(), key("a").Ref())
	requireHint(t, err, "file is damaged")
}
