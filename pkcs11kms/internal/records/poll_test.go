package records_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// looked is a store in which nothing changes, and which is looked at as a test says.
type looked struct {
	keystore.Store
	mu    sync.Mutex // guards what follows
	look  func(context.Context) error
	times []time.Time
}

func (l *looked) ChangedSince(ctx context.Context, _ keystore.Mark) (keystore.Changed, error) {
	l.mu.Lock()
	l.times = append(l.times, time.Now())
	look := l.look
	l.mu.Unlock()
	return keystore.Changed{}, look(ctx)
}

func (l *looked) onLook(look func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look = look
}

// taken returns when looks were made since the last call.
func (l *looked) taken() []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	times := l.times
	l.times = nil
	return times
}

// The store is looked at four times a second. That it does not answer is logged once for each time that it goes on, and not that the
// process ends.
func TestPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, log := &looked{look: succeed}, &said{}
		c := records.New(store, slog.New(log), time.Now)
		polling, stop := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		begin := time.Now()
		go func() {
			defer close(stopped)
			c.Poll(polling)
		}()
		var want []time.Time
		for i := range 4 {
			want = append(want, begin.Add(time.Duration(i+1)*250*time.Millisecond))
		}
		pass(time.Second)
		require.Equal(t, want, store.taken())
		for outage := range 2 {
			store.onLook(func(context.Context) error { return errDisk })
			pass(time.Minute)
			require.Len(t, log.messages(), outage+1)
			store.onLook(succeed)
			pass(time.Minute)
		}
		require.Equal(t, "store does not confirm cached records", log.messages()[0])
		store.onLook(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		pass(time.Second)
		stop()
		<-stopped
		require.Len(t, log.messages(), 2)
	})
}
