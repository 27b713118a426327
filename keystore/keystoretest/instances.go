package keystoretest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
)

func testInstancesAreUnique(t *testing.T, open Opener) {
	seen := map[string]bool{}
	for range 5 {
		s := open(t)
		require.NotEmpty(t, s.Instance())
		require.Equal(t, s.Instance(), s.Instance())
		require.False(t, seen[s.Instance()])
		seen[s.Instance()] = true
		if len(seen)%2 == 0 {
			require.NoError(t, s.Close())
		}
	}
}

func testTakeOverAlive(t *testing.T, open Opener) {
	a, b := open(t), open(t)
	mustCommit(t, a, put("a", 0, "", unfinished(a.Instance())))
	for name, taker := range map[string]keystore.Store{"another": b, "itself": a} {
		release, err := taker.TakeOver(t.Context(), a.Instance())
		require.ErrorIs(t, err, keystore.ErrAlive, name)
		require.Nil(t, release, name)
	}
}

// deadInstance opens a store, has it leave an unfinished record behind and closes it.
func deadInstance(t *testing.T, open Opener) string {
	t.Helper()
	s := open(t)
	mustCommit(t, s, put("left by "+s.Instance(), 0, "", unfinished(s.Instance())))
	require.NoError(t, s.Close())
	return s.Instance()
}

func testTakeOverDead(t *testing.T, open Opener) {
	dead := deadInstance(t, open)
	a, b := open(t), open(t)
	release, err := a.TakeOver(t.Context(), dead)
	require.NoError(t, err)
	for name, taker := range map[string]keystore.Store{"another": b, "the same": a} {
		_, err = taker.TakeOver(t.Context(), dead)
		require.ErrorIs(t, err, keystore.ErrAlive, "taken by %s meanwhile", name)
	}
	release(false)

	release, err = b.TakeOver(t.Context(), dead)
	require.NoError(t, err, "given back")
	release(true)

	// It was not forgotten, since a record names it: somebody must be able to finish that.
	release, err = a.TakeOver(t.Context(), dead)
	require.NoError(t, err)
	left := "left by " + dead
	mustCommit(t, a, keystore.Change{Op: keystore.Delete, Ref: ref(left), Expect: mustGet(t, a, left).Version})
	release(true)

	_, err = a.TakeOver(t.Context(), dead)
	require.ErrorIs(t, err, keystore.ErrUndecided, "nothing is known of it now")
}

func testTakeOverOfAnUnknownInstance(t *testing.T, open Opener) {
	s := open(t)
	stranger := []byte(s.Instance())
	slices.Reverse(stranger)
	_, err := s.TakeOver(t.Context(), string(stranger))
	require.ErrorIs(t, err, keystore.ErrUndecided, "no proof is no death")
}

func testTakeOverOneWinner(t *testing.T, open Opener) {
	dead := deadInstance(t, open)
	stores := []keystore.Store{open(t), open(t)}
	for _, forget := range []bool{false, true, false} {
		var group errgroup.Group
		var mu sync.Mutex
		var releases []func(bool)
		for w := range 8 {
			group.Go(func() error {
				release, err := stores[w%2].TakeOver(t.Context(), dead)
				if errors.Is(err, keystore.ErrAlive) {
					return nil
				}
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				releases = append(releases, release)
				return nil
			})
		}
		require.NoError(t, group.Wait())
		require.Len(t, releases, 1)
		releases[0](forget)
	}
	testTurns(t, stores, dead)
}

// testTurns has several takers hold an instance in turn: never two at once.
func testTurns(t *testing.T, stores []keystore.Store, dead string) {
	var holders, turns atomic.Int32
	var group errgroup.Group
	for w := range 6 {
		group.Go(func() error {
			for turns.Load() < 200 {
				release, err := stores[w%2].TakeOver(t.Context(), dead)
				if errors.Is(err, keystore.ErrAlive) {
					continue
				}
				if err != nil {
					return err
				}
				if n := holders.Add(1); n != 1 {
					return fmt.Errorf("%d holders at once", n)
				}
				for range 3 {
					runtime.Gosched() // the others get the time to make the mistake
				}
				turns.Add(1)
				holders.Add(-1)
				release(true) // which forgets nothing, since the record is still there
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
}

func testTakeOverUnknownName(t *testing.T, open Opener) {
	s := open(t)
	for _, name := range []string{"", "..", "../../etc/passwd", "a b", s.Instance() + "x", "\x00"} {
		release, err := s.TakeOver(t.Context(), name)
		require.Error(t, err, "%q is no name that a store has made", name)
		require.Nil(t, release)
	}
}

// calls are all methods that take a context, in a form in which they would succeed.
func calls(s keystore.Store) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Get": func(ctx context.Context) error { _, err := s.Get(ctx, ref("a")); return err },
		"List": func(ctx context.Context) error {
			_, err := s.List(ctx, keystore.KindKey, region, account, "", 10)
			return err
		},
		"Lookup": func(ctx context.Context) error {
			_, err := s.Lookup(ctx, keystore.IndexCKAID, "", keystore.Ref{}, 10)
			return err
		},
		"Commit":       func(ctx context.Context) error { _, err := s.Commit(ctx, put("b", 0, "")); return err },
		"ChangedSince": func(ctx context.Context) error { _, err := s.ChangedSince(ctx, ""); return err },
		"TakeOver":     func(ctx context.Context) error { _, err := s.TakeOver(ctx, s.Instance()); return err },
		"Verify":       s.Verify,
	}
}

func testCancelledContext(t *testing.T, open Opener) {
	s := open(t)
	mustCommit(t, s, put("a", 0, ""))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancelLate()
	for name, call := range calls(s) {
		assert.ErrorIs(t, call(cancelled), context.Canceled, name)
		assert.ErrorIs(t, call(late), context.DeadlineExceeded, name)
	}
	mustGet(t, s, "a") // the store works on
	requireAbsent(t, s, "b")
	mustCommit(t, s, put("b", 0, ""))
}

func testUseAfterClose(t *testing.T, open Opener) {
	s := open(t)
	mustCommit(t, s, put("a", 0, ""))
	instance := s.Instance()
	require.NoError(t, s.Close())
	for name, call := range calls(s) {
		assert.ErrorIs(t, call(t.Context()), keystore.ErrClosed, name)
	}
	assert.Equal(t, instance, s.Instance())
	assert.NoError(t, s.Close(), "closing twice is no error")
}

// testCloseUnderLoad closes an instance while calls run: each ends well or with ErrClosed, and what was acknowledged
// is there.
func testCloseUnderLoad(t *testing.T, open Opener) {
	s, other := open(t), open(t)
	var acknowledged [4]int
	var started atomic.Int32
	var group errgroup.Group
	for w := range acknowledged {
		group.Go(func() error {
			for i := 0; ; i++ {
				_, err := s.Commit(t.Context(), put(fmt.Sprintf("id-%d-%03d", w, i), 0, ""))
				if errors.Is(err, keystore.ErrClosed) {
					return nil
				}
				if err != nil {
					return err
				}
				acknowledged[w] = i + 1
				started.Add(1)
			}
		})
	}
	require.Eventually(t, func() bool { return started.Load() > 8 }, time.Minute, time.Millisecond)
	require.NoError(t, s.Close())
	require.NoError(t, group.Wait())
	for w, n := range acknowledged {
		for i := range n {
			mustGet(t, other, fmt.Sprintf("id-%d-%03d", w, i))
		}
		requireAbsent(t, other, fmt.Sprintf("id-%d-%03d", w, n))
	}
}

func sampleKey(id string) keystore.Key {
	return keystore.Key{Region: region, Account: account, ID: id, State: keystore.Enabled, Spec: "HMAC_256",
		Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: keystore.HexBytes(id), Created: time.Unix(1e9, 0).UTC()}
}

func testVerifyAcceptsRecords(t *testing.T, open Opener) {
	s := open(t)
	require.NoError(t, s.Verify(t.Context()), "empty")
	creating := sampleKey("creating")
	creating.State, creating.Instance = keystore.Creating, s.Instance()
	place := keystore.Region{Name: region, Serial: "1", Label: "l", Manufacturer: "m", Model: "n"}
	sealed := sampleKey("sealed").Put(0)
	sealed.Seal = []byte{1} // which it does not look at
	use := keystore.KeyUse{Region: region, Account: account, KeyID: "enabled", Operation: "GenerateMac", At: time.Unix(1e9, 0).UTC()}
	mustCommit(t, s, keystore.Seals{Store: []byte{1}}.Put(0), sealed, use.Put(0))
	mustCommit(t, s, sampleKey("enabled").Put(0), creating.Put(0), place.Put(0), samplePrincipal(keystore.PrincipalUser, "A", "Alice").Put(0))
	require.NoError(t, s.Verify(t.Context()))
}

func testVerifyFindsForeignValue(t *testing.T, open Opener) {
	good := sampleKey("good").Put(0)
	unknownField := sampleKey("bad").Put(0)
	unknownField.Value = append([]byte(`{"policy":"deny",`), unknownField.Value[1:]...)
	noEntry := sampleKey("bad").Put(0)
	noEntry.Index = nil
	otherKind := sampleKey("bad").Put(0)
	otherKind.Ref.Kind = "grant"
	otherType := samplePrincipal(keystore.PrincipalUser, "A", "Alice").Put(0)
	otherType.Ref.ID = samplePrincipal(keystore.PrincipalRole, "A", "Alice").ID

	s := open(t)
	mustCommit(t, s, good)
	for name, bad := range map[string]keystore.Change{
		"unknown field": unknownField, "index entry missing": noEntry, "unknown kind": otherKind,
		"principal of another type": otherType,
	} {
		version := mustCommit(t, s, bad)
		require.Error(t, s.Verify(t.Context()), name)
		mustCommit(t, s, keystore.Change{Op: keystore.Delete, Ref: bad.Ref, Expect: version})
		require.NoError(t, s.Verify(t.Context()), name)
	}
}
