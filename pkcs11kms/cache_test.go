package pkcs11kms

import (
	"context"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// twoProcesses are two Bridges on one store and token: the first with a store that can be stuck and a clock that is set.
func twoProcesses(t *testing.T) (first, second *Client, store *faultyStore, clk *clock) {
	cfg := newConfig(t)
	second = openClient(t, cfg)
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store, clk = &faultyStore{Store: real, path: cfg.StorePath}, newClock()
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

// A store may not be able to tell which record has changed.
func TestChangeOfSomeRecordIsSeen(t *testing.T) {
	first, second, store, clk := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	store.vague.Store(true)
	require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
	_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err)
	_, err = second.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
	clk.Advance(records.MaxAge + 1)
	_, err = generate(t.Context(), first, key.KeyId, []byte("m"))
	requireAPIError(t, err, "DisabledException", *key.Arn+" is disabled.")
}

// A cached key is served while its confirmation is at most a second old, and not a moment longer.
func TestCacheServesForASecond(t *testing.T) {
	first, second, store, clk := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	require.NoError(t, first.bridge.core.Cache.Confirm(t.Context())) // so that the poller does not drop for this what is cached below
	_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err)

	// The poller hangs from now on, and its last look was at the time the clock shows.
	require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
	store.stuck.Store(true)
	waitForPoller(t, store)
	_, err = second.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)

	clk.Advance(time.Second)
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
	require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
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
	requireCode(t, err, "NotFoundException")
	made := keystore.Key{Region: testRegion, Account: testAccount, ID: id, State: keystore.Enabled, Spec: "HMAC_256",
		Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: []byte("0123456789abcdef")}
	_, err = second.bridge.core.Cache.Commit(t.Context(), made.Put(0))
	require.NoError(t, err)
	_, err = first.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	require.NoError(t, err, "seen at once, no poll in between")

	// It has no object in the token.
	_, err = generate(t.Context(), first, &id, []byte("m"))
	requireAPIError(t, err, "KeyUnavailableException", arnOf(id)+" is unavailable.")
}

// A record that was read before a change was seen must not enter the cache after it, whoever made the change: it would be
// served until the next one. Nothing confirms the cache in between, so that nothing else can drop the record.
func TestLateReadIsNotCached(t *testing.T) {
	for _, own := range []bool{true, false} {
		first, second, store, _ := twoProcesses(t)
		key := mustCreate(t, first, types.KeySpecHmac256)
		ref := keystore.KeyRef(testRegion, testAccount, *key.KeyId)
		require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
		store.stuck.Store(own) // the commit of another is seen by a look
		waitForPoller(t, store)

		read, resume := make(chan struct{}), make(chan struct{})
		store.onGet(func(keystore.Ref) error {
			store.onGet(nil)
			close(read)
			<-resume
			return nil
		})
		done := make(chan error, 1)
		go func() {
			_, err := first.bridge.key(context.Background(), ref, true)
			done <- err
		}()
		<-read
		if own {
			require.NoError(t, toggle(t.Context(), first, key.KeyId, false))
		} else {
			require.NoError(t, toggle(t.Context(), second, key.KeyId, false))
			require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
		}
		close(resume)
		require.NoError(t, <-done)
		_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
		requireAPIError(t, err, "DisabledException", *key.Arn+" is disabled.")
	}
}

// What was read before a look counts from the moment at which that look began, not from its end: a change may have been made
// while it was on its way.
func TestConfirmationCountsFromItsBegin(t *testing.T) {
	first, second, store, clk := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
	_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err)
	looked := make(chan struct{})
	store.onLook(func() error { // of the poller
		store.onLook(nil)
		store.stuck.Store(true) // no other look comes through
		clk.Advance(time.Second)
		assert.NoError(t, toggle(context.Background(), second, key.KeyId, false))
		close(looked)
		return nil
	})
	<-looked
	waitForPoller(t, store)
	_, err = generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err, "a second old")
	clk.Advance(1)
	_, err = generate(t.Context(), first, key.KeyId, []byte("m"))
	var internal *types.KMSInternalException
	require.ErrorAs(t, err, &internal)
}

// Where nothing can be confirmed, nobody is let in by what is known of users and access keys either, though the store itself
// could still be read.
func TestNobodyIsLetInWithoutConfirmation(t *testing.T) {
	first, _, store, clk := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	user := as(t, first, userName("u"), allow("*", "kms:*"))
	access := mustCreateAccessKey(t, first.bridge, userName("u"))
	use := func() []error {
		_, _, err := first.bridge.SigningKey(t.Context(), access.ID, "20260102", testRegion, "kms")
		_, macErr := generate(t.Context(), user, key.KeyId, []byte("m"))
		return []error{err, macErr, toggle(t.Context(), user, key.KeyId, true)}
	}
	for _, err := range use() {
		require.NoError(t, err)
	}
	store.stuck.Store(true)
	waitForPoller(t, store)
	clk.Advance(time.Minute)
	for _, err := range use() {
		var internal *types.KMSInternalException
		require.ErrorAs(t, err, &internal)
	}
}

// However many callers find the cache too old, one look is under way at a time.
func TestOneLookAtATime(t *testing.T) {
	first, _, store, clk := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	var under, most atomic.Int64
	store.onLook(func() error {
		most.Store(max(most.Load(), under.Add(1)))
		runtime.Gosched()
		under.Add(-1)
		return nil
	})
	clk.Advance(time.Minute)
	var calls errgroup.Group
	for range 50 {
		calls.Go(func() error {
			_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
			return err
		})
	}
	require.NoError(t, calls.Wait())
	require.EqualValues(t, 1, most.Load())
}

// countingLog counts the records of a message.
type countingLog struct {
	slog.Handler
	message string
	n       atomic.Int64
}

func (l *countingLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *countingLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message == l.message {
		l.n.Add(1)
	}
	return nil
}

// A store that does not confirm is logged once each time that it begins, and not when it is the Bridge that ends.
func TestFailingConfirmationIsLoggedOnce(t *testing.T) {
	c, store, cfg := withFaults(t)
	log := &countingLog{message: "store does not confirm cached records"}
	cfg.Logger = slog.New(log)
	cfg.Store, cfg.StorePath = store, ""
	require.NoError(t, c.Close()) // whose poller would look as well
	c, err := newAt(t.Context(), cfg)
	require.NoError(t, err)
	looks := func(n int64, answer error) {
		var done atomic.Int64
		store.onLook(func() error { done.Add(1); return answer })
		require.Eventually(t, func() bool { return done.Load() >= n }, 10*time.Second, time.Millisecond)
	}
	looks(3, errDisk)
	require.EqualValues(t, 1, log.n.Load())
	looks(2, nil)
	looks(3, errDisk)
	require.EqualValues(t, 2, log.n.Load())
	looks(2, nil)
	store.stuck.Store(true)
	waitForPoller(t, store)
	require.NoError(t, c.Close())
	require.EqualValues(t, 2, log.n.Load())
}
