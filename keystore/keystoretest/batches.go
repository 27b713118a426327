package keystoretest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func testBatchAllOrNothing(t *testing.T, open Opener) {
	s := open(t)
	kept := mustCommit(t, s, put("kept", 0, "before", ckaID("1"), unfinished("before")))
	taken := mustCommit(t, s, put("taken", 0, "", ckaID("2")))
	for name, last := range map[string]struct {
		change keystore.Change
		want   error
	}{
		"condition of the last change": {put("taken", taken+1, ""), keystore.ErrConflict},
		"check at the end":             {check("taken", 0), keystore.ErrConflict},
		"index of the last change":     {put("other", 0, "", ckaID("2")), keystore.ErrExists},
	} {
		_, err := s.Commit(t.Context(),
			put("new", 0, "x", ckaID("3"), unfinished("after")), del("kept", kept), last.change)
		require.ErrorIs(t, err, last.want, name)

		requireAbsent(t, s, "new")
		requireAbsent(t, s, "other")
		assert.Equal(t, "before", string(mustGet(t, s, "kept").Value), name)
		recs, err := s.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 10)
		require.NoError(t, err)
		assert.Equal(t, []string{"kept"}, ids(recs), name)
	}
	// The store goes on as before.
	mustCommit(t, s, put("new", 0, "x", ckaID("3")), del("kept", kept))
}

func testBatchSharesOneVersion(t *testing.T, open Opener) {
	s := open(t)
	old := mustCommit(t, s, put("old", 0, ""))
	version := mustCommit(t, s, put("a", 0, ""), put("old", old, "renewed"), put("b", 0, ""))
	for _, id := range []string{"a", "b", "old"} {
		assert.Equal(t, version, mustGet(t, s, id).Version, id)
	}
}

func testCheckGuardsBatch(t *testing.T, open Opener) {
	a, b := open(t), open(t)
	parent := mustCommit(t, a, put("parent", 0, "1"))
	mustCommit(t, a, check("parent", parent), put("child", 0, ""))

	mustCommit(t, b, put("parent", parent, "2"))
	_, err := a.Commit(t.Context(), check("parent", parent), put("sister", 0, ""))
	require.ErrorIs(t, err, keystore.ErrConflict)
	requireAbsent(t, a, "sister")
}

func testCheckChangesNothing(t *testing.T, open Opener) {
	s := open(t)
	version := mustCommit(t, s, put("a", 0, "value", ckaID("1")))
	mustCommit(t, s, check("a", version), check("b", 0))
	rec := mustGet(t, s, "a")
	assert.Equal(t, version, rec.Version)
	assert.Equal(t, "value", string(rec.Value))
	requireAbsent(t, s, "b")
	recs, err := s.Lookup(t.Context(), keystore.IndexCKAID, "1", keystore.Ref{}, 10)
	require.NoError(t, err)
	assert.Equal(t, []string{"a"}, ids(recs))
}

func testBatchLimits(t *testing.T, open Opener) {
	s := open(t)
	var changes []keystore.Change
	for i := range keystore.MaxChanges + 1 {
		changes = append(changes, put(fmt.Sprintf("id-%02d", i), 0, "x", ckaID(fmt.Sprint(i))))
	}
	_, err := s.Commit(t.Context(), changes...)
	require.Error(t, err, "one more than the limit")
	requireAbsent(t, s, "id-00")
	mustCommit(t, s, changes[:keystore.MaxChanges]...)
	mustGet(t, s, fmt.Sprintf("id-%02d", keystore.MaxChanges-1))

	mustCommit(t, s, put("longest", 0, string(make([]byte, keystore.MaxValue))))
	_, err = s.Commit(t.Context(), put("too long", 0, string(make([]byte, keystore.MaxValue+1))))
	require.Error(t, err)
	requireAbsent(t, s, "too long")
}

func testMalformedBatch(t *testing.T, open Opener) {
	s := open(t)
	withValue := check("a", 0)
	withValue.Value = []byte("x")
	for name, changes := range map[string][]keystore.Change{
		"no change":                     {},
		"one record twice":              {put("a", 0, "1"), put("a", 0, "2")},
		"one record put and deleted":    {put("a", 0, "1"), del("a", 0)},
		"one record checked and put":    {check("a", 0), put("a", 0, "1")},
		"no id":                         {put("", 0, "1")},
		"no kind":                       {{Op: keystore.Put, Ref: keystore.Ref{ID: "a"}}},
		"unknown operation":             {{Op: 99, Ref: ref("a")}},
		"check with a value":            {withValue},
		"entry without a value":         {put("a", 0, "1", ckaID(""))},
		"entry without an index":        {put("a", 0, "1", keystore.Entry{Value: "x"})},
		"two entries of one index":      {put("a", 0, "1", ckaID("1"), ckaID("2"))},
		"malformed behind a good one":   {put("b", 0, "1"), put("a", 0, "1", ckaID(""))},
		"delete with an index entry":    {{Op: keystore.Delete, Ref: ref("a"), Index: []keystore.Entry{ckaID("1")}}},
		"unknown operation behind good": {put("b", 0, "1"), {Op: -1, Ref: ref("a")}},
	} {
		_, err := s.Commit(t.Context(), changes...)
		require.Error(t, err, name)
		assert.NotErrorIs(t, err, keystore.ErrConflict, name)
		assert.NotErrorIs(t, err, keystore.ErrExists, name)
		requireAbsent(t, s, "a")
		requireAbsent(t, s, "b")
	}
}
