package pkcs11kms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// withFaults is a client whose store can be made to fail.
func withFaults(t *testing.T) (*Client, *faultyStore, testConfig) {
	return withFaultsAnd(t, newConfig(t))
}

func withFaultsAnd(t *testing.T, cfg testConfig) (*Client, *faultyStore, testConfig) {
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store := &faultyStore{Store: real, path: cfg.StorePath}
	faulty := cfg
	faulty.Store, faulty.StorePath = store, ""
	return openClient(t, faulty), store, cfg
}

func createHMAC256(ctx context.Context, c *Client) (*types.KeyMetadata, error) {
	out, err := c.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	if err != nil {
		return nil, err
	}
	return out.KeyMetadata, nil
}

// requireNothingHalfMade asserts that no record is unfinished and that the token holds just the objects of the listed keys.
func requireNothingHalfMade(t *testing.T, c *Client, keys int) {
	t.Helper()
	require.Eventually(t, func() bool {
		recs, err := c.bridge.core.Store.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 10)
		return err == nil && len(recs) == 0
	}, 20*time.Second, 10*time.Millisecond)
	require.Len(t, objectsOf(t, c.region.Token), keys)
	out, err := c.ListKeys(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, out.Keys, keys)
}

var errDisk = errors.New("the disk is full")

// failWhen fails commits that put a key into the state.
func failWhen(state keystore.KeyState) func([]keystore.Change) error {
	return func(changes []keystore.Change) error {
		for _, change := range changes {
			record, err := keystore.DecodeKey(keystore.Record{Ref: change.Ref, Value: change.Value})
			if err == nil && record.State == state {
				return errDisk
			}
		}
		return nil
	}
}

func TestCreateKeyUndoesItself(t *testing.T) {
	for _, step := range []keystore.KeyState{keystore.Creating, keystore.Enabled} {
		t.Run(string(step), func(t *testing.T) {
			c, store, _ := withFaults(t)
			store.hook(failWhen(step), nil)
			_, err := createHMAC256(t.Context(), c)
			var internal *types.KMSInternalException
			require.ErrorAs(t, err, &internal)
			require.ErrorIs(t, err, errDisk, "the cause is there for who looks")
			require.NotContains(t, err.Error(), "disk", "and not in the text")
			requireNothingHalfMade(t, c, 0)
			store.hook(nil, nil)
			_, err = createHMAC256(t.Context(), c)
			require.NoError(t, err)
			requireNothingHalfMade(t, c, 1)
		})
	}
}

// A CKA_ID that another key has got at the last moment is not tried again: the new key gets one of its own.
func TestCreateKeyTakesAnotherCKAID(t *testing.T) {
	c, store, _ := withFaults(t)
	var other *keystore.Key
	store.hook(func(changes []keystore.Change) error {
		for _, change := range changes {
			record, err := keystore.DecodeKey(keystore.Record{Ref: change.Ref, Value: change.Value})
			if err != nil || other != nil {
				continue
			}
			taken := numbered(1, keystore.Enabled)
			taken.CKAID, other = record.CKAID, &taken
			if _, err := store.Store.Commit(t.Context(), taken.Put(0)); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	made, err := createHMAC256(t.Context(), c)
	require.NoError(t, err)
	require.NotEqual(t, other.CKAID, mustRecord(t, c, keystore.KeyRef(testRegion, testAccount, *made.KeyId)).CKAID)
	_, err = generate(t.Context(), c, made.KeyId, []byte("m"))
	require.NoError(t, err)
}

// The flip happened, but its answer got lost: the key must not be destroyed, somebody may use it already.
func TestFlipWhoseAnswerIsLost(t *testing.T) {
	c, store, _ := withFaults(t)
	store.hook(nil, failWhen(keystore.Enabled))
	_, err := createHMAC256(t.Context(), c)
	require.ErrorIs(t, err, errDisk)
	store.hook(nil, nil)
	requireNothingHalfMade(t, c, 1)
	out, err := c.ListKeys(t.Context(), nil)
	require.NoError(t, err)
	_, err = generate(t.Context(), c, out.Keys[0].KeyId, []byte("m"))
	require.NoError(t, err)
}

// What could not be undone at the time is undone by the janitor of the same process.
func TestJanitorFinishesOwnLeftovers(t *testing.T) {
	c, store, _ := withFaults(t)
	broken := func(changes []keystore.Change) error {
		if err := failWhen(keystore.Enabled)(changes); err != nil {
			return err
		}
		return failWhen(keystore.Deleting)(changes)
	}
	store.hook(broken, nil)
	_, err := createHMAC256(t.Context(), c)
	require.ErrorIs(t, err, errDisk)
	recs, err := store.Lookup(t.Context(), keystore.IndexUnfinished, store.Instance(), keystore.Ref{}, 10)
	require.NoError(t, err)
	require.Len(t, recs, 1)
	store.hook(nil, nil)
	_, err = c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	requireNothingHalfMade(t, c, 0)
}

// halfMade is the record of a key that an instance works on.
func halfMade(instance string, state keystore.KeyState) keystore.Key {
	return keystore.Key{Region: testRegion, Account: testAccount, ID: unknownID, State: state, Spec: "HMAC_256",
		Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: bytes.Repeat([]byte{9}, 16), Instance: instance}
}

// plant writes the record of a key that an instance works on, with or without its object.
func plant(t *testing.T, c *Client, instance string, state keystore.KeyState, object bool) keystore.Key {
	record := halfMade(instance, state)
	_, err := c.bridge.core.Store.Commit(t.Context(), record.Put(0))
	require.NoError(t, err)
	if object {
		_, err := c.region.Token.GenerateHMACKey(t.Context(), token.SHA256, record.CKAID, record.ID)
		require.NoError(t, err)
	}
	return record
}

// numbered is a record as halfMade's, but with an id and a CKA_ID of its own.
func numbered(n int, state keystore.KeyState) keystore.Key {
	record := halfMade("", state)
	record.ID, record.CKAID = fmt.Sprintf("%08d-0000-4000-8000-000000000000", n), fmt.Appendf(nil, "%016d", n)
	return record
}

// dieOver writes half-made records as an instance that then dies.
func dieOver(t *testing.T, path string, records ...keystore.Key) (instance string) {
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	for batch := range slices.Chunk(records, keystore.MaxChanges) {
		var changes []keystore.Change
		for _, record := range batch {
			record.Instance = s.Instance()
			changes = append(changes, record.Put(0))
		}
		_, err = s.Commit(t.Context(), changes...)
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
	return s.Instance()
}

func TestJanitorFinishesWhatTheDeadLeft(t *testing.T) {
	for _, state := range []keystore.KeyState{keystore.Creating, keystore.Deleting} {
		for _, object := range []bool{false, true} {
			t.Run(string(state), func(t *testing.T) {
				cfg := newConfig(t)
				c := openClient(t, cfg)
				kept := mustCreate(t, c, types.KeySpecHmac256)
				record := halfMade("", state)
				dieOver(t, cfg.StorePath, record)
				if object {
					_, err := c.region.Token.GenerateHMACKey(t.Context(), token.SHA256, record.CKAID, record.ID)
					require.NoError(t, err)
				}
				_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: ptr(unknownID)})
				requireCode(t, err, "NotFoundException") // half-made keys are invisible
				other := openClient(t, cfg)              // its janitor starts with a pass
				requireNothingHalfMade(t, other, 1)
				_, err = generate(t.Context(), other, kept.KeyId, []byte("m"))
				require.NoError(t, err)
			})
		}
	}
}

// In a copy of a store everything half-made may have been finished in the original: it must be left alone.
func TestJanitorInACopy(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	record := plant(t, c, c.bridge.core.Store.Instance(), keystore.Creating, true)
	defer c.bridge.core.Keys.InProgress(record.Ref())()
	copied := filepath.Join(t.TempDir(), "copy")
	out, err := exec.Command("cp", "-a", filepath.Dir(cfg.StorePath), copied).CombinedOutput()
	require.NoError(t, err, "%s", out)

	made := record // the original goes on
	made.State, made.Instance = keystore.Enabled, ""
	_, err = c.bridge.core.Cache.Commit(t.Context(), made.Put(mustVersion(t, c, record.Ref())))
	require.NoError(t, err)

	cfg.StorePath = filepath.Join(copied, filepath.Base(cfg.StorePath))
	other := openClient(t, cfg)
	finished, err := other.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Empty(t, finished)
	_, err = generate(t.Context(), c, ptr(record.ID), []byte("m"))
	require.NoError(t, err, "the key of the original is whole")
	_, err = other.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: ptr(record.ID)})
	requireCode(t, err, "NotFoundException") // the copy does not show it
}

// A person can say that there is no original: then what nobody can decide is finished. A living process is left alone all the same.
func TestUndecidedKeysAreFinishedWhenAPersonSaysSo(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	record := halfMade("", keystore.Creating)
	instance := dieOver(t, cfg.StorePath, record)
	require.NoError(t, os.Remove(filepath.Join(filepath.Dir(cfg.StorePath), "locks", instance+".lock")))
	_, err := c.region.Token.GenerateHMACKey(t.Context(), token.SHA256, record.CKAID, record.ID)
	require.NoError(t, err)
	living := numbered(1, keystore.Creating)
	living.Instance = openClient(t, cfg).bridge.core.Store.Instance()
	_, err = c.bridge.core.Store.Commit(t.Context(), living.Put(0))
	require.NoError(t, err)

	finished, err := c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Empty(t, finished)
	finished, err = c.bridge.core.Keys.TidyUndecided(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{record.ID}, finished)
	_, err = c.region.Token.Describe(t.Context(), record.CKAID)
	require.ErrorIs(t, err, token.ErrKeyMissing)
	_, err = c.bridge.core.Store.Get(t.Context(), living.Ref())
	require.NoError(t, err)
}

// An object that has the CKA_ID of a half-made key by chance, but not its label, is somebody else's.
func TestJanitorLeavesAForeignObjectAlone(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	record := halfMade("", keystore.Creating)
	_, err := c.region.Token.GenerateHMACKey(t.Context(), token.SHA256, record.CKAID, "somebody else's")
	require.NoError(t, err)
	dieOver(t, cfg.StorePath, record)
	c.bridge.core.Keys.Tidy(t.Context())
	_, err = c.bridge.core.Store.Get(t.Context(), record.Ref())
	require.ErrorIs(t, err, keystore.ErrNotFound, "the record is gone")
	o, err := c.region.Token.Describe(t.Context(), record.CKAID)
	require.NoError(t, err)
	require.Equal(t, "somebody else's", o.Label)
}

// Two Bridges on one Store are one instance: neither takes what the other works on for left behind.
func TestBridgesThatShareAStore(t *testing.T) {
	c, store, cfg := withFaults(t)
	cfg.Store, cfg.StorePath = store, ""
	second := openClient(t, cfg)
	stop := make(chan struct{})
	tidied := make(chan struct{})
	go func() {
		defer close(tidied)
		for {
			select {
			case <-stop:
				return
			default:
				second.bridge.core.Keys.Tidy(context.Background())
			}
		}
	}()
	for range 10 {
		_, err := createHMAC256(t.Context(), c)
		assert.NoError(t, err)
	}
	close(stop)
	<-tidied
	requireNothingHalfMade(t, c, 10)
}

// Close does not wait for a janitor that has much to do.
func TestCloseEndsTheJanitor(t *testing.T) {
	cfg := newConfig(t)
	cfg.MaxSessions, cfg.CallTimeout = 1, 300*time.Millisecond
	c, err := newAt(t.Context(), cfg)
	require.NoError(t, err)
	key := mustCreateDirectly(t, c)
	s, err := c.NewMAC(context.Background(), *key.KeyId, types.MacAlgorithmSpecHmacSha256) // takes the only session
	require.NoError(t, err)
	defer runtime.KeepAlive(s) // a stream that is forgotten gives its session back
	for i := range 20 {
		dieOver(t, cfg.StorePath, numbered(i, keystore.Creating))
	}
	passed := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { defer close(passed); c.bridge.core.Keys.Tidy(ctx) }()
	cancel()
	<-passed // a pass of 20 records would wait for the session 20 times
	require.NoError(t, c.Close())
	recs, err := reopen(t, cfg).Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 100)
	require.NoError(t, err)
	require.Greater(t, len(recs), 10, "what was not done is left for later")
}

func reopen(t *testing.T, cfg testConfig) keystore.Store {
	s, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestJanitorLeavesTheLivingAlone(t *testing.T) {
	cfg := newConfig(t)
	c, other := openClient(t, cfg), openClient(t, cfg)
	record := plant(t, c, c.bridge.core.Store.Instance(), keystore.Creating, true)
	defer c.bridge.core.Keys.InProgress(record.Ref())()
	for _, b := range []*Bridge{c.bridge, other.bridge} {
		finished, err := b.core.Keys.Tidy(t.Context())
		require.NoError(t, err)
		require.Empty(t, finished)
	}
	_, err := c.bridge.core.Store.Get(t.Context(), record.Ref())
	require.NoError(t, err)
	_, err = c.region.Token.Describe(t.Context(), record.CKAID)
	require.NoError(t, err)
	removed, err := c.bridge.core.Keys.Finish(t.Context(), record, mustVersion(t, c, record.Ref()))
	require.NoError(t, err)
	require.True(t, removed)
}

func mustVersion(t *testing.T, c *Client, ref keystore.Ref) uint64 {
	rec, err := c.bridge.core.Store.Get(t.Context(), ref)
	require.NoError(t, err)
	return rec.Version
}

// A creator that was taken for dead cannot flip its record any more, cleans up after itself, and makes another key.
func TestCreatorThatWasTakenForDead(t *testing.T) {
	c, store, _ := withFaults(t)
	store.hook(func(changes []keystore.Change) error {
		if failWhen(keystore.Enabled)(changes) == nil {
			return nil
		}
		store.hook(nil, nil)
		rec, err := store.Get(t.Context(), changes[0].Ref)
		require.NoError(t, err)
		record, err := keystore.DecodeKey(rec)
		require.NoError(t, err)
		_, err = c.bridge.core.Keys.Finish(t.Context(), record, rec.Version)
		return err
	}, nil)
	_, err := createHMAC256(t.Context(), c)
	require.NoError(t, err)
	requireNothingHalfMade(t, c, 1)
}
