package token_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// A module whose C_Initialize has worked and answered an error is ours: it is initialised anew again when that is needed.
func TestLostReplyOfInitialize(t *testing.T) {
	tok, m := openThrough(t)
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	rule := m.Rule("C_Initialize fail CKR_DEVICE_ERROR after times=1")
	m.Do("lose device")
	requireBack(t, tok, key, want)
	require.Equal(t, 1, m.Counters()["C_Initialize"].Faults)
	rule.Remove()
	m.Do("lose device")
	requireBack(t, tok, key, want)
	require.Equal(t, uint64(2), tok.State().Losses)
}

// A login whose reply was lost costs one more: where the module was not initialised anew, the process is logged in.
func TestLostReplyOfLogin(t *testing.T) {
	tok, m := openThrough(t)
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	logins := m.Counters()["C_Login"].Calls
	m.Do("on C_Login fail CKR_DEVICE_ERROR after times=1")
	m.Do("lose sessions")
	requireBack(t, tok, key, want)
	require.LessOrEqual(t, m.Counters()["C_Login"].Calls, logins+2)
}

// What the module refuses once teaches nothing.
func TestDigestThatIsRefusedOnce(t *testing.T) {
	tok, m := openThrough(t)
	pair, _ := newPair(t, tok, pubkey.RSA2048)
	m.Do("on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_RSA_PKCS times=1")
	_, err := tok.Sign(t.Context(), pair, pubkey.PKCS1SHA256, []byte("message"))
	require.NoError(t, err)
	_, err = tok.SignDigest(t.Context(), pair, pubkey.PKCS1SHA256, make([]byte, 32))
	require.NoError(t, err)
}

// Each look at another token in the right one's place is a login to it, so the pauses go on growing.
func TestAnotherTokenIsNotLoggedInToOften(t *testing.T) {
	var another atomic.Bool
	tok, m := openThrough(t, func(cfg *token.Config) {
		cfg.Prove = func(_ context.Context, _ token.Prover) error {
			if another.Load() {
				return token.ErrAnotherToken
			}
			return nil
		}
	})
	another.Store(true)
	began := time.Now()
	m.Do("lose sessions")
	require.ErrorIs(t, tok.Healthy(t.Context()), token.ErrGone)
	require.Eventually(t, func() bool { return tok.Mistaken() >= 10 }, patience, tick)
	require.Greater(t, time.Since(began), 2*time.Second)
}
