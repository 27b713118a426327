package token_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// giveUp makes a call that reaches a function of the module, and gives it up there. When the function has answered as answer says,
// what is left of the call has run to its end.
func giveUp(t *testing.T, f *faulty, function string, answer error, call func(context.Context) error) {
	t.Helper()
	reached, gate := make(chan struct{}), make(chan struct{})
	f.on(function, func() error {
		f.on(function, nil)
		close(reached)
		<-gate
		return answer
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	<-reached
	cancel()
	var hung *token.HungError
	require.ErrorAs(t, <-done, &hung)
	close(gate)
	<-hung.Done()
}

// A call that is given up begins nothing more: what is not destroyed then stays, and nothing is made or signed for nobody.
func TestNothingIsBegunForWhoHasGone(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	destroy := func(ctx context.Context) error { return tok.DestroyKey(ctx, key.ID(), "test key") }
	generate := func(ctx context.Context) error {
		_, err := tok.GenerateHMACKey(ctx, token.SHA256, randomBytes(t, 16), "for nobody")
		return err
	}
	mac := func(ctx context.Context) error { _, err := tok.MAC(ctx, key, []byte("message")); return err }
	for _, tc := range []struct {
		at, then string // the function in which the call is given up, and the one that it does not come to
		answer   error
		call     func(context.Context) error
	}{
		{"C_GetAttributeValue", "C_DestroyObject", nil, destroy},
		{"C_FindObjectsFinal", "C_GenerateKey", nil, generate},
		{"C_SignInit", "C_FindObjectsInit", pkcs11.Error(pkcs11.CKR_KEY_HANDLE_INVALID), mac},
	} {
		before := f.count(tc.then)
		giveUp(t, f, tc.at, tc.answer, tc.call)
		assert.Equal(t, before, f.count(tc.then), "%s after %s", tc.then, tc.at)
		require.NoError(t, mac(context.Background()))
	}

	pair, _, err := tok.GenerateKeyPair(context.Background(), pubkey.P256, randomBytes(t, 16), "pair")
	require.NoError(t, err)
	before := f.count("C_DestroyObject")
	giveUp(t, f, "C_DestroyObject", nil, func(ctx context.Context) error { return tok.DestroyKeyPair(ctx, pair.ID(), "pair") })
	assert.Equal(t, before+1, f.count("C_DestroyObject"), "of the two halves")
	require.NoError(t, tok.DestroyKeyPair(context.Background(), pair.ID(), "pair"), "the other one can still be destroyed")
}

// Whoever gives up a call may change at once what it was about; the call goes on with what it was given.
func TestGivenUpCallsHaveTheirOwnArguments(t *testing.T) {
	for name, call := range map[string]func(context.Context, *token.Token, []byte) error{
		"Describe": func(ctx context.Context, tok *token.Token, id []byte) error {
			_, err := tok.Describe(ctx, id)
			return err
		},
		"DestroyKey": func(ctx context.Context, tok *token.Token, id []byte) error {
			return tok.DestroyKey(ctx, id, "test key")
		},
		"DestroyObject": func(ctx context.Context, tok *token.Token, id []byte) error { return tok.DestroyObject(ctx, id) },
	} {
		t.Run(name, func(t *testing.T) {
			tok, f := openFaulty(t)
			id := newKey(t, tok).ID()
			want := bytes.Clone(id)
			st, err := tok.NewStream(t.Context(), tok.HMACKey(token.SHA256, want)) // so that the call opens a session
			require.NoError(t, err)
			f.set(func() { f.sought = nil })
			reached, gate := make(chan struct{}), make(chan struct{})
			f.on("C_OpenSession", func() error {
				close(reached)
				<-gate
				return nil
			})
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- call(ctx, tok, id) }()
			<-reached
			cancel()
			var hung *token.HungError
			require.ErrorAs(t, <-done, &hung)
			id[0]++
			close(gate)
			<-hung.Done()
			if f.sought != nil { // it was looked for at all
				assert.Equal(t, want, f.sought)
			}
			require.NoError(t, st.Close())
		})
	}
}

// A handle that one call finds stale may have been found anew by another: that one is used, and not looked for again.
func TestAFreshHandleIsNotDropped(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	stale := pkcs11.Error(pkcs11.CKR_KEY_HANDLE_INVALID)
	reached, gate := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	f.on("C_SignInit", func() error {
		switch calls.Add(1) {
		case 1:
			close(reached)
			<-gate
			return stale
		case 2:
			return stale
		}
		return nil
	})
	found := f.count("C_FindObjectsInit")
	first := sign(context.Background(), tok, key)
	<-reached
	require.NoError(t, <-sign(context.Background(), tok, key)) // finds the object anew
	close(gate)
	require.NoError(t, <-first)
	assert.Equal(t, found+1, f.count("C_FindObjectsInit"))
}

// The error of a lost token holds what the call met, and not what the device said when it was asked.
func TestLossHoldsItsCause(t *testing.T) {
	tok, f := openFaulty(t, timeout(500*time.Millisecond))
	key := newKey(t, tok)
	f.fail("C_Sign", 1, pkcs11.CKR_DEVICE_ERROR)
	f.on("C_GetSessionInfo", func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) })
	for range 2 {
		_, err := tok.MAC(context.Background(), key, []byte("message"))
		require.ErrorIs(t, err, token.ErrGone)
		requireRV(t, err, "C_Sign", pkcs11.CKR_DEVICE_ERROR)
	}
}

// A check that hangs behind the making of a key, which can take long, waits in a queue.
func TestHealthWhileAKeyIsMade(t *testing.T) {
	tok, f := openFaulty(t)
	making, made := f.hang("C_GenerateKey")
	key := make(chan error, 1)
	go func() {
		_, err := tok.GenerateHMACKey(context.Background(), token.SHA256, []byte("0123456789abcdef"), "slow")
		key <- err
	}()
	<-making
	reached, free := f.hang("C_GetSessionInfo")
	ctx, cancel := context.WithCancel(context.Background())
	checked := make(chan error, 1)
	go func() { checked <- tok.Healthy(ctx) }()
	<-reached
	cancel()
	err := <-checked
	require.ErrorIs(t, err, token.ErrBusy)
	_, hung := errors.AsType[*token.HungError](err)
	require.False(t, hung)
	made()
	free()
	require.NoError(t, <-key)
	require.Eventually(t, func() bool { return tok.Healthy(context.Background()) == nil }, patience, tick)
}

// Close waits for CallTimeout, and a change for its turn no longer than that. The clock is that of a bubble.
func TestWaitsEndWithCallTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		cfg, _ := newConfig(t)
		f := newFaulty(&cfg)
		tok, err := token.Open(context.Background(), cfg)
		require.NoError(t, err)
		key := newKey(t, tok)

		unlock, err := lockFile(cfg.SoftHSMConf)
		require.NoError(t, err)
		begin := time.Now()
		_, err = tok.GenerateHMACKey(context.Background(), token.SHA256, randomBytes(t, 16), "late")
		require.ErrorIs(t, err, token.ErrBusy)
		require.LessOrEqual(t, time.Since(begin), 5*time.Second)
		require.Greater(t, time.Since(begin), 4*time.Second)
		require.Equal(t, 1, openings(t, cfg.SoftHSMConf), "the lock file is not kept open")
		require.NoError(t, unlock())

		reached, free := f.hang("C_Sign")
		call := sign(context.Background(), tok, key)
		<-reached
		begin = time.Now()
		require.ErrorContains(t, tok.Close(), "still running")
		require.Equal(t, 5*time.Second, time.Since(begin))
		free()
		require.NoError(t, <-call)
		synctest.Wait()
		require.Equal(t, 1, f.count("C_Finalize"))
	})
}

// openings counts the descriptors of this process that a file is open on.
func openings(t *testing.T, file string) (n int) {
	t.Helper()
	descriptors, err := filepath.Glob("/proc/self/fd/*")
	require.NoError(t, err)
	for _, descriptor := range descriptors {
		if target, err := os.Readlink(descriptor); err == nil && target == file {
			n++
		}
	}
	return n
}
