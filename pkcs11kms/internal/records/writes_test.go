package records_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// watchWrites runs WatchWrites for the time of a test.
func watchWrites(t *testing.T, c *records.Cache) {
	watch, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.WatchWrites(watch)
	}()
	t.Cleanup(func() {
		stop()
		<-stopped
	})
}

// A store that takes a Commit and does not answer cannot be changed, and that is told until it answers again: the attempts to write
// end with their own time limit, and go on.
func TestAStoreThatDoesNotAnswerCannotBeChanged(t *testing.T) {
	c, store, _ := cached(t)
	store.onCommit(func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	watchWrites(t, c)
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := c.Commit(short, keystore.Counter{Name: "x"}.Put(0))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Eventually(t, func() bool { return c.WriteFailure() != nil }, 30*time.Second, time.Millisecond)
	require.ErrorIs(t, c.WriteFailure(), keystore.ErrBusy)

	store.onCommit(nil)
	require.Eventually(t, func() bool { return c.WriteFailure() == nil }, 30*time.Second, time.Millisecond)
}

var errDisk = errors.New("the disk is full")

// A store that can be changed again is found to be so after each failure, not after the first alone.
func TestEveryFailureToWriteIsWatched(t *testing.T) {
	c, store, _ := cached(t)
	watchWrites(t, c)
	trial := keystore.CounterRef("", "", records.WriteTrialCounter)
	var written uint64
	for range 3 {
		store.onCommit(func(context.Context) error { return errDisk })
		_, err := c.Commit(t.Context(), keystore.Counter{Name: "x"}.Put(0))
		require.ErrorIs(t, err, errDisk)
		require.ErrorIs(t, c.WriteFailure(), errDisk)
		store.onCommit(nil)
		require.Eventually(t, func() bool { return c.WriteFailure() == nil }, 30*time.Second, time.Millisecond)
		rec, err := store.Get(t.Context(), trial)
		require.NoError(t, err)
		require.Greater(t, rec.Version, written, "each attempt writes")
		written = rec.Version
	}
}

// What another process writes during an attempt that fails does not tell that this one can write: the attempts go on until one
// of them succeeds.
func TestAttemptsGoOnWhileOthersWrite(t *testing.T) {
	c, store, other := cached(t)
	confirm(t, c)
	var commits atomic.Int64
	store.onCommit(func(context.Context) error {
		switch commits.Add(1) {
		case 1: // that of the test
			return errDisk
		case 2: // the first attempt
			set(t, other, "theirs", 1)
			confirm(t, c)
			return errDisk
		}
		return nil
	})
	_, err := c.Commit(t.Context(), keystore.Counter{Name: "mine"}.Put(0))
	require.ErrorIs(t, err, errDisk)
	watchWrites(t, c)
	require.Eventually(t, func() bool { return c.WriteFailure() == nil }, 30*time.Second, time.Millisecond)
	require.EqualValues(t, 3, commits.Load())
}
