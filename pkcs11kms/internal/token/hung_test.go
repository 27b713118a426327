package token_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
	defer free()
	for range 2 {
		err := <-sign(t.Context(), tok, key)
		<-reached
		var hung *token.HungError
		require.ErrorAs(t, err, &hung)
	}
	_, err := tok.MAC(t.Context(), key, []byte("message"))
	var refused *token.HungError
	require.ErrorAs(t, err, &refused, "a hung call keeps its place, so that a hanging device gets no more calls than the pool has places")
	assert.Equal(t, "2 calls of the module have not come back, C_Sign among them, so that no session is left", refused.Error())
	hangs := tok.State()
	assert.True(t, hangs.Hangs)
	assert.Equal(t, "C_Sign", hangs.Waiting)
	select {
	case <-refused.Done():
		assert.Fail(t, "no call has come back")
	default:
	}
	free()
	select {
	case <-refused.Done():
	case <-time.After(patience):
		assert.Fail(t, "nobody learns that the call has come back behind which this one was refused")
	}
	require.Eventually(t, func() bool { return tok.Stats().InUse == 0 }, patience, tick)
	assert.Equal(t, token.State{Up: true}, tok.State())
	_, err = tok.MAC(context.Background(), key, []byte("message"))
	assert.NoError(t, err)
}

// generateAndLeave makes a key, and gives up waiting for it when the token has reached what hangs.
func generateAndLeave(t *testing.T, tok *token.Token, reached <-chan struct{}, id []byte) (hung *token.HungError) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := tok.GenerateHMACKey(ctx, token.SHA256, id, "nobody waits for it")
		done <- err
	}()
	<-reached
	cancel()
	require.ErrorAs(t, <-done, &hung)
	return hung
}

func TestKeyOfALostCallerIsDestroyed(t *testing.T) {
	tok, f := openFaulty(t)
	reached, free := f.hang("C_GenerateKey")
	id := randomBytes(t, 16)
	hung := generateAndLeave(t, tok, reached, id)
	destroyed := f.count("C_DestroyObject")
	free()
	<-hung.Done()
	assert.Equal(t, destroyed+1, f.count("C_DestroyObject"))
	_, err := tok.Describe(context.Background(), id)
	assert.ErrorIs(t, err, token.ErrKeyMissing)
}

func TestKeyOfALostCallerThatWasNotMade(t *testing.T) {
	var log bytes.Buffer
	tok, f := openFaulty(t, func(c *token.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	reached, free := f.hang("C_GenerateKey")
	defer free()
	hung := generateAndLeave(t, tok, reached, randomBytes(t, 16))
	f.set(func() { f.refuse = pkcs11.CKA_LABEL })
	free()
	<-hung.Done()
	assert.NotContains(t, log.String(), "creator had gone", "there is nothing to destroy")
}

func TestKeyOfALostCallerThatCannotBeDestroyed(t *testing.T) {
	var log bytes.Buffer
	tok, f := openFaulty(t, func(c *token.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	reached, free := f.hang("C_GenerateKey")
	id := randomBytes(t, 16)
	hung := generateAndLeave(t, tok, reached, id)
	assert.Equal(t, "C_GenerateKey has not answered: context canceled", hung.Error())
	f.fail("C_DestroyObject", 1, pkcs11.CKR_DEVICE_ERROR)
	free()
	<-hung.Done()
	assert.Contains(t, log.String(), hex.EncodeToString(id), "an operator can find what is left")
	assert.NoError(t, tok.DestroyKey(t.Context(), id, "nobody waits for it"))
}

// A call is noted as one that hangs before its caller leaves it alone. The other way round it could come back in between, and stay noted
// for good: a place that is free would count as lost.
func TestACallIsNotedBeforeItIsLeftAlone(t *testing.T) {
	tok, f := openFaulty(t, timeout(time.Hour))
	key := newKey(t, tok)
	reached, free := f.hang("C_Sign")
	defer free()
	abandoned := tok.NextSession()
	ctx := newManualContext()
	call := sign(ctx, tok, key)
	<-reached
	release := tok.HoldPool()
	ctx.end(context.Canceled)
	require.Eventually(t, func() bool { return inStack("token.(*pool).hang") }, patience, tick)
	left := abandoned()
	release()
	require.False(t, left)
	err := <-call
	requireHung(t, tok, err, context.Canceled)
	require.True(t, abandoned())
}

// inStack tells whether a goroutine is in a function.
func inStack(function string) bool {
	stacks := make([]byte, 1<<20)
	return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte(function))
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
