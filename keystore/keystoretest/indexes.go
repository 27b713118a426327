package keystoretest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// found looks up the first records and names them.
func found(t *testing.T, s keystore.Store, index keystore.Index, value string) []string {
	t.Helper()
	recs, err := s.Lookup(t.Context(), index, value, keystore.Ref{}, 100)
	require.NoError(t, err)
	return ids(recs)
}

func testUniqueIndex(t *testing.T, open Opener) {
	s := open(t)
	mustCommit(t, s, put("a", 0, "", ckaID("1")))
	_, err := s.Commit(t.Context(), put("b", 0, "", ckaID("1")))
	require.ErrorIs(t, err, keystore.ErrExists)
	requireAbsent(t, s, "b")

	other := put("b", 0, "", ckaID("1"))
	other.Ref.Region, other.Ref.Account = "eu-west-1", "444455556666"
	_, err = s.Commit(t.Context(), other)
	require.ErrorIs(t, err, keystore.ErrExists, "unique in the store, not in a region")

	_, err = s.Commit(t.Context(), put("b", 0, "", ckaID("2")), put("c", 0, "", ckaID("2")))
	require.ErrorIs(t, err, keystore.ErrExists, "two records of one batch")

	// The other index gives one value to many.
	mustCommit(t, s, put("b", 0, "", ckaID("2"), unfinished("i")), put("c", 0, "", ckaID("3"), unfinished("i")))
	assert.Equal(t, []string{"b", "c"}, found(t, s, keystore.IndexUnfinished, "i"))
}

func testUniqueValueIsFreed(t *testing.T, open Opener) {
	s := open(t)
	version := mustCommit(t, s, put("a", 0, "", ckaID("1")))
	mustCommit(t, s, del("a", version))
	version = mustCommit(t, s, put("b", 0, "", ckaID("1")))
	version = mustCommit(t, s, put("b", version, "", ckaID("1"))) // its own value is in nobody's way
	mustCommit(t, s, put("b", version, "", ckaID("2")))
	mustCommit(t, s, put("c", 0, "", ckaID("1")))
	assert.Equal(t, []string{"c"}, found(t, s, keystore.IndexCKAID, "1"))
	assert.Equal(t, []string{"b"}, found(t, s, keystore.IndexCKAID, "2"))
}

func testUniqueValueMoves(t *testing.T, open Opener) {
	s := open(t)
	owner := mustCommit(t, s, put("owner", 0, "", ckaID("1")))
	// The taker comes first in the batch: the order of changes does not count.
	owner = mustCommit(t, s, put("taker", 0, "", ckaID("1")), put("owner", owner, "", ckaID("2")))
	assert.Equal(t, []string{"taker"}, found(t, s, keystore.IndexCKAID, "1"))
	assert.Equal(t, []string{"owner"}, found(t, s, keystore.IndexCKAID, "2"))

	mustCommit(t, s, put("heir", 0, "", ckaID("2")), del("owner", owner))
	assert.Equal(t, []string{"heir"}, found(t, s, keystore.IndexCKAID, "2"))
}

func testUniqueValuesSwap(t *testing.T, open Opener) {
	s := open(t)
	version := mustCommit(t, s, put("a", 0, "", ckaID("1")), put("b", 0, "", ckaID("2")))
	mustCommit(t, s, put("a", version, "", ckaID("2")), put("b", version, "", ckaID("1")))
	assert.Equal(t, []string{"b"}, found(t, s, keystore.IndexCKAID, "1"))
	assert.Equal(t, []string{"a"}, found(t, s, keystore.IndexCKAID, "2"))
}

func testConflictBeforeExists(t *testing.T, open Opener) {
	s := open(t)
	mustCommit(t, s, put("a", 0, "", ckaID("1")))
	_, err := s.Commit(t.Context(), put("b", 0, "", ckaID("1")), put("c", 99, ""))
	require.ErrorIs(t, err, keystore.ErrConflict)
	require.NotErrorIs(t, err, keystore.ErrExists)
}

func testPutReplacesEntries(t *testing.T, open Opener) {
	s := open(t)
	version := mustCommit(t, s, put("a", 0, "", ckaID("1"), unfinished("i")))
	assert.Equal(t, []string{"a"}, found(t, s, keystore.IndexUnfinished, "i"))

	version = mustCommit(t, s, put("a", version, "", ckaID("1"), unfinished("j")))
	assert.Empty(t, found(t, s, keystore.IndexUnfinished, "i"))
	assert.Equal(t, []string{"a"}, found(t, s, keystore.IndexUnfinished, "j"))

	version = mustCommit(t, s, put("a", version, "", ckaID("1")))
	assert.Empty(t, found(t, s, keystore.IndexUnfinished, ""))
	assert.Equal(t, []string{"a"}, found(t, s, keystore.IndexCKAID, ""))

	mustCommit(t, s, del("a", version))
	assert.Empty(t, found(t, s, keystore.IndexCKAID, ""))
}

func testLookupByValue(t *testing.T, open Opener) {
	s := open(t)
	version := mustCommit(t, s, put("a", 0, "value", ckaID("1"), unfinished("i")))
	mustCommit(t, s, put("b", 0, "", ckaID("2"), unfinished("ii")), put("c", 0, "", ckaID("I")))

	recs, err := s.Lookup(t.Context(), keystore.IndexCKAID, "1", keystore.Ref{}, 10)
	require.NoError(t, err)
	require.Len(t, recs, 1)
	assert.Equal(t, keystore.Record{Ref: ref("a"), Version: version, Value: []byte("value")}, withoutEmptySeal(recs[0]))

	assert.Equal(t, []string{"a"}, found(t, s, keystore.IndexUnfinished, "i"), "the whole value counts")
	assert.Empty(t, found(t, s, keystore.IndexUnfinished, "1"), "a value of another index")
	assert.Empty(t, found(t, s, keystore.IndexUnfinished, "I"), "the case counts")
	assert.Empty(t, found(t, s, keystore.IndexCKAID, "%"))
	assert.Empty(t, found(t, s, "no such index", ""))
}

// scattered are references in the order of references, which is not that of their ids.
var scattered = []keystore.Ref{
	{Kind: "key", Region: "a", Account: "1", ID: "y"},
	{Kind: "key", Region: "a", Account: "1", ID: "z"},
	{Kind: "key", Region: "a", Account: "2", ID: "x"},
	{Kind: "key", Region: "b", Account: "1", ID: "w"},
	{Kind: "region", Region: "a", Account: "", ID: "v"},
	{Kind: "region", Region: "b", Account: "", ID: "u"},
}

// scatter makes records at these references, in another order, with the same value in an index and others between.
func scatter(t *testing.T, s keystore.Store, value string) {
	t.Helper()
	for i, r := range slices.Backward(scattered) {
		mustCommit(t, s, keystore.Change{Op: keystore.Put, Ref: r,
			Index: []keystore.Entry{unfinished(value), ckaID(fmt.Sprint(i))}})
		r.ID += "+"
		mustCommit(t, s, keystore.Change{Op: keystore.Put, Ref: r, Index: []keystore.Entry{ckaID(fmt.Sprint(i, "+"))}})
	}
}

func refs(recs []keystore.Record) []keystore.Ref {
	var list []keystore.Ref
	for _, rec := range recs {
		list = append(list, rec.Ref)
	}
	return list
}

func testLookupAll(t *testing.T, open Opener) {
	s := open(t)
	scatter(t, s, "i")
	for _, value := range []string{"", "i"} {
		recs, err := s.Lookup(t.Context(), keystore.IndexUnfinished, value, keystore.Ref{}, 100)
		require.NoError(t, err)
		assert.Equal(t, scattered, refs(recs), "value %q", value)
	}
	assert.Len(t, found(t, s, keystore.IndexCKAID, ""), 2*len(scattered))
}

func testLookupPages(t *testing.T, open Opener) {
	s := open(t)
	scatter(t, s, "i")
	for _, value := range []string{"", "i"} {
		for limit := 1; limit <= len(scattered)+1; limit++ {
			var all []keystore.Ref
			after := keystore.Ref{}
			for {
				recs, err := s.Lookup(t.Context(), keystore.IndexUnfinished, value, after, limit)
				require.NoError(t, err)
				require.LessOrEqual(t, len(recs), limit)
				all = append(all, refs(recs)...)
				if len(recs) < limit {
					break
				}
				after = recs[limit-1].Ref
			}
			require.Equal(t, scattered, all, "value %q, limit %d", value, limit)
		}
	}
}

// A unique index is read in the order of its values, of those with a prefix, a page at a time.
func testRange(t *testing.T, open Opener) {
	s := open(t)
	for id, value := range map[string]string{"1": "p/c", "2": "p/a", "3": "p/ab", "4": "o/x", "5": "q/x", "6": "p/é", "7": "p"} {
		mustCommit(t, s, put(id, 0, "", ckaID(value)))
	}
	read := func(prefix, after string, limit int) []string {
		t.Helper()
		recs, err := s.Range(t.Context(), keystore.IndexCKAID, prefix, after, limit)
		require.NoError(t, err)
		list := []string{}
		for _, rec := range recs {
			list = append(list, rec.Ref.ID)
		}
		return list
	}
	assert.Equal(t, []string{"2", "3", "1", "6"}, read("p/", "", 10))
	assert.Equal(t, []string{"2", "3"}, read("p/", "", 2))
	assert.Equal(t, []string{"1", "6"}, read("p/", "p/ab", 2))
	assert.Equal(t, []string{"1", "6"}, read("p/", "p/abc", 2), "after what is not there")
	assert.Equal(t, []string{"2", "3", "1", "6"}, read("p/", "o/x", 10), "the prefix begins later")
	assert.Empty(t, read("p/", "q/", 10))
	_, err := s.Range(t.Context(), keystore.IndexUnfinished, "", "", 10)
	require.Error(t, err, "it gives one value to many")
	_, err = s.Range(t.Context(), keystore.IndexCKAID, "", "", keystore.MaxPage+1)
	require.Error(t, err)
}
