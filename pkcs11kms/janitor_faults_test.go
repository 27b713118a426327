package pkcs11kms

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// janitorStore is a real store of which a janitor cannot read everything.
type janitorStore struct {
	keystore.Store
	stuck   atomic.Bool    // Lookup does not answer before its context ends
	takeErr error          // TakeOver's answer, if it is not nil
	taken   map[string]int // how often TakeOver was asked for an instance
	held    []func(bool)   // what gives back what was taken: in nobody's hands, the garbage collector would do it
}

func (s *janitorStore) Lookup(ctx context.Context, index keystore.Index, value string,
	after keystore.Ref, limit int) ([]keystore.Record, error) {
	if s.stuck.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.Store.Lookup(ctx, index, value, after, limit)
}

func (s *janitorStore) TakeOver(ctx context.Context, instance string) (func(forget bool), error) {
	s.taken[instance]++
	if s.takeErr != nil {
		return nil, s.takeErr
	}
	free, err := s.Store.TakeOver(ctx, instance)
	s.held = append(s.held, free)
	return free, err
}

func openJanitor(t *testing.T, cfg testConfig) (*Client, *janitorStore) {
	t.Helper()
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store := &janitorStore{Store: real, taken: map[string]int{}}
	cfg.Store, cfg.StorePath = store, ""
	return openClient(t, cfg), store
}

// loadModule makes what all Bridges of a process share outside of the bubble in which the next one is opened.
func loadModule(t *testing.T, cfg testConfig) {
	t.Helper()
	c, err := newAt(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// A pass over a store that does not answer ends after a minute, and one call timeout after the end of its process. The clock
// is that of a bubble.
func TestPassesOverAStoreThatHangsEnd(t *testing.T) {
	cfg := newConfig(t)
	loadModule(t, cfg)
	synctest.Test(t, func(t *testing.T) {
		c, store := openJanitor(t, cfg)
		<-time.After(10 * time.Minute)
		synctest.Wait()
		store.stuck.Store(true)
		for name, pass := range map[string]func(context.Context) error{
			"tidyOnce":   func(ctx context.Context) error { _, err := c.bridge.core.Keys.Tidy(ctx); return err },
			"destroyDue": c.bridge.core.Keys.DestroyDue,
		} {
			began := time.Now()
			require.ErrorIs(t, pass(t.Context()), context.DeadlineExceeded, name)
			require.Equal(t, time.Minute, time.Since(began), name)

			ctx, cancel := context.WithCancel(t.Context())
			const alive = 7 * time.Second
			time.AfterFunc(alive, cancel)
			began = time.Now()
			require.ErrorIs(t, pass(ctx), context.Canceled, name)
			require.Equal(t, alive+DefaultCallTimeout, time.Since(began), name)
		}
		store.stuck.Store(false)
	})
}

// lender is a context that counts what is to happen at its end.
type lender struct {
	context.Context
	lent atomic.Int64
}

// Value hides the context that it is made of, past which package context would go.
func (l *lender) Value(any) any { return nil }

func (l *lender) AfterFunc(f func()) func() bool {
	l.lent.Add(1)
	stop := context.AfterFunc(l.Context, f)
	return func() bool { l.lent.Add(-1); return stop() }
}

// Passes of a long-lived process leave nothing on its context, which would grow by each of them.
func TestPassesLeaveNothingOnTheContextOfTheProcess(t *testing.T) {
	c := newClient(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	process := &lender{Context: ctx}
	for range 3 {
		_, err := c.bridge.core.Keys.Tidy(process)
		require.NoError(t, err)
		require.NoError(t, c.bridge.core.Keys.DestroyDue(process))
	}
	require.Zero(t, process.lent.Load())
}

// Whether an instance is dead is asked once in a pass. That nobody can tell leaves its keys as they are, and what else keeps
// the store from telling is an error.
func TestJanitorAsksOnceWhetherAnInstanceIsDead(t *testing.T) {
	cfg := newConfig(t)
	c, store := openJanitor(t, cfg)
	records := []keystore.Key{numbered(1, keystore.Creating), numbered(2, keystore.Deleting), numbered(3, keystore.Creating)}
	instance := dieOver(t, cfg.StorePath, records...)
	for _, wrong := range []struct{ is, want error }{{keystore.ErrAlive, nil}, {keystore.ErrUndecided, nil}, {errDisk, errDisk}} {
		clear(store.taken)
		store.takeErr = wrong.is
		finished, err := c.bridge.core.Keys.Tidy(t.Context())
		require.ErrorIs(t, err, wrong.want)
		require.Empty(t, finished)
		if wrong.want == nil {
			require.Equal(t, map[string]int{instance: 1}, store.taken)
		}
	}
	clear(store.taken)
	store.takeErr = nil
	finished, err := c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Len(t, finished, len(records))
	require.Equal(t, map[string]int{instance: 1}, store.taken)
}

// leftover is a key that is being removed, of one kind, with its object.
type leftover struct {
	record keystore.Key
	make   func(t *testing.T, tok *token.Token, record keystore.Key)
}

func leftovers() map[string]leftover {
	makeKey := func(label string) func(*testing.T, *token.Token, keystore.Key) {
		return func(t *testing.T, tok *token.Token, record keystore.Key) {
			_, err := tok.GenerateHMACKey(context.Background(), token.SHA256, record.CKAID, label)
			require.NoError(t, err)
		}
	}
	made, adopted, pair := numbered(1, keystore.Deleting), numbered(2, keystore.Deleting), numbered(3, keystore.Deleting)
	adopted.Adopted = keystore.AdoptedDestroy
	pair.Spec, pair.Usage = string(types.KeySpecEccNistP256), string(types.KeyUsageTypeSignVerify)
	return map[string]leftover{
		"key":         {made, makeKey(made.ID)},
		"adopted key": {adopted, makeKey("theirs")},
		"pair": {pair, func(t *testing.T, tok *token.Token, record keystore.Key) {
			_, _, err := tok.GenerateKeyPair(context.Background(), pubkey.P256, record.CKAID, record.ID)
			require.NoError(t, err)
		}},
	}
}

// The record of a key whose object could not be destroyed stays, so that a later pass destroys it. The clock is that of a
// bubble: the token is busy for longer than one call of it waits, and not for longer than two.
func TestObjectThatCannotBeDestroyedKeepsItsRecord(t *testing.T) {
	for name, left := range leftovers() {
		t.Run(name, func(t *testing.T) {
			cfg := newConfig(t)
			cfg.MaxSessions = 1
			loadModule(t, cfg)
			synctest.Test(t, func(t *testing.T) {
				c := openClient(t, cfg)
				key := mustCreate(t, c, types.KeySpecHmac256)
				left.make(t, c.region.Token, left.record)
				before, err := c.region.Token.Objects(t.Context())
				require.NoError(t, err)
				dieOver(t, cfg.StorePath, left.record)
				stream, err := c.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256) // takes the only session
				require.NoError(t, err)
				time.AfterFunc(DefaultCallTimeout*3/2, func() { stream.Close() })
				finished, err := c.bridge.core.Keys.Tidy(t.Context())
				require.ErrorIs(t, err, token.ErrBusy)
				require.ErrorContains(t, err, left.record.ID)
				require.Empty(t, finished)
				<-time.After(DefaultCallTimeout)
				after, err := c.region.Token.Objects(t.Context())
				require.NoError(t, err)
				require.ElementsMatch(t, before, after)
				finished, err = c.bridge.core.Keys.Tidy(t.Context())
				require.NoError(t, err)
				require.Equal(t, []string{left.record.ID}, finished)
				requireNothingHalfMade(t, c, 1)
			})
		})
	}
}

// Two objects with the CKA_ID of a key: nobody can tell which is its own, and neither is destroyed.
func TestJanitorLeavesAmbiguousObjectsAlone(t *testing.T) {
	for name, left := range leftovers() {
		t.Run(name, func(t *testing.T) {
			cfg := newConfig(t)
			c := openClient(t, cfg)
			left.make(t, c.region.Token, left.record)
			left.make(t, c.region.Token, left.record)
			before, err := c.region.Token.Objects(t.Context())
			require.NoError(t, err)
			dieOver(t, cfg.StorePath, left.record)
			finished, err := c.bridge.core.Keys.Tidy(t.Context())
			require.ErrorIs(t, err, token.ErrKeyAmbiguous)
			require.Empty(t, finished)
			after, err := c.region.Token.Objects(t.Context())
			require.NoError(t, err)
			require.ElementsMatch(t, before, after)
			require.Equal(t, keystore.Deleting, mustRecord(t, c, left.record.Ref()).State)
		})
	}
}

func mustRecord(t *testing.T, c *Client, ref keystore.Ref) keystore.Key {
	t.Helper()
	rec, err := c.bridge.core.Store.Get(t.Context(), ref)
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	return record
}

// Objects that are gone, or that have become another application's, keep no record.
func TestJanitorFinishesKeysWithoutAnObjectOfTheirs(t *testing.T) {
	for name, left := range leftovers() {
		for _, foreign := range []bool{false, true} {
			if foreign && left.record.Adopted != "" {
				continue // what has its CKA_ID is its object, whatever the label
			}
			cfg := newConfig(t)
			c := openClient(t, cfg)
			if foreign {
				_, _, err := c.region.Token.GenerateKeyPair(t.Context(), pubkey.P256, left.record.CKAID, "somebody else's")
				require.NoError(t, err)
				_, err = c.region.Token.GenerateHMACKey(t.Context(), token.SHA256, left.record.CKAID, "somebody else's")
				require.NoError(t, err)
			}
			dieOver(t, cfg.StorePath, left.record)
			finished, err := c.bridge.core.Keys.Tidy(t.Context())
			require.NoError(t, err, name)
			require.Equal(t, []string{left.record.ID}, finished, name)
			require.Equal(t, foreign, len(objectsOf(t, c.region.Token)) > 0, name)
		}
	}
}

// A removal whose last step fails is finished by the next pass, and counted once.
func TestRemovalThatFailsAtItsLastStep(t *testing.T) {
	c, store, _, gone := dueWithFaults(t)
	mustCreate(t, c, types.KeySpecHmac256)
	record, _ := storedKey(t, c, gone.KeyId)
	store.hook(func(changes []keystore.Change) error {
		for _, change := range changes {
			if change.Op == keystore.Delete {
				return errDisk
			}
		}
		return nil
	}, nil)
	require.ErrorIs(t, c.bridge.core.Keys.DestroyDue(t.Context()), errDisk)
	require.Equal(t, keystore.Deleting, mustRecord(t, c, record.Ref()).State)
	require.Equal(t, 2, keyCount(t, c))
	_, err := c.region.Token.Describe(t.Context(), record.CKAID)
	require.ErrorIs(t, err, token.ErrKeyMissing)

	store.hook(nil, nil)
	finished, err := c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{record.ID}, finished)
	require.Equal(t, 1, keyCount(t, c))
	requireNothingHalfMade(t, c, 1)
}

// A key that cannot be made is undone although its caller has gone.
func TestCreateKeyUndoesItselfForACallerThatHasGone(t *testing.T) {
	c, store, _ := withFaults(t)
	ctx, cancel := context.WithCancel(t.Context())
	store.hook(func(changes []keystore.Change) error {
		err := failWhen(keystore.Enabled)(changes)
		if err != nil {
			cancel()
		}
		return err
	}, nil)
	_, err := createHMAC256(ctx, c)
	require.ErrorIs(t, err, context.Canceled)
	requireNoClaim(t, c)
	requireNothingHalfMade(t, c, 0)
}

func requireNoClaim(t *testing.T, c *Client) {
	t.Helper()
	recs, err := c.bridge.core.Store.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 10)
	require.NoError(t, err)
	require.Empty(t, recs)
}
