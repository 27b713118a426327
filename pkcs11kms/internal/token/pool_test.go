package token_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func sessions(n int) func(*token.Config) {
	return func(c *token.Config) { c.MaxSessions = n }
}

func timeout(d time.Duration) func(*token.Config) {
	return func(c *token.Config) { c.CallTimeout = d }
}

// sign starts a MAC on a goroutine.
func sign(ctx context.Context, tok *token.Token, key *token.Key) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := tok.MAC(ctx, key, []byte("message"))
		done <- err
	}()
	return done
}

func TestPoolIsBounded(t *testing.T) {
	for name, ctx := range contexts(t) {
		t.Run(name, func(t *testing.T) {
			tok, f := openFaulty(t, sessions(3))
			key := newKey(t, tok)
			var inside, most atomic.Int64
			f.on("C_Sign", func() error {
				n := inside.Add(1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				inside.Add(-1)
				return nil
			})
			var wg sync.WaitGroup
			for range 24 {
				wg.Go(func() {
					for range 20 {
						if _, err := tok.MAC(ctx, key, []byte("message")); err != nil {
							t.Error(err)
						}
						if s := tok.Stats(); s.Open > 3 || s.InUse > 3 {
							t.Errorf("%d sessions open, %d in use", s.Open, s.InUse)
						}
					}
				})
			}
			wg.Wait()
			assert.LessOrEqual(t, most.Load(), int64(3))
			assert.LessOrEqual(t, tok.Stats().Open, 3)
		})
	}
}

func TestPoolOpensOnlyWhatIsUsedAtOnce(t *testing.T) {
	tok := newToken(t)
	key := newKey(t, tok)
	for range 50 {
		_, err := tok.MAC(t.Context(), key, []byte("message"))
		require.NoError(t, err)
	}
	assert.Equal(t, 1, tok.Stats().Open)
}

func TestBusy(t *testing.T) {
	tok, f := openFaulty(t, sessions(1), timeout(50*time.Millisecond))
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	first := sign(context.Background(), tok, key)
	<-reached

	_, err := tok.MAC(context.Background(), key, []byte("message"))
	assert.ErrorIs(t, err, token.ErrBusy, "the wait ends with CallTimeout")

	ctx, cancel := context.WithCancel(context.Background())
	waiting := sign(ctx, tok, key)
	require.Eventually(t, func() bool { return tok.Stats().Waiting == 1 }, patience, tick)
	cancel()
	err = <-waiting
	assert.ErrorIs(t, err, token.ErrBusy)
	assert.Zero(t, tok.Stats().Waiting)

	free()
	require.NoError(t, <-first)
	_, err = tok.MAC(context.Background(), key, []byte("message"))
	assert.NoError(t, err)
}

func TestCancelledWaitersLeaveTheQueue(t *testing.T) {
	tok, f := openFaulty(t, sessions(1))
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	first := sign(context.Background(), tok, key)
	<-reached
	ctx, cancel := context.WithCancel(context.Background())
	var quitters []<-chan error
	for range 10 {
		quitters = append(quitters, sign(ctx, tok, key))
	}
	require.Eventually(t, func() bool { return tok.Stats().Waiting == 10 }, patience, tick)
	patient := sign(context.Background(), tok, key)
	require.Eventually(t, func() bool { return tok.Stats().Waiting == 11 }, patience, tick)
	cancel()
	for _, q := range quitters {
		err := <-q
		assert.ErrorIs(t, err, token.ErrBusy)
		assert.ErrorIs(t, err, context.Canceled)
	}
	free()
	require.NoError(t, <-first)
	require.NoError(t, <-patient, "those who stay are served")
}

func TestAnEndedContextTouchesNothing(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	signs, open := f.count("C_SignInit"), tok.Stats().Open
	_, err := tok.MAC(ctx, key, []byte("message"))
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, signs, f.count("C_SignInit"))
	assert.Equal(t, open, tok.Stats().Open, "the session is kept")

	st, err := tok.NewStream(t.Context(), key) // takes it
	require.NoError(t, err)
	opened := f.count("C_OpenSession")
	_, err = tok.MAC(ctx, key, []byte("message"))
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, opened, f.count("C_OpenSession"))
	assert.Equal(t, open, tok.Stats().Open, "what was not opened is not kept")
	require.NoError(t, st.Close())
}

func TestTokenLimitBoundsThePool(t *testing.T) {
	for limit, want := range map[uint]int{
		pkcs11.CK_UNAVAILABLE_INFORMATION: 32, pkcs11.CK_EFFECTIVELY_INFINITE: 32, 1024: 32, 33: 32, 32: 31, 16: 15, 2: 1, 1: 1,
	} {
		cfg, _ := newConfig(t)
		f := newFaulty(&cfg)
		f.limit = limit
		tok := open(t, cfg)
		assert.Equal(t, want, tok.Stats().Size, "limit %d", limit)
		newKey(t, tok)
		assert.Equal(t, want, tok.Stats().Size, "and it is no shortage that passes")
	}
}

// fewWriters is a token that gives few of the sessions by which objects can be made.
type fewWriters struct{ token.Module }

func (m fewWriters) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	info, err := m.Module.GetTokenInfo(slot)
	info.MaxRwSessionCount = 8
	return info, err
}

// All sessions are such as objects can be made by, so the token's limit of those counts as well.
func TestTokenLimitOfWritersBoundsThePool(t *testing.T) {
	cfg, _ := newConfig(t)
	cfg.SetWrap(func(m token.Module) token.Module { return fewWriters{m} })
	require.Equal(t, 7, open(t, cfg).Stats().Size)
}

// TestSessionCountShrinksThePool plays a token that has three sessions to give in all.
func TestSessionCountShrinksThePool(t *testing.T) {
	tok, f := openFaulty(t, sessions(8))
	key := newKey(t, tok)
	var left atomic.Int64
	left.Store(2)
	f.on("C_OpenSession", func() error {
		if left.Add(-1) < 0 {
			return pkcs11.Error(pkcs11.CKR_SESSION_COUNT)
		}
		return nil
	})
	reached, free := f.hang("C_Sign")
	var calls []<-chan error
	for range 8 {
		calls = append(calls, sign(context.Background(), tok, key))
	}
	for range 3 {
		<-reached
	}
	require.Eventually(t, func() bool { return tok.Stats().Waiting == 5 }, patience, tick, "the others wait")
	assert.Equal(t, 3, tok.Stats().Size)
	free()
	for _, c := range calls {
		assert.NoError(t, <-c)
	}
}

// A session that was given back while the token refused another one serves: the one who was refused takes it.
func TestSessionGivenBackDuringTheRefusalIsTaken(t *testing.T) {
	tok, f := openFaulty(t, sessions(2))
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	defer free()
	first := sign(context.Background(), tok, key)
	<-reached
	opening, refuse := make(chan struct{}), make(chan struct{})
	f.on("C_OpenSession", func() error {
		close(opening)
		<-refuse
		return pkcs11.Error(pkcs11.CKR_SESSION_COUNT)
	})
	second := sign(context.Background(), tok, key)
	<-opening
	free()
	require.NoError(t, <-first)
	close(refuse)
	require.NoError(t, <-second)
	assert.Equal(t, 1, tok.Stats().Size)
}

// Only C_OpenSession tells that there are no more sessions, and only by CKR_SESSION_COUNT.
func TestOtherFailuresDoNotShrinkThePool(t *testing.T) {
	tok, f := openFaulty(t, sessions(8))
	key := newKey(t, tok)
	st, err := tok.NewStream(t.Context(), key) // takes the session that is open
	require.NoError(t, err)
	for _, want := range []token.Error{{Func: "C_OpenSession", RV: pkcs11.CKR_HOST_MEMORY},
		{Func: "C_SignInit", RV: pkcs11.CKR_SESSION_COUNT}} {
		f.fail(want.Func, 2, want.RV)
		_, err := tok.MAC(t.Context(), key, []byte("message"))
		var e *token.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, want, *e)
		assert.NotErrorIs(t, err, token.ErrBusy)
		assert.Equal(t, 8, tok.Stats().Size)
		_, err = tok.MAC(t.Context(), key, []byte("message"))
		require.NoError(t, err)
	}
	require.NoError(t, st.Close())
}

func TestNoSessionAtAllIsBusy(t *testing.T) {
	tok, f := openFaulty(t)
	f.on("C_OpenSession", func() error { return pkcs11.Error(pkcs11.CKR_SESSION_COUNT) })
	closed := f.count("C_CloseSession")
	_, err := tok.Random(context.Background(), 16)
	assert.ErrorIs(t, err, token.ErrBusy)
	requireRV(t, err, "C_OpenSession", pkcs11.CKR_SESSION_COUNT)
	assert.Equal(t, closed, f.count("C_CloseSession"), "what was not opened is not closed")
	f.on("C_OpenSession", nil)
	_, err = tok.Random(context.Background(), 16)
	assert.NoError(t, err)
}
