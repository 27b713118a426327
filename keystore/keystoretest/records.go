package keystoretest

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func testLife(t *testing.T, open Opener) {
	s := open(t)
	requireAbsent(t, s, "a")

	first := mustCommit(t, s, put("a", 0, "one"))
	require.NotZero(t, first)
	assert.Equal(t, keystore.Record{Ref: ref("a"), Version: first, Value: []byte("one")}, withoutEmptySeal(mustGet(t, s, "a")))

	second := mustCommit(t, s, put("a", first, "two"))
	rec := mustGet(t, s, "a")
	assert.Equal(t, "two", string(rec.Value))
	assert.Equal(t, second, rec.Version)

	mustCommit(t, s, del("a", second))
	requireAbsent(t, s, "a")
}

// withoutEmptySeal lets a store answer no seal as nil or as empty.
func withoutEmptySeal(rec keystore.Record) keystore.Record {
	if len(rec.Seal) == 0 {
		rec.Seal = nil
	}
	return rec
}

func testGetSeesOtherInstances(t *testing.T, open Opener) {
	a, b := open(t), open(t)
	version := mustCommit(t, a, put("a", 0, "0"))
	for i := range 20 {
		writer, reader := a, b
		if i%2 == 1 {
			writer, reader = b, a
		}
		version = mustCommit(t, writer, put("a", version, string(rune('a'+i))))
		rec := mustGet(t, reader, "a")
		require.Equal(t, version, rec.Version)
		require.Equal(t, string(rune('a'+i)), string(rec.Value))
	}
	mustCommit(t, b, del("a", version))
	requireAbsent(t, a, "a")
}

func testVersionsOnlyGrow(t *testing.T, open Opener) {
	a, b := open(t), open(t)
	last := uint64(0)
	for i, s := range []keystore.Store{a, b, b, a} {
		version := mustCommit(t, s, put(string(rune('a'+i)), 0, ""))
		require.Greater(t, version, last, "versions are numbers of the store, not of a record")
		last = version
	}
}

func testDeletedAndMadeAgain(t *testing.T, open Opener) {
	s := open(t)
	old := mustCommit(t, s, put("a", 0, "old"))
	mustCommit(t, s, del("a", old))
	require.NoError(t, s.Close())

	s = open(t) // a counter that lives in memory alone would start anew
	renewed := mustCommit(t, s, put("a", 0, "new"))
	require.Greater(t, renewed, old)
	_, err := s.Commit(t.Context(), put("a", old, "stale"))
	require.ErrorIs(t, err, keystore.ErrConflict)
	assert.Equal(t, "new", string(mustGet(t, s, "a").Value))
}

func testExpectMustHold(t *testing.T, open Opener) {
	s := open(t)
	old := mustCommit(t, s, put("a", 0, "1"))
	now := mustCommit(t, s, put("a", old, "2"))
	for name, change := range map[string]keystore.Change{
		"make what is there":        put("a", 0, "x"),
		"change an old version":     put("a", old, "x"),
		"change a later version":    put("a", now+1, "x"),
		"change an absurd version":  put("a", 1<<63, "x"),
		"change what is not there":  put("b", now, "x"),
		"delete an old version":     del("a", old),
		"delete what is not there":  del("b", now),
		"delete as if not there":    del("a", 0),
		"check an old version":      check("a", old),
		"check what is not there":   check("b", now),
		"check absence of a record": check("a", 0),
	} {
		_, err := s.Commit(t.Context(), change)
		assert.ErrorIs(t, err, keystore.ErrConflict, name)
	}
	assert.Equal(t, now, mustGet(t, s, "a").Version)
	requireAbsent(t, s, "b")

	mustCommit(t, s, del("b", 0), check("c", 0), check("a", now)) // conditions that hold
	assert.Equal(t, now, mustGet(t, s, "a").Version)
}

func testBytesAreKept(t *testing.T, open Opener) {
	s := open(t)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for name, value := range map[string][]byte{
		"nil": nil, "empty": {}, "zero": {0}, "all bytes": all, "long": bytes.Repeat(all, keystore.MaxValue/256),
	} {
		change := put("id of "+name, 0, "")
		change.Value, change.Seal = value, all
		mustCommit(t, s, change)
		rec := mustGet(t, s, "id of "+name)
		assert.True(t, bytes.Equal(value, rec.Value), name)
		assert.True(t, bytes.Equal(all, rec.Seal), name)
	}
}

func testSlicesAreNotShared(t *testing.T, open Opener) {
	s := open(t)
	value := []byte("value")
	change := put("a", 0, "")
	change.Value = value
	mustCommit(t, s, change)
	require.Equal(t, "value", string(value), "Commit left its input alone")
	value[0] = 'X'

	rec := mustGet(t, s, "a")
	require.Equal(t, "value", string(rec.Value))
	rec.Value[0] = 'Y'
	require.Equal(t, "value", string(mustGet(t, s, "a").Value))

	page, err := s.List(t.Context(), keystore.KindKey, region, account, "", 10)
	require.NoError(t, err)
	require.Len(t, page, 1)
	page[0].Value[0] = 'Z'
	require.Equal(t, "value", string(mustGet(t, s, "a").Value))
}

func testRefsAreDistinct(t *testing.T, open Opener) {
	s := open(t)
	// Names that would run into each other if a store joined the parts with a separator.
	refs := []keystore.Ref{
		{Kind: "key", Region: "r", Account: "a", ID: "i"},
		{Kind: "key", Region: "r", Account: "", ID: "i"},
		{Kind: "key", Region: "", Account: "r", ID: "i"},
		{Kind: "key", Region: "r", Account: "a/i", ID: "i"},
		{Kind: "key", Region: "r/a", Account: "i", ID: "i"},
		{Kind: "key", Region: "r", Account: "a", ID: "i/i"},
		{Kind: "region", Region: "r", Account: "a", ID: "i"},
		{Kind: "key", Region: "R", Account: "a", ID: "i"},
		{Kind: "key", Region: "r", Account: "a", ID: "I"},
		{Kind: "key", Region: "r", Account: "a", ID: "i "},
		{Kind: "key", Region: "r", Account: "a", ID: "i\x00"},
		{Kind: "key", Region: "r", Account: "a", ID: "%"},
	}
	versions := map[keystore.Ref]uint64{}
	for _, r := range refs {
		versions[r] = mustCommit(t, s, keystore.Change{Op: keystore.Put, Ref: r, Value: []byte(r.ID)})
	}
	for _, r := range refs {
		rec, err := s.Get(t.Context(), r)
		require.NoError(t, err, "%+v", r)
		assert.Equal(t, r, rec.Ref)
		assert.Equal(t, versions[r], rec.Version, "%+v", r)
	}
}
