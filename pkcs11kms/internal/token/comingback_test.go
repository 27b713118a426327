package token_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// The sessions of before the loss may be what keeps the token from giving another one. They are closed then, and the module is not
// initialised anew for that.
func TestSessionsOfBeforeMakeRoom(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	closed := f.count("C_CloseSession")
	f.on("C_GetSessionInfo", func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) })
	f.on("C_OpenSession", func() error {
		if f.count("C_CloseSession") == closed {
			return pkcs11.Error(pkcs11.CKR_SESSION_COUNT)
		}
		f.on("C_GetSessionInfo", nil)
		return nil
	})
	require.ErrorIs(t, tok.Healthy(t.Context()), token.ErrGone)
	requireBack(t, tok, key, want)
	require.Zero(t, tok.State().Reinitialized)
	require.EqualValues(t, 1, tok.State().Losses)
}

// A device that was lost for long, and then was there for long, is looked for as eagerly as at the first time.
func TestEagernessIsAsAtTheFirstTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t)
		for _, calm := range []time.Duration{0, 2 * time.Second} {
			<-time.After(calm)
			attempts := f.count("C_GetSlotList")
			f.on("C_GetSessionInfo", func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) })
			require.ErrorIs(t, tok.Healthy(context.Background()), token.ErrGone)
			<-time.After(100 * time.Millisecond)
			synctest.Wait()
			require.GreaterOrEqual(t, f.count("C_GetSlotList")-attempts, 4, "after %v", calm)
			<-time.After(10 * time.Second)
			f.on("C_GetSessionInfo", nil)
			<-time.After(time.Second)
			synctest.Wait()
			require.True(t, tok.State().Up)
		}
	})
}

// Sessions that could not be closed are tried again, but not any number of them: a module may refuse to close what it has closed itself.
func TestSessionsThatCannotBeClosedAreBounded(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	key := newKey(t, tok)
	f.on("C_CloseSession", func() error { return pkcs11.Error(pkcs11.CKR_FUNCTION_FAILED) })
	for range 70 {
		f.fail("C_SignInit", 1, pkcs11.CKR_SESSION_HANDLE_INVALID)
		_, err := tok.MAC(context.Background(), key, []byte("message"))
		require.NoError(t, err)
	}
	f.on("C_CloseSession", nil)
	require.Eventually(t, func() bool { return tok.Stats().Open == 1 }, patience, tick)
	closed := f.count("C_CloseSession")
	f.fail("C_SignInit", 1, pkcs11.CKR_SESSION_HANDLE_INVALID)
	_, err = tok.MAC(context.Background(), key, []byte("message"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return f.count("C_CloseSession") == closed+2 }, patience, tick,
		"the broken one, and one of before with the session that is opened")
	closed = f.count("C_CloseSession")
	require.NoError(t, tok.Close())
	require.Equal(t, closed+63+2, f.count("C_CloseSession"), "of those that could not be closed, the pool's and the one that stays open")
}

// A session of which the module says that there is none is closed: its handle is not tried again, since another application of the process
// may get it.
func TestSessionsThatTheModuleHasClosedAreForgotten(t *testing.T) {
	for _, rv := range []uint{pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED} {
		cfg, _ := newConfig(t)
		f := newFaulty(&cfg)
		tok, err := token.Open(t.Context(), cfg)
		require.NoError(t, err)
		key := newKey(t, tok)
		f.on("C_CloseSession", func() error { return pkcs11.Error(rv) })
		for range 10 {
			f.fail("C_SignInit", 1, pkcs11.CKR_SESSION_HANDLE_INVALID)
			_, err := tok.MAC(context.Background(), key, []byte("message"))
			require.NoError(t, err)
		}
		require.Eventually(t, func() bool { return tok.Stats().Open == 1 }, patience, tick)
		f.on("C_CloseSession", nil)
		closed := f.count("C_CloseSession")
		require.NoError(t, tok.Close())
		require.Equal(t, closed+2, f.count("C_CloseSession"), "the pool's and the one that stays open")
	}
}

// What an attempt waits for is told when that takes long, and not before.
func TestSlowStepsOfComingBackAreTold(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t)
		reached, free := f.hang("C_GetSlotList")
		f.on("C_GetSessionInfo", func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) })
		require.ErrorIs(t, tok.Healthy(context.Background()), token.ErrGone)
		<-reached
		<-time.After(900 * time.Millisecond)
		require.NotContains(t, tok.State().Err.Error(), "waiting for")
		require.Empty(t, tok.State().Waiting)
		<-time.After(200 * time.Millisecond)
		require.ErrorContains(t, tok.State().Err, "waiting for C_GetSlotList since ")
		require.Equal(t, "C_GetSlotList", tok.State().Waiting)
		require.True(t, tok.State().Hangs)
		f.on("C_GetSessionInfo", nil)
		free()
		<-time.After(time.Second)
		synctest.Wait()
		require.True(t, tok.State().Up)
	})
}
