package records_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

var errVisit = errors.New("enough")

// A walk visits every record once and in order, however many pages there are, and ends at the first error.
func TestWalksGoThroughAllPages(t *testing.T) {
	for _, n := range []int{0, 1, keystore.MaxPage, 2*keystore.MaxPage + 1} {
		store := openStore(t, newPath(t))
		var want []string
		for i := 0; i < n; i += keystore.MaxChanges {
			var batch []keystore.Change
			for j := i; j < min(i+keystore.MaxChanges, n); j++ {
				name := fmt.Sprintf("alias/%05d", j)
				want = append(want, name)
				batch = append(batch, keystore.Alias{Region: "r", Account: "a", Name: name, Target: "t"}.Put(0))
			}
			_, err := store.Commit(t.Context(), batch...)
			require.NoError(t, err)
		}
		for _, walk := range []func(func(keystore.Record) error) error{
			func(visit func(keystore.Record) error) error {
				return records.EachOf(t.Context(), store, keystore.KindAlias, "r", "a", visit)
			},
			func(visit func(keystore.Record) error) error {
				return records.EachIndexed(t.Context(), store, keystore.IndexAliasTarget, visit)
			},
		} {
			var seen []string
			see := func(rec keystore.Record) error { seen = append(seen, rec.Ref.ID); return nil }
			require.NoError(t, walk(see))
			require.True(t, slices.Equal(want, seen), "%d records: %d visits", n, len(seen))
			if n < 2 {
				continue
			}
			visits := 0
			require.ErrorIs(t, walk(func(keystore.Record) error { visits++; return errVisit }), errVisit)
			require.Equal(t, 1, visits)
		}
	}
}

// What lost a race is repeated until it wins or fails otherwise, and not after the end of its context.
func TestLostRacesAreRepeated(t *testing.T) {
	lost := fmt.Errorf("commit: %w", keystore.ErrConflict)
	for _, last := range []error{nil, errVisit} {
		answers := []error{lost, lost, last}
		tries := 0
		err := records.RetryConflicts(t.Context(), func() error { tries++; return answers[tries-1] })
		require.Equal(t, last, err)
		require.Equal(t, 3, tries)
	}
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	err := records.RetryConflicts(ctx, func() error {
		tries++
		if tries == 2 {
			cancel()
		}
		require.LessOrEqual(t, tries, 2)
		return lost
	})
	require.ErrorIs(t, err, keystore.ErrConflict)
}

// A counter that there is not is 0 and of version 0, so that it can be put; any other failure is one.
func TestCounterThatIsNotThere(t *testing.T) {
	store := openStore(t, newPath(t))
	counter, version, err := records.ReadCounter(t.Context(), store, "r", "a", "n")
	require.NoError(t, err)
	require.Zero(t, version)
	require.Equal(t, keystore.Counter{Region: "r", Account: "a", Name: "n"}, counter)
	counter.N = 7
	put, err := store.Commit(t.Context(), counter.Put(version))
	require.NoError(t, err)
	counter, version, err = records.ReadCounter(t.Context(), store, "r", "a", "n")
	require.NoError(t, err)
	require.Equal(t, put, version)
	require.Equal(t, 7, counter.N)
	require.NoError(t, store.Close())
	_, _, err = records.ReadCounter(t.Context(), store, "r", "a", "n")
	require.ErrorIs(t, err, keystore.ErrClosed)
}

// getter is a store with one record.
type getter keystore.Record

func (g getter) Get(context.Context, keystore.Ref) (keystore.Record, error) {
	return keystore.Record(g), nil
}

// A counter that cannot be read is no 0.
func TestCounterThatIsNone(t *testing.T) {
	_, _, err := records.ReadCounter(t.Context(), getter{Ref: keystore.CounterRef("r", "a", "n"), Version: 3, Value: []byte("junk")},
		"r", "a", "n")
	require.ErrorContains(t, err, "counter record n")
}

// Of a record that there is not the version is 0, until it is put.
func TestUnchangedRecords(t *testing.T) {
	store := openStore(t, newPath(t))
	unchanged := func(version uint64) bool {
		same, err := records.Unchanged(t.Context(), store, ref("a"), version)
		require.NoError(t, err)
		return same
	}
	require.True(t, unchanged(0))
	require.False(t, unchanged(1))
	version := set(t, store, "a", 1)
	require.True(t, unchanged(version))
	require.False(t, unchanged(0))
	set(t, store, "a", 1)
	require.False(t, unchanged(version), "the same value, put again")
	require.NoError(t, store.Close())
	_, err := records.Unchanged(t.Context(), store, ref("a"), version)
	require.ErrorIs(t, err, keystore.ErrClosed)
}

// Times are kept as they are on the wire, so that a record and an answer say the same.
func TestTimesOfRecords(t *testing.T) {
	east := time.FixedZone("", 3600)
	require.Equal(t, time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC), records.Time(time.Date(2026, 1, 2, 4, 4, 5, 678999999, east)))
}
