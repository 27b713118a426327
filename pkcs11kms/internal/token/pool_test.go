package token_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
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
		assert.Equal(t, want, open(t, cfg).Stats().Size, "limit %d", limit)
	}
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

// Only C_OpenSession tells that there are no more sessions, and only by CKR_SESSION_COUNT.
func TestOtherFailuresDoNotShrinkThePool(t *testing.T) {
	tok, f := openFaulty(t, sessions(8))
	key := newKey(t, tok)
	st, err := tok.NewStream(t.Context(), key) // takes the session that is open
	require.NoError(t, err)
	for _, want := range []token.Error{{Func: "C_OpenSession", RV: pkcs11.CKR_HOST_MEMORY}, {Func: "C_SignInit", RV: pkcs11.CKR_SESSION_COUNT}} {
		f.fail(want.Func, 1, want.RV)
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
	assert.Equal(t, closed, f.count("C_CloseSession"), "what was not opened is not closed")
	f.on("C_OpenSession", nil)
	_, err = tok.Random(context.Background(), 16)
	assert.NoError(t, err)
}

// manualContext is a context that ends when the test says so, and as the test says.
type manualContext struct {
	context.Context
	done chan struct{}
	err  atomic.Value
}

func newManualContext() *manualContext {
	return &manualContext{Context: context.Background(), done: make(chan struct{})}
}

func (c *manualContext) Done() <-chan struct{} { return c.done }

func (c *manualContext) Err() error {
	err, _ := c.err.Load().(error)
	return err
}

func (c *manualContext) end(err error) {
	c.err.Store(err)
	close(c.done)
}

func TestHungCallIsAnsweredInTime(t *testing.T) {
	for _, want := range []error{context.Canceled, context.DeadlineExceeded} {
		t.Run(want.Error(), func(t *testing.T) {
			tok, f := openFaulty(t, sessions(2), timeout(time.Hour))
			key := newKey(t, tok)
			reached, free := f.hang("C_Sign")
			defer free()
			ctx := newManualContext()
			closed := f.count("C_CloseSession")
			call := sign(ctx, tok, key)
			<-reached
			ctx.end(want)
			err := <-call
			requireHung(t, tok, err, want)
			var hung *token.HungError
			require.ErrorAs(t, err, &hung)
			free()
			<-hung.Done()
			stats := tok.Stats()
			assert.Zero(t, stats.InUse, "the place is free before Done closes")
			assert.Zero(t, stats.Lost)
			assert.Zero(t, stats.Open)
			assert.Equal(t, closed+1, f.count("C_CloseSession"), "nobody knows what state the late call has left it in")
		})
	}
}

// requireHung checks the error of an abandoned call and that its session has left the pool.
func requireHung(t *testing.T, tok *token.Token, err, want error) {
	t.Helper()
	var hung *token.HungError
	require.ErrorAs(t, err, &hung)
	if want != nil {
		require.ErrorIs(t, err, want)
	}
	assert.Equal(t, "C_Sign", hung.Func)
	assert.True(t, hung.Timeout())
	stats := tok.Stats()
	assert.Equal(t, 1, stats.InUse)
	assert.Equal(t, 1, stats.Lost)
	select {
	case <-hung.Done():
		assert.Fail(t, "Done is closed although the call has not come back")
	default:
	}
}

func TestCallTimeoutEndsAHungCall(t *testing.T) {
	tok, f := openFaulty(t, timeout(50*time.Millisecond))
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	defer free()
	err := <-sign(t.Context(), tok, key)
	<-reached
	requireHung(t, tok, err, nil)
	assert.NotErrorIs(t, err, context.DeadlineExceeded, "the caller's context has not ended")
}

// The session's copy of a message is wiped when the call is over.
func TestCopyOfTheMessageIsWiped(t *testing.T) {
	tok, f := openFaulty(t)
	message := []byte("message")
	_, err := tok.MAC(t.Context(), newKey(t, tok), message)
	require.NoError(t, err)
	assert.Equal(t, make([]byte, len(message)), f.lent)
	assert.Equal(t, "message", string(message))
}

// TestHungCallHasACopyOfTheMessage changes the message after the call was given up; the race detector would see a reader.
func TestHungCallHasACopyOfTheMessage(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	ctx, cancel := context.WithCancel(context.Background())
	message := []byte("first content")
	done := make(chan error, 1)
	go func() {
		_, err := tok.MAC(ctx, key, message)
		done <- err
	}()
	<-reached
	cancel()
	err := <-done
	var hung *token.HungError
	require.ErrorAs(t, err, &hung)
	copy(message, "other content")
	free()
	<-hung.Done()
}

func TestHungPlacesBoundThePool(t *testing.T) {
	tok, f := openFaulty(t, sessions(2), timeout(50*time.Millisecond))
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	for range 2 {
		err := <-sign(t.Context(), tok, key)
		<-reached
		var hung *token.HungError
		require.ErrorAs(t, err, &hung)
	}
	_, err := tok.MAC(t.Context(), key, []byte("message"))
	assert.ErrorIs(t, err, token.ErrBusy, "a hung call keeps its place, so that a hanging device gets no more calls than the pool has places")
	free()
	require.Eventually(t, func() bool { return tok.Stats().InUse == 0 }, patience, tick)
	_, err = tok.MAC(context.Background(), key, []byte("message"))
	assert.NoError(t, err)
}

func TestKeyOfALostCallerIsDestroyed(t *testing.T) {
	tok, f := openFaulty(t)
	reached, free := f.hang("C_GenerateKey")
	ctx, cancel := context.WithCancel(context.Background())
	id := randomBytes(t, 16)
	done := make(chan error, 1)
	go func() {
		_, err := tok.GenerateHMACKey(ctx, token.SHA256, id, "nobody waits for it")
		done <- err
	}()
	<-reached
	cancel()
	err := <-done
	var hung *token.HungError
	require.ErrorAs(t, err, &hung)
	destroyed := f.count("C_DestroyObject")
	free()
	<-hung.Done()
	assert.Equal(t, destroyed+1, f.count("C_DestroyObject"))
	_, err = tok.Describe(context.Background(), id)
	assert.ErrorIs(t, err, token.ErrKeyMissing)
}

func TestKeyOfALostCallerThatWasNotMade(t *testing.T) {
	var log bytes.Buffer
	tok, f := openFaulty(t, func(c *token.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	reached, free := f.hang("C_GenerateKey")
	defer free()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := tok.GenerateHMACKey(ctx, token.SHA256, randomBytes(t, 16), "nobody waits for it")
		done <- err
	}()
	<-reached
	cancel()
	var hung *token.HungError
	require.ErrorAs(t, <-done, &hung)
	f.set(func() { f.refuse = pkcs11.CKA_LABEL })
	free()
	<-hung.Done()
	assert.NotContains(t, log.String(), "destroyed a key")
}

func TestKeyOfALostCallerThatCannotBeDestroyed(t *testing.T) {
	var log bytes.Buffer
	tok, f := openFaulty(t, func(c *token.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	reached, free := f.hang("C_GenerateKey")
	ctx, cancel := context.WithCancel(context.Background())
	id := randomBytes(t, 16)
	done := make(chan error, 1)
	go func() {
		_, err := tok.GenerateHMACKey(ctx, token.SHA256, id, "nobody waits for it")
		done <- err
	}()
	<-reached
	cancel()
	err := <-done
	var hung *token.HungError
	require.ErrorAs(t, err, &hung)
	assert.Equal(t, "C_GenerateKey has not answered: context canceled", hung.Error())
	f.fail("C_DestroyObject", 1, pkcs11.CKR_DEVICE_ERROR)
	free()
	<-hung.Done()
	assert.Contains(t, log.String(), hex.EncodeToString(id), "an operator can find what is left")
	assert.NoError(t, tok.DestroyKey(t.Context(), id, "nobody waits for it"))
}

// TestContextEndsAtAnyMoment lets contexts end before, in and after their calls: either outcome is right, no place is lost,
// and no answer is another call's.
func TestContextEndsAtAnyMoment(t *testing.T) {
	tok := open(t, func() token.Config {
		cfg, _ := newConfig(t)
		cfg.MaxSessions = 4
		return cfg
	}())
	value, id := randomBytes(t, 32), randomBytes(t, 16)
	_, err := tok.ImportHMACKey(context.Background(), token.SHA256, id, "imported", value)
	require.NoError(t, err)
	key := tok.HMACKey(token.SHA256, id)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				ctx, cancel := context.WithCancel(context.Background())
				go cancel()
				message := fmt.Appendf(nil, "message %d %d", i, j)
				tag, err := tok.MAC(ctx, key, message)
				switch {
				case errors.Is(err, context.Canceled):
				case err != nil || !assert.ObjectsAreEqual(goMAC(token.SHA256, value, message), tag):
					t.Errorf("message %d %d: %v", i, j, err)
				}
			}
		})
	}
	wg.Wait()
}
