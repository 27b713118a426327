package records_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// played is a store that a test plays in a bubble of synctest.
type played struct {
	keystore.Store
	mu      sync.Mutex // guards what follows
	get     error
	commit  func(context.Context) error
	commits []time.Time
}

func (p *played) Get(context.Context, keystore.Ref) (keystore.Record, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return keystore.Record{}, p.get
}

func (p *played) Commit(ctx context.Context, _ ...keystore.Change) (uint64, error) {
	p.mu.Lock()
	p.commits = append(p.commits, time.Now())
	commit := p.commit
	p.mu.Unlock()
	return 1, commit(ctx)
}

func (p *played) ChangedSince(context.Context, keystore.Mark) (keystore.Changed, error) {
	return keystore.Changed{}, errDisk
}

func (p *played) onCommit(commit func(context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commit = commit
}

// taken returns when Commits were made since the last call.
func (p *played) taken() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	commits := p.commits
	p.commits = nil
	return commits
}

// said is a log: its messages.
type said struct {
	slog.Handler
	mu  sync.Mutex // guards all
	all []string
}

func (s *said) Enabled(context.Context, slog.Level) bool { return true }

func (s *said) Handle(_ context.Context, r slog.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, r.Message)
	return nil
}

func (s *said) messages() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

func succeed(context.Context) error { return nil }

// inPlay runs a test in a bubble, with a cache over a played store whose Commits fail.
func inPlay(t *testing.T, test func(*testing.T, *records.Cache, *played, *said)) {
	synctest.Test(t, func(t *testing.T) {
		store, log := &played{get: keystore.ErrNotFound, commit: func(context.Context) error { return errDisk }}, &said{}
		test(t, records.New(store, slog.New(log), time.Now), store, log)
	})
}

// pass lets time pass in the bubble, and what is due then be done.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// fail makes a Commit, which fails.
func fail(t *testing.T, c *records.Cache, want error) {
	t.Helper()
	_, err := c.Commit(context.Background(), keystore.Counter{Name: "x"}.Put(0))
	require.ErrorIs(t, err, want)
}

// A store that cannot be changed is tried at once and then each second, and that is logged when it begins and when it ends. However
// many Commits fail, none waits for that.
func TestAttemptsAreASecondApart(t *testing.T) {
	inPlay(t, func(t *testing.T, c *records.Cache, store *played, log *said) {
		for range 3 {
			fail(t, c, errDisk)
		}
		begin := time.Now()
		store.taken()
		watchWrites(t, c)
		pass(3500 * time.Millisecond)
		require.Equal(t, []time.Time{begin, begin.Add(time.Second), begin.Add(2 * time.Second), begin.Add(3 * time.Second)}, store.taken())
		require.ErrorIs(t, c.WriteFailure(), errDisk)
		require.NotErrorIs(t, c.WriteFailure(), keystore.ErrBusy, "it has answered")
		require.Equal(t, []string{"the store cannot be changed"}, log.messages())
		store.onCommit(succeed)
		pass(time.Minute)
		require.Len(t, store.taken(), 1, "one that succeeds is the last")
		require.NoError(t, c.WriteFailure())
		require.Equal(t, []string{"the store cannot be changed", "the store can be changed again"}, log.messages())
		_, err := c.Commit(context.Background(), keystore.Counter{Name: "x"}.Put(0))
		require.NoError(t, err)
		require.Len(t, log.messages(), 2)
	})
}

// A Commit that succeeds tells that the store can be changed, without any attempt.
func TestCommitEndsTheFailure(t *testing.T) {
	inPlay(t, func(t *testing.T, c *records.Cache, store *played, log *said) {
		fail(t, c, errDisk)
		require.ErrorIs(t, c.WriteFailure(), errDisk)
		store.onCommit(succeed)
		_, err := c.Commit(context.Background(), keystore.Counter{Name: "x"}.Put(0))
		require.NoError(t, err)
		require.NoError(t, c.WriteFailure())
		require.Len(t, log.messages(), 2)
	})
}

// A Commit that waited in vain while another one of this process came through tells of load: no attempt is made.
func TestOwnCommitsAreLoad(t *testing.T) {
	inPlay(t, func(t *testing.T, c *records.Cache, store *played, _ *said) {
		watchWrites(t, c)
		store.onCommit(func(context.Context) error {
			store.onCommit(succeed)
			_, err := c.Commit(context.Background(), keystore.Counter{Name: "y"}.Put(0))
			return errors.Join(keystore.ErrBusy, err)
		})
		fail(t, c, keystore.ErrBusy)
		store.taken()
		pass(time.Minute)
		require.Empty(t, store.taken())
		require.NoError(t, c.WriteFailure())
	})
}

// An attempt has a second. One that is cut off since the process ends tells nothing of the store.
func TestAttemptHasASecond(t *testing.T) {
	inPlay(t, func(t *testing.T, c *records.Cache, store *played, log *said) {
		took := make(chan time.Duration, 10)
		store.onCommit(func(ctx context.Context) error {
			if ctx.Done() == nil { // that of the test
				return keystore.ErrBusy
			}
			begin := time.Now()
			<-ctx.Done()
			took <- time.Since(begin)
			return ctx.Err()
		})
		fail(t, c, keystore.ErrBusy)
		watch, stop := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			c.WatchWrites(watch)
		}()
		pass(500 * time.Millisecond)
		require.NoError(t, c.WriteFailure())
		stop()
		<-stopped
		require.Equal(t, 500*time.Millisecond, <-took)
		require.NoError(t, c.WriteFailure())
		require.Empty(t, log.messages())

		fail(t, c, keystore.ErrBusy)
		watchWrites(t, c)
		pass(1500 * time.Millisecond)
		require.Equal(t, time.Second, <-took)
		require.ErrorIs(t, c.WriteFailure(), keystore.ErrBusy)
		require.ErrorIs(t, c.WriteFailure(), context.DeadlineExceeded)
	})
}

// What ends the attempts beside a success of their own: another's success at the same record, a Commit of this process that comes
// through meanwhile, and the end of the store, which tells nothing of what it was.
func TestWhatEndsTheAttempts(t *testing.T) {
	for name, last := range map[string]struct {
		attempt func(*records.Cache) error
		left    error
	}{
		"conflict": {func(*records.Cache) error { return keystore.ErrConflict }, nil},
		"closed":   {func(*records.Cache) error { return keystore.ErrClosed }, errDisk},
		"own": {func(c *records.Cache) error {
			_, err := c.Commit(context.Background(), keystore.Counter{Name: "x"}.Put(0))
			return errors.Join(errDisk, err)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inPlay(t, func(t *testing.T, c *records.Cache, store *played, _ *said) {
				fail(t, c, errDisk)
				store.onCommit(func(ctx context.Context) error {
					if ctx.Done() == nil { // within an attempt
						return nil
					}
					return last.attempt(c)
				})
				watchWrites(t, c)
				synctest.Wait()
				require.Equal(t, last.left, c.WriteFailure())
				store.taken()
				pass(time.Minute)
				require.Empty(t, store.taken())
			})
		})
	}
}

// A store that cannot be read cannot be changed either.
func TestAttemptReadsFirst(t *testing.T) {
	inPlay(t, func(t *testing.T, c *records.Cache, store *played, _ *said) {
		fail(t, c, errDisk)
		store.get = errors.New("the disk is lost")
		store.onCommit(succeed)
		store.taken()
		watchWrites(t, c)
		synctest.Wait()
		require.ErrorIs(t, c.WriteFailure(), store.get)
		require.Empty(t, store.taken())
	})
}
