package records_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// change5000 writes more than a store keeps the names of.
func change5000(t testing.TB, store keystore.Store) {
	t.Helper()
	for i := 0; i < 5000; i += keystore.MaxChanges {
		var batch []keystore.Change
		for j := range keystore.MaxChanges {
			name := fmt.Sprintf("many-%d", i+j)
			_, version, err := records.ReadCounter(t.Context(), store, "", "", name)
			require.NoError(t, err)
			batch = append(batch, keystore.Counter{Name: name, N: 1}.Put(version))
		}
		_, err := store.Commit(t.Context(), batch...)
		require.NoError(t, err)
	}
}

// Where the store cannot tell which records have changed, none is believed any more.
func TestTooManyChangesDropEverything(t *testing.T) {
	c, store, other := cached(t)
	filled(t, c, store)
	set(t, other, "b", 10)
	change5000(t, other)
	confirm(t, c)
	require.Equal(t, []int{0, 10, 2}, []int{read(t, c, "a"), read(t, c, "b"), read(t, c, "c")})
	require.Equal(t, []string{"a", "b", "c"}, store.taken())
	set(t, other, "b", 11)
	confirm(t, c)
	require.Equal(t, []int{0, 11, 2}, []int{read(t, c, "a"), read(t, c, "b"), read(t, c, "c")})
	require.Equal(t, []string{"b"}, store.taken(), "and then by name again")
}

// moving is a store in whose place another one comes.
type moving struct{ keystore.Store }

// A store that was restored from a backup is another one, also when it has come to as many changes as the cache has seen.
func TestARestoredStoreDropsEverything(t *testing.T) {
	path := newPath(t)
	before := openStore(t, path)
	place := &moving{before}
	store := &watched{Store: place}
	c := newCache(store)
	filled(t, c, store)
	backup, copied := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, before.Backup(t.Context(), backup))
	set(t, before, "a", 77)
	confirm(t, c)
	require.Equal(t, 77, read(t, c, "a"))
	_, err := sqlite.Restore(t.Context(), backup, copied, nil)
	require.NoError(t, err)
	restored := openStore(t, copied)
	set(t, restored, "b", 78)
	place.Store = restored
	store.taken()
	confirm(t, c)
	require.Equal(t, []int{0, 78, 2}, []int{read(t, c, "a"), read(t, c, "b"), read(t, c, "c")})
	require.Equal(t, []string{"a", "b", "c"}, store.taken())
}

// Steady writes of another process do not keep the cache empty, even while every record is first read between two of them.
func TestSteadyWritesElsewhereDoNotEmptyTheCache(t *testing.T) {
	c, store, other := cached(t)
	for i := range 20 {
		set(t, store.Store, fmt.Sprint("mine", i), i)
	}
	confirm(t, c)
	store.onGet(func(keystore.Ref) { // while a record is on its way
		set(t, other, "theirs", 1)
		confirm(t, c)
	})
	for range 3 {
		for i := range 20 {
			require.Equal(t, i, read(t, c, fmt.Sprint("mine", i)))
		}
	}
	require.Len(t, store.taken(), 20, "each is read once")
}

// hidden is a store whose changes cannot be looked at, so many times.
type hidden struct {
	keystore.Store
	times atomic.Int64
}

func (h *hidden) ChangedSince(ctx context.Context, since keystore.Mark) (keystore.Changed, error) {
	if h.times.Add(-1) >= 0 {
		return keystore.Changed{}, errDisk
	}
	return h.Store.ChangedSince(ctx, since)
}

// The poller goes on after a look that failed, so that changes are seen before anybody has to wait for a look.
func TestPollingGoesOnAfterAFailure(t *testing.T) {
	path := newPath(t)
	store, other := &hidden{Store: openStore(t, path)}, openStore(t, path)
	c := newCache(store)
	confirm(t, c)
	set(t, other, "a", 1)
	require.Equal(t, 1, read(t, c, "a"))
	confirm(t, c)
	require.Equal(t, 1, read(t, c, "a"))
	store.times.Store(1)
	polling, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.Poll(polling)
	}()
	defer func() {
		stop()
		<-stopped
	}()
	require.Eventually(t, func() bool { return store.times.Load() <= 0 }, 30*time.Second, time.Millisecond)
	set(t, other, "a", 2)
	require.Eventually(t, func() bool { return c.Peek(ref("a")) == nil }, 30*time.Second, time.Millisecond)
}

// looking is a store whose looks a test plays before they are made.
type looking struct {
	keystore.Store
	look func(context.Context)
}

func (l looking) ChangedSince(ctx context.Context, since keystore.Mark) (keystore.Changed, error) {
	l.look(ctx)
	return l.Store.ChangedSince(ctx, since)
}

// What a look confirms is too old when the look has taken longer than a confirmation counts: then the store is asked for the record.
func TestASlowLookConfirmsNothing(t *testing.T) {
	store := &watched{Store: openStore(t, newPath(t))}
	now, takes := time.Now(), time.Duration(0)
	slow := looking{store, func(context.Context) { now = now.Add(takes) }}
	c := records.New(slow, slog.New(slog.DiscardHandler), func() time.Time { return now })
	filled(t, c, store)
	for _, tc := range []struct {
		takes time.Duration
		asked []string
	}{{time.Second, nil}, {time.Second + 1, []string{"a"}}} {
		takes = tc.takes
		now = now.Add(time.Hour)
		require.Equal(t, 0, read(t, c, "a"))
		require.Equal(t, tc.asked, store.taken(), "%v", takes)
	}
}

// A look has two seconds, also that of a caller who has more; and who waits for another's look can give up.
func TestALookHasTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := looking{&played{}, func(ctx context.Context) { <-ctx.Done(); <-time.After(time.Hour) }}
		c := records.New(hung, slog.New(slog.DiscardHandler), time.Now)
		begin := time.Now()
		done := make(chan error, 1)
		go func() { done <- c.Confirm(context.Background()) }() // which does not heed its end
		synctest.Wait()
		require.ErrorIs(t, c.Confirm(context.Background()), context.DeadlineExceeded)
		require.Equal(t, 2*time.Second, time.Since(begin))
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		require.ErrorIs(t, c.Confirm(ended), context.Canceled)
		require.ErrorIs(t, <-done, errDisk)
		require.Equal(t, time.Hour+2*time.Second, time.Since(begin))
	})
}
