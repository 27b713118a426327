package records

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// newBounded makes a cache of ten records.
func newBounded(t *testing.T) *Cache {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(path))
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return newOf(10, store, slog.New(slog.DiscardHandler), time.Now)
}

// A cache holds a bounded number of records, and of those that are on their way nothing stays when they have come, whatever
// became of them.
func TestMemoryIsBounded(t *testing.T) {
	c := newBounded(t)
	var all errgroup.Group
	for i := range 50 {
		name := fmt.Sprint(i)
		all.Go(func() error {
			if _, err := c.Commit(t.Context(), keystore.Counter{Name: name, N: i}.Put(0)); err != nil {
				return err
			}
			for _, ref := range []keystore.Ref{keystore.CounterRef("", "", name), keystore.CounterRef("", "", "none"),
				keystore.CounterRef("", "", "0")} {
				counter, err := CachedOrFresh(t.Context(), c, ref, keystore.DecodeCounter)
				if err != nil && !errors.Is(err, keystore.ErrNotFound) {
					return err
				}
				if ref.ID == name && counter.N != i {
					return fmt.Errorf("%s is %d", name, counter.N)
				}
			}
			_, err := Fresh(t.Context(), c, keystore.CounterRef("", "", name), func(keystore.Record) (int, error) { return 0, context.Canceled })
			if !errors.Is(err, context.Canceled) {
				return err
			}
			return c.Confirm(t.Context())
		})
	}
	require.NoError(t, all.Wait())
	require.LessOrEqual(t, c.decoded.Len(), 10)
	for i := range 55 {
		_, err := Fresh(t.Context(), c, keystore.CounterRef("", "", fmt.Sprint(i%50)), keystore.DecodeCounter)
		require.NoError(t, err)
		require.GreaterOrEqual(t, c.decoded.Len(), min(i, 10), "a record that is new takes one place, not all")
	}
	require.Equal(t, 10, c.decoded.Len())
	for _, ref := range c.decoded.Keys() {
		_, err := Fresh(t.Context(), c, ref, keystore.DecodeCounter)
		require.NoError(t, err)
	}
	require.Equal(t, 10, c.decoded.Len(), "a record that is read again takes no other one's place")
	require.Empty(t, c.reads)
}

// The bound of a cache as it is made.
func TestCacheHolds65536Records(t *testing.T) {
	c := New(nil, slog.New(slog.DiscardHandler), time.Now)
	for i := range 65537 {
		c.decoded.Add(keystore.CounterRef("", "", fmt.Sprint(i)), nil)
	}
	require.Equal(t, 65536, c.decoded.Len())
}

// What was not used for longest makes room.
func TestWhatIsUsedStays(t *testing.T) {
	c := newBounded(t)
	require.NoError(t, c.Confirm(t.Context()))
	ref := func(i int) keystore.Ref { return keystore.CounterRef("", "", fmt.Sprint(i)) }
	for i := range 30 {
		_, err := c.Commit(t.Context(), keystore.Counter{Name: fmt.Sprint(i), N: i}.Put(0))
		require.NoError(t, err)
		_, err = Fresh(t.Context(), c, ref(i), keystore.DecodeCounter)
		require.NoError(t, err)
		_, ok, err := Cached[keystore.Counter](t.Context(), c, ref(0))
		require.NoError(t, err)
		require.True(t, ok, "it is used all the time")
		for j := 1; j <= i; j++ {
			require.Equal(t, j > i-9, c.Peek(ref(j)) != nil, "%d of %d; to look does not use it", j, i)
		}
		held, displaced := c.Stats()
		require.Equal(t, min(i+1, 10), held)
		require.Equal(t, uint64(max(0, i-9)), displaced)
	}
}

// counted counts the values that were dropped.
type counted struct{ dropped *int }

func (v counted) Dropped() { *v.dropped++ }

// A value that makes room for another is told so.
func TestValuesThatMakeRoomAreTold(t *testing.T) {
	c := newBounded(t)
	dropped := 0
	for i := range 15 {
		change := keystore.Counter{Name: fmt.Sprint(i)}.Put(0)
		_, err := c.Commit(t.Context(), change)
		require.NoError(t, err)
		_, err = Fresh(t.Context(), c, change.Ref, func(keystore.Record) (counted, error) { return counted{&dropped}, nil })
		require.NoError(t, err)
		require.Equal(t, max(0, i-9), dropped)
	}
}
