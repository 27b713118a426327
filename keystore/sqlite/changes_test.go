package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

func changedSince(t *testing.T, s *sqlite.Store, since keystore.Mark) keystore.Changed {
	t.Helper()
	changed, err := s.ChangedSince(t.Context(), since)
	require.NoError(t, err)
	return changed
}

// The table of changes does not grow with the number of changes.
func TestTableOfChangesIsBounded(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	begin := changedSince(t, s, "").Now
	fill(t, s, 10_000)
	db := raw(t, path)
	requireText(t, db, "SELECT count(*) FROM change", "4096")
	requireText(t, db, "SELECT count(*) FROM record", "10000")
	require.NoError(t, db.Close())
	assert.True(t, changedSince(t, s, begin).All)
}

// A restored store goes its own way. What was known of the store before does not count there, whichever number of changes
// it has come to; what was so before the backup still does.
func TestMarksOfAnotherHistoryAreUnknown(t *testing.T) {
	s := mustOpen(t, newPath(t))
	commit(t, s, key("a").Put(0))
	shared := changedSince(t, s, "").Now
	backup := backedUp(t, s)
	commit(t, s, key("b").Put(0))
	lost := changedSince(t, s, shared)
	require.Equal(t, []keystore.Ref{key("b").Ref()}, lost.Refs)

	r, _ := restored(t, backup)
	assert.True(t, changedSince(t, r, lost.Now).All, "a moment after the backup")
	for _, id := range []string{"c", "d", "e"} {
		commit(t, r, key(id).Put(0))
		assert.True(t, changedSince(t, r, lost.Now).All, "as many changes as then, and more")
	}
	changed := changedSince(t, r, shared)
	assert.Equal(t, []keystore.Ref{key("c").Ref(), key("d").Ref(), key("e").Ref()}, changed.Refs)

	another := mustOpen(t, newPath(t))
	commit(t, another, key("a").Put(0))
	assert.True(t, changedSince(t, another, shared).All, "another store")
}

// The content of another history may come into the very file that is open, by SQLite's own means.
func TestMarksOfReplacedContentAreUnknown(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	commit(t, s, key("a").Put(0))
	copied := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, s.Backup(t.Context(), copied))
	commit(t, s, key("b").Put(0))
	mark := changedSince(t, s, "").Now

	db := raw(t, path)
	mustExec(t, db, "ATTACH '"+copied+"' AS other; BEGIN; DELETE FROM entry; DELETE FROM record; "+
		"INSERT INTO record SELECT * FROM other.record; INSERT INTO entry SELECT * FROM other.entry; "+
		"DELETE FROM change; INSERT INTO change SELECT * FROM other.change; COMMIT; DETACH other")
	require.NoError(t, db.Close())
	assert.True(t, changedSince(t, s, mark).All)
	commit(t, s, key("c").Put(0))
	assert.True(t, changedSince(t, s, mark).All)
}

// A person who edits a record tells of it without knowing.
func TestEditsByHandAreChanges(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	commit(t, s, keystore.Region{Name: "r", Serial: "1"}.Put(0))
	db := raw(t, path)
	moved := keystore.Ref{Kind: keystore.KindRegion, Region: "r", ID: "moved"}
	for _, edit := range []struct {
		query string
		refs  []keystore.Ref
	}{
		{"UPDATE record SET value = CAST('{}' AS BLOB)", []keystore.Ref{keystore.RegionRef("r"), keystore.RegionRef("r")}},
		{"UPDATE record SET id = 'moved'", []keystore.Ref{keystore.RegionRef("r"), moved}},
		{"DELETE FROM record", []keystore.Ref{moved}},
	} {
		mark := changedSince(t, s, "").Now
		mustExec(t, db, edit.query)
		assert.Equal(t, edit.refs, changedSince(t, s, mark).Refs, edit.query)
	}
}

// Without its rows the table cannot tell anything, and says so.
func TestAnEmptyTableOfChangesIsDamage(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	db := raw(t, path)
	mustExec(t, db, "DELETE FROM change")
	require.NoError(t, db.Close())
	_, err := s.ChangedSince(t.Context(), "")
	requireHint(t, err, "damaged")
	require.ErrorContains(t, s.Verify(t.Context()), "its table of changes is empty")
}
