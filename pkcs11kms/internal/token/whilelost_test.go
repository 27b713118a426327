package token_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// SoftHSM had lost sight of a key when the token was lost and came back by new sessions, which do not bring the key back: it is not taken
// for one that is missing, neither by who asks afterwards nor by who has waited for the token.
func TestAKeyOutOfSightStaysToBeFoundAfterAnOutage(t *testing.T) {
	for _, waits := range []bool{false, true} {
		cfg, made := newConfig(t)
		cfg, m := through(t, cfg, made)
		tok := open(t, cfg)
		key := newKey(t, tok)
		want, err := tok.MAC(t.Context(), key, []byte("message"))
		require.NoError(t, err)
		files, err := filepath.Glob(filepath.Join(directory(t, made), "*-*.object"))
		require.NoError(t, err)
		require.Len(t, files, 1)
		require.NoError(t, os.Rename(files[0], files[0]+".away"))
		require.NoError(t, os.Symlink("nowhere", files[0])) // a file that cannot be read
		_, err = tok.Objects(t.Context())
		require.NoError(t, err)
		require.NoError(t, os.Rename(files[0]+".away", files[0]))
		m.Do("on C_GenerateRandom fail CKR_DEVICE_ERROR times=3")
		m.Do("on C_GenerateRandom hang times=1") // of who brings it back
		require.ErrorIs(t, tok.Healthy(t.Context()), token.ErrGone)
		m.Await("C_GenerateRandom", func(n faultp11.Counters) bool { return n.Hanging == 1 })
		var answer <-chan error
		if waits {
			answer = sign(context.Background(), tok, key)
			require.Eventually(t, func() bool { return tok.Stats().Waiting == 1 }, patience, tick)
		}
		m.Do("release C_GenerateRandom")
		if waits {
			require.NoError(t, <-answer)
		}
		requireBack(t, tok, key, want)
		require.EqualValues(t, 1, tok.State().Reinitialized)
	}
}

// A wish to try again is of the outage in which it was said: one that was said while the token was up lets nobody log in when the token
// reports wrong attempts.
func TestAWishIsNotKeptForTheNextOutage(t *testing.T) {
	tok, m := openThrough(t, timeout(time.Second))
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	tok.Retry()
	m.Do("token flags=+CKF_USER_PIN_COUNT_LOW")
	logins := m.Counters()["C_Login"].Calls
	m.Do("lose sessions")
	require.Eventually(t, func() bool { return tok.Healthy(t.Context()) != nil }, patience, tick)
	require.Never(t, func() bool { return tok.State().Up }, 200*time.Millisecond, tick)
	require.Equal(t, logins, m.Counters()["C_Login"].Calls)
	tok.Retry()
	requireBack(t, tok, key, want)

	logins = m.Counters()["C_Login"].Calls
	m.Do("lose sessions")
	require.Eventually(t, func() bool { return tok.Healthy(t.Context()) != nil }, patience, tick)
	require.Eventually(t, func() bool {
		refused, ok := errors.AsType[*token.OpenError](tok.State().Err)
		return ok && refused.Reason == token.PINAttemptUnsafe
	}, patience, tick, "nor is one by which the token has come back")
	require.Equal(t, logins, m.Counters()["C_Login"].Calls)
}

// A person's wish is for one attempt: when that fails for another reason, the next one spends no attempt of the PIN by itself.
func TestAWishIsForOneAttempt(t *testing.T) {
	tok, m := openThrough(t, timeout(time.Second))
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	m.Do("token flags=+CKF_USER_PIN_COUNT_LOW")
	m.Do("lose sessions")
	_ = tok.Healthy(t.Context())
	waits := func() bool {
		var refused *token.OpenError
		return errors.As(tok.State().Err, &refused) && refused.Reason == token.PINAttemptUnsafe
	}
	require.Eventually(t, waits, patience, tick)
	logins, lists := m.Counters()["C_Login"].Calls, m.Counters()["C_GetSlotList"].Calls
	m.Do("on C_GetSlotList fail CKR_DEVICE_ERROR times=2") // with new sessions, and with the module initialised anew
	tok.Retry()
	require.Eventually(t, func() bool {
		return m.Counters()["C_GetSlotList"].Calls > lists+2 && (waits() || tok.State().Up)
	}, patience, tick)
	require.False(t, tok.State().Up)
	require.Equal(t, logins, m.Counters()["C_Login"].Calls)
	tok.Retry()
	requireBack(t, tok, key, want)
}
