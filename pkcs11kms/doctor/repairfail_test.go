package doctor

import (
	"context"
	"encoding/hex"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/refcount"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// bumpCounter sets the counter of keys to another wrong number, as another process would.
func bumpCounter(ctx context.Context, store keystore.Store) error {
	counter, version, err := records.ReadCounter(ctx, store, testRegion, testAccount, keystore.CounterKeys)
	if err != nil {
		return err
	}
	counter.N++
	_, err = store.Commit(ctx, counter.Put(version))
	return err
}

// whileCorrecting calls what others do right before a counter is corrected, at most so many times.
func whileCorrecting(t *testing.T, store *hookedStore, times int) (called *atomic.Int64) {
	called = &atomic.Int64{}
	store.hook(func(changes []keystore.Change) error {
		if changes[0].Ref.Kind == keystore.KindCounter && called.Load() < int64(times) {
			called.Add(1)
			return bumpCounter(t.Context(), store.Store)
		}
		return nil
	}, nil)
	return called
}

func TestRepairBeginsAnewWhenOthersWereFaster(t *testing.T) {
	c, store, _ := withFaults(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	spoil(t, c, key.KeyId)
	called := whileCorrecting(t, store, 9)
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.EqualValues(t, 9, called.Load())
	require.Contains(t, done, "corrected the counter of the keys of account 111122223333 in us-west-2 from 86 to 1")
	require.Len(t, done, 3, "what was corrected before is told too, and once")
	require.Equal(t, 1, keyCount(t, c))
}

func TestRepairGivesUpWhereOthersAreAlwaysFaster(t *testing.T) {
	c, store, _ := withFaults(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	spoil(t, c, key.KeyId)
	called := whileCorrecting(t, store, 1000)
	done, err := Repair(t.Context(), c.Client)
	require.ErrorContains(t, err, "others change the store too fast")
	require.EqualValues(t, 10, called.Load(), "tries")
	require.Len(t, done, 2, "the alias and the key's own number")
	store.hook(nil, nil)
	done, err = Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Len(t, done, 1)
}

// restlessStore is a store in which keys come and go while they are counted.
type restlessStore struct {
	keystore.Store
	restless atomic.Bool
}

func (s *restlessStore) List(ctx context.Context, kind keystore.Kind, region, account, after string, limit int) ([]keystore.Record, error) {
	if s.restless.Load() && kind == keystore.KindKey {
		if err := bumpCounter(ctx, s.Store); err != nil {
			return nil, err
		}
	}
	return s.Store.List(ctx, kind, region, account, after, limit)
}

func TestRepairTellsWhatCannotBeLookedInto(t *testing.T) {
	cfg := newConfig(t)
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store := &restlessStore{Store: real}
	cfg.Store, cfg.StorePath = store, ""
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	spoil(t, c, key.KeyId)
	store.restless.Store(true)
	done, err := Repair(t.Context(), c.Client)
	require.ErrorContains(t, err, "keys of account 111122223333 come and go too fast for their counter to be checked")
	require.Len(t, done, 2, "the rest is corrected")
	store.restless.Store(false)
}

// What the janitor cannot finish keeps a repair from saying that all is well, and not from correcting the rest.
func TestRepairTellsWhatTheJanitorCouldNotFinish(t *testing.T) {
	c, store, cfg := withFaults(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	spoil(t, c, key.KeyId)
	store.hook(failWhen(keystore.Deleting), nil)
	dieOver(t, cfg.StorePath, halfMade("", keystore.Creating))
	done, err := Repair(t.Context(), c.Client)
	require.ErrorIs(t, err, errDisk)
	require.ErrorContains(t, err, unknownID)
	require.NotContains(t, done, "removed the key "+unknownID+", which was left half made or half deleted")
	require.Contains(t, done, "corrected the number of aliases of the key "+*key.KeyId+" from 5 to 0")
	store.hook(nil, nil)
	_, err = Repair(t.Context(), c.Client)
	require.NoError(t, err)
	requireNothingHalfMade(t, c, 1)
}

// foreignObject makes an object that no record names.
func foreignObject(t *testing.T, c *client) []byte {
	_, err := c.token().GenerateHMACKey(t.Context(), token.SHA256, []byte("theirs"), "theirs")
	require.NoError(t, err)
	return []byte("theirs")
}

func requireObject(t *testing.T, c *client, id []byte) {
	t.Helper()
	_, err := c.token().Describe(t.Context(), id)
	require.NoError(t, err, "the object is there still")
}

func requireNoClaim(t *testing.T, c *client) {
	t.Helper()
	recs, err := c.inside.Store.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 10)
	require.NoError(t, err)
	require.Empty(t, recs)
}

func TestDestroyObjectIsClaimedByOne(t *testing.T) {
	c, _, _ := withFaults(t)
	id := foreignObject(t, c)
	claim := keystore.Key{Region: testRegion, ID: destroyPrefix + hex.EncodeToString(id), CKAID: id, State: keystore.Deleting,
		Instance: c.inside.Store.Instance()}
	done := c.inside.Keys.InProgress(claim.Ref())
	put(t, c, claim.Put(0))
	var refused *pkcs11kms.RefusedError
	require.ErrorAs(t, DestroyObject(t.Context(), c.Client, id), &refused)
	require.Contains(t, refused.Problem, "is being destroyed already")
	require.Equal(t, "wait, and look again: pkcs11kms doctor", refused.Hint())
	requireObject(t, c, id)
	done()
	_, err := c.inside.Keys.Tidy(t.Context())
	require.NoError(t, err)
	requireNoClaim(t, c)
	requireObject(t, c, id)
	require.NoError(t, DestroyObject(t.Context(), c.Client, id), "once the claim is gone")
}

func TestDestroyObjectWithoutAClaimDestroysNothing(t *testing.T) {
	c, store, _ := withFaults(t)
	id := foreignObject(t, c)
	store.hook(failWhen(keystore.Deleting), nil)
	require.ErrorIs(t, DestroyObject(t.Context(), c.Client, id), errDisk)
	requireObject(t, c, id)
}

// Whose time is over is told of an error, and does not expect the object to be destroyed after all.
func TestDestroyObjectThatEndsWithItsContextLeavesNoClaim(t *testing.T) {
	c, store, _ := withFaults(t)
	id := foreignObject(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	store.hook(nil, func(changes []keystore.Change) error {
		if changes[0].Op == keystore.Put {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, DestroyObject(ctx, c.Client, id), context.Canceled)
	requireNoClaim(t, c)
	_, err := c.inside.Keys.Tidy(t.Context())
	require.NoError(t, err)
	requireObject(t, c, id)
}

// A claim that could not be taken back is told beside the success, and the janitor ends it.
func TestDestroyObjectTellsOfAClaimThatStays(t *testing.T) {
	c, store, _ := withFaults(t)
	id := foreignObject(t, c)
	store.hook(func(changes []keystore.Change) error {
		if changes[0].Op == keystore.Delete {
			return errDisk
		}
		return nil
	}, nil)
	require.ErrorIs(t, DestroyObject(t.Context(), c.Client, id), errDisk)
	_, err := c.token().Describe(t.Context(), id)
	require.ErrorIs(t, err, token.ErrKeyMissing)
	store.hook(nil, nil)
	_, err = c.inside.Keys.Tidy(t.Context())
	require.NoError(t, err)
	requireNoClaim(t, c)
}

// The janitor of the same process leaves a claim alone while the object is being destroyed.
func TestDestroyObjectKeepsItsClaimFromTheJanitor(t *testing.T) {
	c, store, _ := withFaults(t)
	id := foreignObject(t, c)
	passes := 0
	store.hook(nil, func(changes []keystore.Change) error {
		if changes[0].Op != keystore.Put {
			return nil
		}
		passes++
		finished, err := c.inside.Keys.Tidy(t.Context())
		assert.NoError(t, err)
		assert.Empty(t, finished)
		return nil
	})
	require.NoError(t, DestroyObject(t.Context(), c.Client, id))
	require.Equal(t, 1, passes)
	requireNoClaim(t, c)
}

// The number of a record that changes while it is examined is not held against what was counted before or after.
func TestRecordThatChangesWhileItIsExaminedIsRight(t *testing.T) {
	c, store, _ := withFaults(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	record, version := storedKey(t, c, key.KeyId)
	record.Aliases = 5
	put(t, c, record.Put(version))
	record, version = storedKey(t, c, key.KeyId)
	store.onGet(func(ref keystore.Ref) error {
		if ref != record.Ref() {
			return nil
		}
		store.onGet(nil)
		right := record
		right.Aliases = 0
		_, err := store.Store.Commit(t.Context(), right.Put(version))
		return err
	})
	found, err := refcount.Find(t.Context(), store, testAccount, c.bridge.Regions())
	require.NoError(t, err)
	require.Empty(t, found)
	record, _ = storedKey(t, c, key.KeyId)
	require.Zero(t, record.Aliases, "it was changed meanwhile")
}

// An alias whose key comes while it is being removed stays.
func TestRepairKeepsAnAliasWhoseKeyHasCome(t *testing.T) {
	c, store, _ := withFaults(t)
	record := halfMade("", keystore.Enabled)
	record.Aliases = 1
	alias := keystore.Alias{Region: testRegion, Account: testAccount, Name: "alias/early", Target: record.ID}
	put(t, c, alias.Put(0))
	came := 0
	store.hook(func(changes []keystore.Change) error {
		if changes[0].Ref != alias.Ref() || came > 0 {
			return nil
		}
		came++
		counter := keystore.Counter{Region: testRegion, Account: testAccount, Name: keystore.CounterKeys, N: 1}
		_, err := store.Store.Commit(t.Context(), record.Put(0), counter.Put(0))
		return err
	}, nil)
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Empty(t, done)
	require.Equal(t, 1, came)
	require.Equal(t, []string{alias.Name}, aliasesOf(t, c))
}
