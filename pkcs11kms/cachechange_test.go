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

// cachedKey makes a key that the first of two processes has in its cache, where it stays: nothing confirms the cache any more.
func cachedKey(t *testing.T) (first, second *Client, store *faultyStore, key *types.KeyMetadata) {
	first, second, store, _ = twoProcesses(t)
	key = mustCreate(t, first, types.KeySpecHmac256)
	require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
	_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err)
	store.stuck.Store(true)
	waitForPoller(t, store)
	return first, second, store, key
}

// An operation that changes a key decides on what the store says now, not on what the cache holds.
func TestCacheDoesNotDecideOnChanges(t *testing.T) {
	first, second, _, key := cachedKey(t)
	require.NoError(t, toggle(t.Context(), second, key.KeyId, false))
	_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err, "the first process has not seen the change")
	require.NoError(t, toggle(t.Context(), first, key.KeyId, true))
	require.True(t, describe(t, second, key.KeyId).Enabled, "whoever enables a key gets it enabled")

	_, err = generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err)
	schedule(t, second, key.KeyId, 7)
	_, err = first.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: key.KeyId})
	require.NoError(t, err)
	require.Equal(t, types.KeyStateDisabled, describe(t, second, key.KeyId).KeyState)
}

// A commit that answers with an error may have been made all the same, so the cache does not keep what it was about.
func TestCacheForgetsWhatACommitWithAnErrorWasAbout(t *testing.T) {
	first, _, store, key := cachedKey(t)
	store.hook(nil, func([]keystore.Change) error { return errDisk })
	require.ErrorIs(t, toggle(t.Context(), first, key.KeyId, false), errDisk)
	store.hook(nil, nil)
	_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
	requireAPIError(t, err, "DisabledException", *key.Arn+" is disabled.")
}

// awaited is a context that tells when somebody begins to wait for its end.
type awaited struct {
	context.Context
	begun chan struct{} // of one place
}

func (c awaited) Done() <-chan struct{} {
	select {
	case c.begun <- struct{}{}:
	default:
	}
	return c.Context.Done()
}

// While another makes the look at the store, which does not answer, a caller can give up waiting for it.
func TestConfirmationByAnotherIsNotWaitedForAfterTheContext(t *testing.T) {
	first, _, store, clk := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	looking, answered := make(chan struct{}, 1), make(chan struct{})
	store.onLook(func() error { // of the poller; it heeds no context
		select {
		case looking <- struct{}{}:
		default:
		}
		<-answered
		return nil
	})
	defer close(answered)
	<-looking
	clk.Advance(time.Minute)
	parent, cancel := context.WithCancel(t.Context())
	ctx := awaited{parent, make(chan struct{}, 1)}
	done := make(chan error, 1)
	go func() {
		_, err := generate(ctx, first, key.KeyId, []byte("m"))
		done <- err
	}()
	<-ctx.begun
	cancel()
	select {
	case err := <-done:
		require.ErrorIs(t, err, context.Canceled)
	case <-time.After(30 * time.Second):
		require.Fail(t, "the caller waits on")
	}
}

// changeAnother makes a key and changes it.
func changeAnother(t testing.TB, c *Client) {
	key := mustCreate(t, c, types.KeySpecHmac256)
	require.NoError(t, toggle(t.Context(), c, key.KeyId, false))
	_, err := c.TagResource(t.Context(), &kms.TagResourceInput{KeyId: key.KeyId, Tags: []types.Tag{{TagKey: ptr("k"), TagValue: ptr("v")}}})
	require.NoError(t, err)
	_, err = c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: key.KeyId})
	require.NoError(t, err)
}

// While another process changes other records, GenerateMac does not ask the store for any, whoever calls it and by whatever
// name; and what the other process changes of these, it sees.
func TestChangesElsewhereDoNotSlowGenerateMac(t *testing.T) {
	cfg := newConfig(t)
	second := openClient(t, cfg)
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store := &countingStore{Store: real}
	cfg.Store, cfg.StorePath = store, ""
	first := openClient(t, cfg)
	key := mustCreate(t, first, types.KeySpecHmac256)
	createAlias(t, first, "alias/used", key.KeyId)
	user := as(t, first, userName("u"), allow("*", "kms:*"))
	use := func() error {
		_, err := generate(t.Context(), user, ptr("alias/used"), []byte("m"))
		return err
	}
	require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
	require.NoError(t, use())
	store.take()
	for range 5 {
		changeAnother(t, second)
		require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
		require.NoError(t, use())
		require.Empty(t, store.take())
	}
	require.NoError(t, toggle(t.Context(), second, key.KeyId, false))
	require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
	var disabled *types.DisabledException
	require.ErrorAs(t, use(), &disabled)
}

// BenchmarkGenerateMacBesideAWriter: what a call costs, and how often it asks the store, while another process writes to other
// records all the time and the cache looks at the store between any two calls.
func BenchmarkGenerateMacBesideAWriter(b *testing.B) {
	cfg := newConfig(b)
	real, err := sqlite.Open(b.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, real.Close()) })
	other, err := sqlite.Open(b.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, other.Close()) })
	store := &countingStore{Store: real}
	cfg.Store, cfg.StorePath = store, ""
	c := openClient(b, cfg)
	key := mustCreate(b, c, types.KeySpecHmac256)
	_, err = generate(b.Context(), c, key.KeyId, []byte("m"))
	require.NoError(b, err)
	var version uint64
	store.take()
	for b.Loop() {
		b.StopTimer()
		version, err = other.Commit(b.Context(), keystore.Counter{Name: "elsewhere"}.Put(version))
		require.NoError(b, err)
		require.NoError(b, c.bridge.core.Cache.Confirm(b.Context()))
		b.StartTimer()
		_, err = generate(b.Context(), c, key.KeyId, []byte("m"))
		require.NoError(b, err)
	}
	b.ReportMetric(float64(len(store.take()))/float64(b.N), "reads/op")
}
