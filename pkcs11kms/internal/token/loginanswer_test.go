package token_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// A token that takes the PIN for a wrong argument has refused it as well: a lost one does not get it again and again.
func TestPINThatIsAWrongArgumentIsTriedOnce(t *testing.T) {
	tok, m := openThrough(t, timeout(time.Second))
	logins := m.Counters()["C_Login"].Calls
	m.Do("on C_Login fail CKR_ARGUMENTS_BAD")
	m.Do("lose sessions")
	_ = tok.Healthy(t.Context())
	require.Eventually(t, func() bool {
		refused, ok := errors.AsType[*token.OpenError](tok.State().Err)
		return ok && refused.Reason == token.PINRefused
	}, 5*time.Second, tick, "%v", tok.State().Err)
	require.Equal(t, logins+1, m.Counters()["C_Login"].Calls)
}
