package records_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// A store that takes a Commit and does not answer cannot be changed, and that is told until it answers again: the attempts to write
// end with their own time limit, and go on.
func TestAStoreThatDoesNotAnswerCannotBeChanged(t *testing.T) {
	c, store, _ := cached(t)
	store.onCommit(func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	watch, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.WatchWrites(watch)
	}()
	defer func() {
		stop()
		<-stopped
	}()
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := c.Commit(short, keystore.Counter{Name: "x"}.Put(0))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Eventually(t, func() bool { return c.WriteFailure() != nil }, 30*time.Second, time.Millisecond)
	require.ErrorIs(t, c.WriteFailure(), keystore.ErrBusy)

	store.onCommit(nil)
	require.Eventually(t, func() bool { return c.WriteFailure() == nil }, 30*time.Second, time.Millisecond)
}
