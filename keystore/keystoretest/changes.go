package keystoretest

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
)

// mustMark returns the mark of now.
func mustMark(t *testing.T, s keystore.Store) keystore.Mark {
	t.Helper()
	return mustChanged(t, s, "").Now
}

func mustChanged(t *testing.T, s keystore.Store, since keystore.Mark) keystore.Changed {
	t.Helper()
	changed, err := s.ChangedSince(t.Context(), since)
	require.NoError(t, err)
	require.NotEmpty(t, changed.Now)
	if changed.All {
		require.Empty(t, changed.Refs)
	}
	return changed
}

// requireChanged asserts that just these records have changed since the mark, and returns the next one.
func requireChanged(t *testing.T, s keystore.Store, since keystore.Mark, want ...string) keystore.Mark {
	t.Helper()
	changed := mustChanged(t, s, since)
	require.False(t, changed.All)
	got := []string{}
	for _, r := range changed.Refs {
		require.Equal(t, ref(r.ID), r)
		got = append(got, r.ID)
	}
	slices.Sort(got)
	require.Equal(t, want, slices.Compact(got))
	require.NotEqual(t, since, changed.Now)
	return changed.Now
}

func testChangesAreNamed(t *testing.T, open Opener) {
	s, other := open(t), open(t)
	mustCommit(t, other, put("old", 0, ""))
	begin := mustMark(t, s)
	mark := begin

	mine := mustCommit(t, s, put("a", 0, ""))
	mark = requireChanged(t, s, mark, "a") // an own put
	theirs := mustCommit(t, other, put("b", 0, ""))
	mark = requireChanged(t, s, mark, "b") // a put of another instance
	mine = mustCommit(t, s, put("a", mine, ""))
	mark = requireChanged(t, s, mark, "a") // a put of the same value
	mustCommit(t, s, del("a", mine))
	mark = requireChanged(t, s, mark, "a")
	mustCommit(t, other, del("b", theirs), put("c", 0, ""), put("d", 0, ""))
	mark = requireChanged(t, s, mark, "b", "c", "d")
	third := open(t)
	mustCommit(t, third, put("e", 0, ""))
	require.NoError(t, third.Close())
	requireChanged(t, s, mark, "e") // a put of an instance that is gone

	requireChanged(t, s, begin, "a", "b", "c", "d", "e")
	requireChanged(t, other, begin, "a", "b", "c", "d", "e") // whoever asks
	requireChanged(t, s, mark, "e")                          // as often as it is asked
}

func testChangesRest(t *testing.T, open Opener) {
	s, other := open(t), open(t)
	version := mustCommit(t, s, put("a", 0, "", ckaID("1")))
	first := mustMark(t, s)
	for range 5 {
		_, err := other.Commit(t.Context(), put("a", version+1, ""))
		require.ErrorIs(t, err, keystore.ErrConflict)
		_, err = s.Commit(t.Context(), put("b", 0, "", ckaID("1")))
		require.ErrorIs(t, err, keystore.ErrExists)
		mustGet(t, other, "a")
		mustMark(t, other)
		require.Equal(t, keystore.Changed{Now: first}, mustChanged(t, s, first), "nothing was committed")
	}
}

// testChangesMissNone asks before and after each of many commits that run at once: each must be told, whoever else commits
// and asks in between.
func testChangesMissNone(t *testing.T, open Opener) {
	watched, other := open(t), open(t)
	var group errgroup.Group
	for w := range 6 {
		committer := []keystore.Store{watched, other}[w%2]
		group.Go(func() error {
			for i := range 25 {
				before, err := watched.ChangedSince(t.Context(), "")
				if err != nil {
					return err
				}
				mine := put(fmt.Sprintf("id-%d-%d", w, i), 0, "")
				if _, err := committer.Commit(t.Context(), mine); err != nil {
					return err
				}
				changed, err := watched.ChangedSince(t.Context(), before.Now)
				if err != nil {
					return err
				}
				if !changed.All && !slices.Contains(changed.Refs, mine.Ref) {
					return fmt.Errorf("worker %d missed commit %d", w, i)
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
}

// testChangesAreToldWhole follows a writer of pairs: whoever is told of one record of a batch is told of the other, and none is
// lost between two looks.
func testChangesAreToldWhole(t *testing.T, open Opener) {
	const pairs = 200
	writer, reader := open(t), open(t)
	mark := mustMark(t, reader)
	var group errgroup.Group
	var done atomic.Bool
	group.Go(func() (err error) {
		defer done.Store(true)
		for i := 0; i < pairs && err == nil; i++ {
			_, err = writer.Commit(t.Context(), put(fmt.Sprint("a", i), 0, ""), put(fmt.Sprint("b", i), 0, ""))
		}
		return err
	})
	told := map[string]bool{}
	for last := false; !last; {
		last = done.Load() // one more look after the end
		changed, err := reader.ChangedSince(t.Context(), mark)
		if !assert.NoError(t, err) || !assert.False(t, changed.All) {
			break
		}
		mark = changed.Now
		now := map[string]bool{}
		for _, r := range changed.Refs {
			now[r.ID], told[r.ID] = true, true
		}
		for id := range now {
			assert.True(t, now["a"+id[1:]] && now["b"+id[1:]], id)
		}
	}
	require.NoError(t, group.Wait())
	require.Len(t, told, 2*pairs, "a change between two looks")
}

func testChangesSinceAnUnknownMark(t *testing.T, open Opener) {
	s := open(t)
	mustCommit(t, s, put("a", 0, ""))
	now := mustMark(t, s)
	for _, mark := range []keystore.Mark{"", "x", "-", "0", "1", "-1", "99999999999999999999999", now + "0", "0" + now, now[:len(now)-1],
		now + "\x00"} {
		require.Equal(t, keystore.Changed{Now: now, All: true}, mustChanged(t, s, mark), "%q", mark)
	}
}

// testChangesAfterALongTime: the store keeps no changes for ever. What it tells is right all the same.
func testChangesAfterALongTime(t *testing.T, open Opener) {
	s := open(t)
	begin := mustMark(t, s)
	for batch := range 160 { // 10,240 records
		var changes []keystore.Change
		for i := range keystore.MaxChanges {
			changes = append(changes, put(fmt.Sprintf("id-%03d-%02d", batch, i), 0, ""))
		}
		mustCommit(t, s, changes...)
	}
	if changed := mustChanged(t, s, begin); !changed.All {
		require.Len(t, changed.Refs, 160*keystore.MaxChanges)
	}
	mark := mustMark(t, s)
	mustCommit(t, s, put("a", 0, ""))
	requireChanged(t, s, mark, "a")
}

// testMarksOutliveTheInstance: a mark is one of the store and not of who asked for it.
func testMarksOutliveTheInstance(t *testing.T, open Opener) {
	s := open(t)
	mustCommit(t, s, put("a", 0, ""))
	mark := mustMark(t, s)
	require.NoError(t, s.Close())
	other := open(t)
	mustCommit(t, other, put("b", 0, ""))
	requireChanged(t, open(t), mark, "b")
}
