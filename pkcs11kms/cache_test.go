package pkcs11kms

import (
	"context"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// twoProcesses are two Bridges on one store and token: the first with a store that can be stuck and a clock that is set.
func twoProcesses(t *testing.T) (first, second *Client, store *faultyStore, clk *clock) {
	cfg := newConfig(t)
	second = openClient(t, cfg)
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store, clk = &faultyStore{Store: real}, newClock()
	cfg.Store, cfg.StorePath, cfg.Now = store, "", clk.Now
	return openClient(t, cfg), second, store, clk
}

func TestChangeByAnotherProcessIsSeen(t *testing.T) {
	first, second, _, _ := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	mac, err := generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err)
	require.NoError(t, verify(t.Context(), second, key.KeyId, []byte("m"), mac))

	_, err = second.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
	_, err = generate(t.Context(), second, key.KeyId, []byte("m"))
	requireAPIError(t, err, "DisabledException", *key.Arn+" is disabled.")
	require.Eventually(t, func() bool {
		_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
		return err != nil
	}, 10*time.Second, 10*time.Millisecond)
	_, err = generate(t.Context(), first, key.KeyId, []byte("m"))
	requireAPIError(t, err, "DisabledException", *key.Arn+" is disabled.")
}

// A cached key is served while its confirmation is at most a second old, and not a moment longer.
func TestCacheServesForASecond(t *testing.T) {
	first, second, store, clk := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	require.NoError(t, first.bridge.cache.confirm(t.Context())) // so that the poller does not drop for this what is cached below
	_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err)

	// The poller hangs from now on, and its last look was at the time the clock shows.
	require.NoError(t, first.bridge.cache.confirm(t.Context()))
	store.stuck.Store(true)
	waitForPoller(t, store)
	_, err = second.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)

	clk.Advance(maxCacheAge)
	_, err = generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err, "within the bound the cache serves without asking")
	clk.Advance(1)
	_, err = generate(t.Context(), first, key.KeyId, []byte("m"))
	var internal *types.KMSInternalException
	require.ErrorAs(t, err, &internal, "past the bound a cache that cannot be confirmed refuses")

	store.stuck.Store(false)
	require.Eventually(t, func() bool {
		_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
		var disabled *types.DisabledException
		return errorAs(err, &disabled)
	}, 10*time.Second, 10*time.Millisecond, "it recovers by itself")
}

// A clock that was set back makes the age unknown, which is as bad as old.
func TestCacheDoesNotTrustAClockThatGoesBack(t *testing.T) {
	first, _, store, clk := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err)
	require.NoError(t, first.bridge.cache.confirm(t.Context()))
	store.stuck.Store(true)
	waitForPoller(t, store)
	clk.Advance(-time.Hour)
	_, err = generate(t.Context(), first, key.KeyId, []byte("m"))
	var internal *types.KMSInternalException
	require.ErrorAs(t, err, &internal)
}

// waitForPoller returns when a look of the poller hangs in the store, so that no earlier one can still come back.
func waitForPoller(t *testing.T, store *faultyStore) {
	looks := store.looks.Load()
	require.Eventually(t, func() bool { return store.looks.Load() > looks }, 10*time.Second, time.Millisecond)
}

// The caller that waits for a confirmation can give up.
func TestConfirmationEndsWithTheContext(t *testing.T) {
	first, _, store, clk := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	store.stuck.Store(true)
	waitForPoller(t, store)
	clk.Advance(time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := generate(ctx, first, key.KeyId, []byte("m"))
	require.ErrorIs(t, err, context.Canceled)
}

func TestMissesAreNotCached(t *testing.T) {
	first, second, _, _ := twoProcesses(t)
	id := "0f0f0f0f-0000-4000-8000-000000000000"
	_, err := first.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	require.Error(t, err)
	made := keystore.Key{Region: testRegion, Account: testAccount, ID: id, State: keystore.Enabled, Spec: "HMAC_256",
		Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: []byte("0123456789abcdef")}
	_, err = second.bridge.cache.commit(t.Context(), made.Put(0))
	require.NoError(t, err)
	_, err = first.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	require.NoError(t, err, "seen at once, no poll in between")

	// It has no object in the token.
	_, err = generate(t.Context(), first, &id, []byte("m"))
	requireAPIError(t, err, "KeyUnavailableException", arnOf(id)+" is unavailable.")
}

// A record that was read before a change was committed must not enter the cache after it.
func TestLateReadIsNotCached(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	ref := keystore.KeyRef(testRegion, testAccount, *key.KeyId)
	late := &lateStore{Store: c.bridge.store, read: make(chan struct{}), resume: make(chan struct{})}
	c.bridge.cache.store = late
	done := make(chan error, 1)
	go func() {
		_, err := c.bridge.key(context.Background(), ref, true)
		done <- err
	}()
	<-late.read
	rec, err := c.bridge.store.Get(t.Context(), ref)
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	record.State = keystore.Disabled
	_, err = c.bridge.cache.commit(t.Context(), record.Put(rec.Version))
	require.NoError(t, err)
	close(late.resume)
	require.NoError(t, <-done)
	_, err = generate(t.Context(), c, key.KeyId, []byte("m"))
	requireAPIError(t, err, "DisabledException", *key.Arn+" is disabled.")
}

// lateStore holds the answer of the first Get back.
type lateStore struct {
	keystore.Store
	read, resume chan struct{}
	held         bool
}

func (s *lateStore) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	rec, err := s.Store.Get(ctx, ref)
	if !s.held {
		s.held = true
		close(s.read)
		<-s.resume
	}
	return rec, err
}
