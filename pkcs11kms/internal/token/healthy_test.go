package token_test

import (
	"context"
	"errors"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// A check that broke off in the middle of a search leaves none active for the next check to stumble over.
func TestFailedHealthCheckLeavesNothingActive(t *testing.T) {
	tok, f := openFaulty(t)
	key := tok.HMACKey(token.SHA256, newKey(t, tok).ID())   // which is not found yet
	f.fail("C_FindObjectsFinal", 2, pkcs11.CKR_HOST_MEMORY) // a check asks twice, as a call does
	requireRV(t, tok.HealthyMAC(t.Context(), key), "C_FindObjectsFinal", pkcs11.CKR_HOST_MEMORY)
	require.NoError(t, tok.HealthyMAC(t.Context(), key))
	assert.Zero(t, f.count("C_Finalize"), "nor does it cost the others in the process a restart of the module")
}

// While a check hangs, only calls that succeed show that the token answers others; those that are refused do not.
func TestRefusedCallsDoNotExcuseAHungHealthCheck(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	for name, rv := range map[string]uint{"refused": pkcs11.CKR_MECHANISM_INVALID, "answered": pkcs11.CKR_OK} {
		t.Run(name, func(t *testing.T) {
			reached, free := f.hang("C_GetSessionInfo")
			defer free()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- tok.Healthy(ctx) }()
			<-reached
			answered := rv == pkcs11.CKR_OK
			if !answered {
				f.fail("C_SignInit", 1, rv)
			}
			_, err := tok.MAC(context.Background(), key, []byte("message"))
			require.Equal(t, answered, err == nil)
			cancel()
			err = <-done
			_, hung := errors.AsType[*token.HungError](err)
			assert.Equal(t, !answered, hung, "%v", err)
			assert.Equal(t, answered, errors.Is(err, token.ErrBusy), "%v", err)
			free()
			require.Eventually(t, func() bool { return tok.Healthy(context.Background()) == nil }, patience, tick)
		})
	}
}
