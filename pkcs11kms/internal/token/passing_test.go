package token_test

import (
	"fmt"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// One error of the device that passes loses nothing, whoever meets it: the check of its health, or the question whether it is there
// after a call has failed. The token is well afterwards, and no PIN was tried again.
func TestOnePassingErrorOfTheDeviceLosesNothing(t *testing.T) {
	for _, rv := range lostValues {
		for _, function := range []string{"C_GenerateRandom", "C_GetSessionInfo"} {
			for _, who := range []string{"health", "call"} {
				t.Run(fmt.Sprintf("%s 0x%X, %s", function, rv, who), func(t *testing.T) {
					tok, f := openFaulty(t)
					key := newKey(t, tok)
					want, err := tok.MAC(t.Context(), key, []byte("message"))
					require.NoError(t, err)
					logins := f.count("C_Login")
					f.fail(function, 1, rv)
					if who == "health" {
						require.NoError(t, tok.HealthyMAC(t.Context(), key))
					} else {
						f.fail("C_SignInit", 1, pkcs11.CKR_DEVICE_ERROR)
					}
					got, err := tok.MAC(t.Context(), key, []byte("message"))
					require.NoError(t, err)
					requireSame(t, want, got, "MAC")
					require.NoError(t, tok.Healthy(t.Context()))
					require.Equal(t, logins, f.count("C_Login"))
				})
			}
		}
	}
}

// The question is asked on two fresh sessions, so that an error of one of them passes as well; a third one is the end.
func TestErrorsThatStayLoseTheDevice(t *testing.T) {
	for n, lost := range map[int]bool{1: false, 2: false, 3: true} {
		tok, f := openFaulty(t)
		f.fail("C_GenerateRandom", n, pkcs11.CKR_DEVICE_ERROR)
		err := tok.Healthy(t.Context())
		if lost {
			require.ErrorIs(t, err, token.ErrGone)
			require.EqualValues(t, 1, tok.State().Losses)
			continue
		}
		require.NoError(t, err, n)
		require.Zero(t, tok.State().Losses)
	}
}

// Where the token has no other session to give, it is asked again on the one that is there.
func TestPassingErrorOfATokenWithoutAnotherSession(t *testing.T) {
	tok, f := openFaulty(t)
	f.fail("C_GenerateRandom", 1, pkcs11.CKR_DEVICE_ERROR)
	f.fail("C_OpenSession", 1, pkcs11.CKR_SESSION_COUNT)
	opened, closed := f.count("C_OpenSession"), f.count("C_CloseSession")
	require.NoError(t, tok.Healthy(t.Context()))
	require.Equal(t, opened+1, f.count("C_OpenSession"))
	require.Equal(t, closed, f.count("C_CloseSession"), "the session is still there")
	require.NoError(t, tok.Healthy(t.Context()))

	key := newKey(t, tok)
	f.fail("C_SignInit", 1, pkcs11.CKR_DEVICE_ERROR)
	f.fail("C_GenerateRandom", 1, pkcs11.CKR_DEVICE_ERROR)
	f.fail("C_OpenSession", 1, pkcs11.CKR_SESSION_COUNT)
	_, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err, "nor is it another answer for who has met an error")
}
