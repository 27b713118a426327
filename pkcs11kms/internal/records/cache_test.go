package records_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// watched is a real store that counts what it is asked for. A hook of Get runs after the store was read, and one of Commit before
// the store is changed: an error is the answer then.
type watched struct {
	keystore.Store
	mu     sync.Mutex // guards what follows
	gets   []string
	got    func(keystore.Ref)
	commit func(context.Context) error
}

func (w *watched) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	rec, err := w.Store.Get(ctx, ref)
	w.mu.Lock()
	w.gets = append(w.gets, ref.ID)
	got := w.got
	w.mu.Unlock()
	if got != nil {
		got(ref)
	}
	return rec, err
}

func (w *watched) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	w.mu.Lock()
	commit := w.commit
	w.mu.Unlock()
	if commit != nil {
		if err := commit(ctx); err != nil {
			return 0, err
		}
	}
	return w.Store.Commit(ctx, changes...)
}

// onGet sets the hook of Get, and onCommit that of Commit; nil takes one away.
func (w *watched) onGet(got func(keystore.Ref)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = got
}

func (w *watched) onCommit(commit func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.commit = commit
}

// taken returns what was read since the last call.
func (w *watched) taken() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	gets := w.gets
	w.gets = nil
	return gets
}

func newPath(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(path))
	return path
}

func openStore(t testing.TB, path string) *sqlite.Store {
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// cached makes a cache over a store, and a second opening of that store: another process.
func cached(t testing.TB) (*records.Cache, *watched, *sqlite.Store) {
	path := newPath(t)
	store := &watched{Store: openStore(t, path)}
	return newCache(store), store, openStore(t, path)
}

// newCache makes a cache whose clock stands still, so that it confirms when a test says so.
func newCache(store keystore.Store) *records.Cache {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return records.New(store, slog.New(slog.DiscardHandler), func() time.Time { return at })
}

func ref(name string) keystore.Ref { return keystore.CounterRef("", "", name) }

// set writes a number, whatever was there, and returns the version.
func set(t testing.TB, store keystore.Store, name string, n int) uint64 {
	t.Helper()
	_, version, err := records.ReadCounter(t.Context(), store, "", "", name)
	require.NoError(t, err)
	version, err = store.Commit(t.Context(), keystore.Counter{Name: name, N: n}.Put(version))
	require.NoError(t, err)
	return version
}

// read returns the number that the cache has, or reads, of a name.
func read(t testing.TB, c *records.Cache, name string) int {
	t.Helper()
	counter, err := records.CachedOrFresh(t.Context(), c, ref(name), keystore.DecodeCounter)
	require.NoError(t, err)
	return counter.N
}

func confirm(t testing.TB, c *records.Cache) {
	t.Helper()
	require.NoError(t, c.Confirm(t.Context()))
}

// filled has the cache hold a, b and c.
func filled(t testing.TB, c *records.Cache, store *watched) {
	t.Helper()
	for i, name := range []string{"a", "b", "c"} {
		set(t, store.Store, name, i)
	}
	confirm(t, c)
	for i, name := range []string{"a", "b", "c"} {
		require.Equal(t, i, read(t, c, name))
	}
	store.taken()
}

// What another process writes is dropped by its name, whether it is put or deleted, and nothing else is.
func TestAnotherProcessDropsWhatItChanges(t *testing.T) {
	c, store, other := cached(t)
	filled(t, c, store)
	for round := range 20 {
		set(t, other, fmt.Sprint("other", round), round)
		version := set(t, other, "b", 100+round)
		set(t, other, "gone", 1)
		_, err := other.Commit(t.Context(), keystore.Change{Op: keystore.Delete, Ref: ref("gone"), Expect: version + 1})
		require.NoError(t, err)
		confirm(t, c)
		require.Equal(t, 0, read(t, c, "a"))
		require.Equal(t, 100+round, read(t, c, "b"))
		require.Equal(t, 2, read(t, c, "c"))
		require.Equal(t, []string{"b"}, store.taken())
	}
	deleted := set(t, other, "a", 7)
	_, err := other.Commit(t.Context(), keystore.Change{Op: keystore.Delete, Ref: ref("a"), Expect: deleted})
	require.NoError(t, err)
	confirm(t, c)
	_, err = records.CachedOrFresh(t.Context(), c, ref("a"), keystore.DecodeCounter)
	require.ErrorIs(t, err, keystore.ErrNotFound)
}

// A process drops what it changes itself, and keeps what it has only compared.
func TestOwnCommitsDropWhatTheyChange(t *testing.T) {
	c, store, other := cached(t)
	filled(t, c, store)
	version := set(t, store.Store, "b", 1)
	compared := set(t, store.Store, "c", 2)
	confirm(t, c)
	read(t, c, "b")
	read(t, c, "c")
	store.taken()
	check := keystore.Change{Op: keystore.Check, Ref: ref("c"), Expect: compared}
	_, err := c.Commit(t.Context(), keystore.Counter{Name: "b", N: 10}.Put(version), check)
	require.NoError(t, err)
	require.Equal(t, []int{0, 10, 2}, []int{read(t, c, "a"), read(t, c, "b"), read(t, c, "c")})
	require.Equal(t, []string{"b"}, store.taken())

	// What the comparison shows to be wrong is read anew, before any look.
	set(t, other, "c", 3)
	_, err = c.Commit(t.Context(), check)
	require.ErrorIs(t, err, keystore.ErrConflict)
	require.Equal(t, 3, read(t, c, "c"))

	// What is deleted is there no more.
	_, version, err = records.ReadCounter(t.Context(), store.Store, "", "", "a")
	require.NoError(t, err)
	_, err = c.Commit(t.Context(), keystore.Change{Op: keystore.Delete, Ref: ref("a"), Expect: version})
	require.NoError(t, err)
	_, err = records.CachedOrFresh(t.Context(), c, ref("a"), keystore.DecodeCounter)
	require.ErrorIs(t, err, keystore.ErrNotFound)
}

// A record that is held in another form than is asked for is read anew in this one.
func TestARecordIsReadInTheFormThatIsAskedFor(t *testing.T) {
	c, store, _ := cached(t)
	filled(t, c, store)
	version, err := records.CachedOrFresh(t.Context(), c, ref("b"), func(rec keystore.Record) (uint64, error) { return rec.Version, nil })
	require.NoError(t, err)
	require.NotZero(t, version)
	require.Equal(t, []string{"b"}, store.taken())
}

// What a record could not be made into is not kept.
func TestWhatCannotBeDecodedIsNotKept(t *testing.T) {
	c, store, _ := cached(t)
	set(t, store.Store, "a", 1)
	confirm(t, c)
	wrong := func(keystore.Record) (keystore.Counter, error) { return keystore.Counter{N: 7}, errDisk }
	_, err := records.Fresh(t.Context(), c, ref("a"), wrong)
	require.ErrorIs(t, err, errDisk)
	require.Nil(t, c.Peek(ref("a")))
	require.Equal(t, 1, read(t, c, "a"))
}

// Who reads a record while this process changes it may be too early to see the change, and who reads it afterwards sees it.
func TestAReadDuringAnOwnCommitHidesNothing(t *testing.T) {
	c, store, _ := cached(t)
	filled(t, c, store)
	_, version, err := records.ReadCounter(t.Context(), store.Store, "", "", "b")
	require.NoError(t, err)
	store.onCommit(func(context.Context) error {
		require.Equal(t, 1, read(t, c, "b"))
		return nil
	})
	_, err = c.Commit(t.Context(), keystore.Counter{Name: "b", N: 10}.Put(version))
	require.NoError(t, err)
	require.Equal(t, 10, read(t, c, "b"))
}

// A record that was read before a change of it was seen is not kept, whoever made the change and however it is told; one that was
// read while others changed is.
func TestLateReads(t *testing.T) {
	for name, change := range map[string]func(*records.Cache, *sqlite.Store){
		"own": func(c *records.Cache, other *sqlite.Store) {
			_, version, err := records.ReadCounter(t.Context(), other, "", "", "a")
			require.NoError(t, err)
			_, err = c.Commit(t.Context(), keystore.Counter{Name: "a", N: 9}.Put(version))
			require.NoError(t, err)
		},
		"another's": func(c *records.Cache, other *sqlite.Store) {
			set(t, other, "a", 9)
			require.NoError(t, c.Confirm(t.Context()))
		},
		"one of many": func(c *records.Cache, other *sqlite.Store) {
			set(t, other, "a", 9)
			change5000(t, other)
			require.NoError(t, c.Confirm(t.Context()))
		},
		"any": func(c *records.Cache, other *sqlite.Store) {
			set(t, other, "a", 9)
			c.Drop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, store, other := cached(t)
			set(t, store.Store, "a", 1)
			set(t, store.Store, "still", 5)
			confirm(t, c)
			for _, late := range []string{"a", "still"} {
				// The hook runs in the middle of the read: the store has answered, and the cache does not know it yet.
				store.onGet(func(keystore.Ref) { store.onGet(nil); change(c, other) })
				read(t, c, late)
				store.taken()
				if late == "a" {
					require.Equal(t, 9, read(t, c, "a"))
					require.Equal(t, []string{"a"}, store.taken(), "the record that was read late is not kept")
				} else if name != "one of many" && name != "any" {
					require.Equal(t, 5, read(t, c, "still"))
					require.Empty(t, store.taken(), "the other one is")
				}
			}
		})
	}
}

// slowRead begins to read "a" for another caller, and waits until the store has answered it. The caller gets that answer at end.
func slowRead(t *testing.T, c *records.Cache, store *watched) (end func()) {
	began, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	store.onGet(func(keystore.Ref) {
		store.onGet(nil)
		close(began)
		<-goOn
	})
	go func() {
		_, err := records.Fresh(context.Background(), c, ref("a"), keystore.DecodeCounter)
		ended <- err
	}()
	<-began
	return func() {
		close(goOn)
		require.NoError(t, <-ended)
	}
}

// Of two who read a record, one from before it was dropped and one from after that, the first ends first. The second one is told of
// the next change all the same.
func TestALateReadDoesNotTouchALaterOne(t *testing.T) {
	c, store, other := cached(t)
	set(t, store.Store, "a", 1)
	confirm(t, c)
	var end func()
	store.onGet(func(keystore.Ref) {
		set(t, other, "a", 2)
		confirm(t, c)
		end = slowRead(t, c, store)
	})
	require.Equal(t, 1, read(t, c, "a"), "it was so when it was read")
	set(t, other, "a", 3)
	confirm(t, c)
	end()
	require.Equal(t, 3, read(t, c, "a"))
}

// Of two who read a record at once, one ends before the record changes. The other one is told of the change all the same.
func TestALateReadIsNotEndedByAnother(t *testing.T) {
	c, store, other := cached(t)
	set(t, store.Store, "a", 1)
	confirm(t, c)
	end := slowRead(t, c, store)
	require.Equal(t, 1, read(t, c, "a"))
	set(t, other, "a", 2)
	confirm(t, c)
	end()
	require.Equal(t, 2, read(t, c, "a"))
}
