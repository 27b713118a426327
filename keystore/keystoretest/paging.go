package keystoretest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// page lists records of the usual region and account.
func page(t *testing.T, s keystore.Store, after string, limit int) []string {
	t.Helper()
	recs, err := s.List(t.Context(), keystore.KindKey, region, account, after, limit)
	require.NoError(t, err)
	require.LessOrEqual(t, len(recs), limit)
	return ids(recs)
}

func testListIsOrderedAndApart(t *testing.T, open Opener) {
	s := open(t)
	assert.Empty(t, page(t, s, "", 10))

	want := []string{"0", "A", "Z", "a", "a b", "aa", "b", "é"} // byte by byte
	for _, id := range []string{"é", "aa", "b", "Z", "a", "A", "a b", "0"} {
		mustCommit(t, s, put(id, 0, "value of "+id))
	}
	for i, apart := range []keystore.Ref{
		{Kind: keystore.KindRegion, Region: region, Account: account, ID: "k"},
		{Kind: keystore.KindKey, Region: "us-east-2", Account: account, ID: "l"},
		{Kind: keystore.KindKey, Region: region, Account: "111122223334", ID: "m"},
		{Kind: keystore.KindKey, Region: region, Account: "", ID: "n"},
	} {
		mustCommit(t, s, keystore.Change{Op: keystore.Put, Ref: apart, Value: fmt.Append(nil, i)})
	}
	recs, err := s.List(t.Context(), keystore.KindKey, region, account, "", 100)
	require.NoError(t, err)
	assert.Equal(t, want, ids(recs))
	for _, rec := range recs {
		assert.Equal(t, withoutEmptySeal(mustGet(t, s, rec.Ref.ID)), withoutEmptySeal(rec))
	}
	assert.Equal(t, []string{"aa", "b", "é"}, page(t, s, "a b", 100), "after a record")
	assert.Equal(t, []string{"aa", "b", "é"}, page(t, s, "a z", 100), "after a record that is not there")
	assert.Empty(t, page(t, s, "é", 100))
}

func testListPages(t *testing.T, open Opener) {
	s := open(t)
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("id-%02d", i))
		mustCommit(t, s, put(want[i], 0, ""))
	}
	for _, limit := range []int{1, 3, 5, 19, 20, 21, keystore.MaxPage} {
		var got []string
		after := ""
		for {
			ids := page(t, s, after, limit)
			got = append(got, ids...)
			if len(ids) < limit {
				break
			}
			after = ids[limit-1]
		}
		require.Equal(t, want, got, "limit %d", limit)
	}
}

func testAllReadsEveryKind(t *testing.T, open Opener) {
	s := open(t)
	var want []keystore.Ref
	for _, kind := range []keystore.Kind{keystore.KindAlias, keystore.KindKey, keystore.KindSeals} { // in order
		for _, region := range []string{"", "us-east-1", "us-east-2"} {
			for _, account := range []string{"", "111122223333"} {
				for i := range 3 {
					want = append(want, keystore.Ref{Kind: kind, Region: region, Account: account, ID: fmt.Sprintf("id-%d", i)})
				}
			}
		}
	}
	for _, i := range []int{1, 0} { // not in order
		for j := i; j < len(want); j += 2 {
			mustCommit(t, s, keystore.Change{Op: keystore.Put, Ref: want[j], Value: []byte(want[j].ID), Seal: []byte{1}})
		}
	}
	for _, limit := range []int{1, 2, 5, len(want) - 1, len(want), keystore.MaxPage} {
		var got []keystore.Ref
		var after keystore.Ref
		for {
			recs, err := s.All(t.Context(), after, limit)
			require.NoError(t, err)
			for _, rec := range recs {
				got, after = append(got, rec.Ref), rec.Ref
				one, err := s.Get(t.Context(), rec.Ref)
				require.NoError(t, err)
				require.Equal(t, one, rec)
			}
			if len(recs) < limit {
				break
			}
		}
		require.Equal(t, want, got, "limit %d", limit)
	}
}

// testListPagesWhileOthersWrite has another instance add and remove records on both sides of the reader's place,
// between any two of its pages.
func testListPagesWhileOthersWrite(t *testing.T, open Opener) {
	s, other := open(t), open(t)
	var staying []string
	for i := range 30 {
		staying = append(staying, fmt.Sprintf("id-%02d", i))
		mustCommit(t, s, put(staying[i], 0, ""))
	}
	churn := map[string]uint64{}
	toggle := func(id string) {
		if version, there := churn[id]; there {
			mustCommit(t, other, del(id, version))
			delete(churn, id)
			return
		}
		churn[id] = mustCommit(t, other, put(id, 0, ""))
	}
	for pass := range 4 {
		var got []string
		after := ""
		for {
			ids := page(t, s, after, 4)
			got = append(got, ids...)
			if len(ids) < 4 {
				break
			}
			after = ids[3]
			toggle("id-00-early")
			toggle(after + "-next")
			toggle(fmt.Sprintf("id-%02d-late", 20+pass))
		}
		require.True(t, slices.IsSorted(got), "pass %d", pass)
		require.Len(t, slices.Compact(slices.Clone(got)), len(got), "none comes twice")
		require.Equal(t, staying, slices.DeleteFunc(got, func(id string) bool { return len(id) > len("id-00") }))
	}
}

func testPageLimits(t *testing.T, open Opener) {
	s := open(t)
	mustCommit(t, s, put("a", 0, "", ckaID("1")))
	for _, limit := range []int{-1, 0, keystore.MaxPage + 1} {
		_, err := s.List(t.Context(), keystore.KindKey, region, account, "", limit)
		assert.Error(t, err, "limit %d", limit)
		_, err = s.Lookup(t.Context(), keystore.IndexCKAID, "", keystore.Ref{}, limit)
		assert.Error(t, err, "limit %d", limit)
		_, err = s.All(t.Context(), keystore.Ref{}, limit)
		assert.Error(t, err, "limit %d", limit)
	}
	for _, limit := range []int{1, keystore.MaxPage} {
		_, err := s.List(t.Context(), keystore.KindKey, region, account, "", limit)
		assert.NoError(t, err, "limit %d", limit)
		_, err = s.Lookup(t.Context(), keystore.IndexCKAID, "", keystore.Ref{}, limit)
		assert.NoError(t, err, "limit %d", limit)
	}
}

// testSnapshotIsOneMoment has another instance change records between the pages of a snapshot, which shows none of that.
func testSnapshotIsOneMoment(t *testing.T, open Opener) {
	s, other := open(t), open(t)
	snapshots, ok := s.(keystore.Snapshots)
	if !ok {
		t.Skip("this store shows no single moment")
	}
	var want []string
	var version uint64
	for i := range keystore.MaxPage + 2 {
		want = append(want, fmt.Sprintf("id-%05d", i))
		version = mustCommit(t, s, put(want[i], 0, "before"))
	}
	var got []string
	shown, err := snapshots.Snapshot(t.Context(), func(recs []keystore.Record) error {
		for _, rec := range recs {
			require.Equal(t, "before", string(rec.Value))
		}
		got = append(got, ids(recs)...)
		last := mustGet(t, other, want[len(want)-1])
		mustCommit(t, other, put(last.Ref.ID, last.Version, "after"), put(fmt.Sprintf("id-zz-%d", len(got)), 0, "after"))
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, version, shown)
	require.Equal(t, want, got)
	_, err = snapshots.Snapshot(t.Context(), func([]keystore.Record) error { return keystore.ErrExists })
	require.Equal(t, keystore.ErrExists, err, "what the visitor says")
}
