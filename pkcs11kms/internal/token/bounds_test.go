package token

import (
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"
)

// What Config promises stands here in its words: a test that takes its expectation from the constant holds nothing.
func TestBoundsAreThoseOfConfig(t *testing.T) {
	unlimited := pkcs11.TokenInfo{MaxSessionCount: pkcs11.CK_EFFECTIVELY_INFINITE, MaxRwSessionCount: pkcs11.CK_UNAVAILABLE_INFORMATION}
	require.Equal(t, 32, poolSize(0, unlimited))
	require.Equal(t, 7, poolSize(7, unlimited))
	require.Equal(t, 5*time.Second, defaultCallTimeout)
	require.Equal(t, time.Minute, shrunkFor, "a pool that had to shrink")
	require.Equal(t, time.Minute, pairTimeout, "the making of a key pair")
	require.Equal(t, 1024, maxPINFile)
}

// The message is a secret, and the session that has carried it stays open.
func TestMessageDoesNotStayInMemory(t *testing.T) {
	tok := &Token{}
	s := &session{token: tok, open: true, claim: &claim{}, place: newPool(1, nil)}
	var carried []byte
	err := s.call(t.Context(), &operation{name: "C_Sign", input: []byte("a secret message"), run: func(_ *session, input []byte) error {
		carried = input
		require.Equal(t, "a secret message", string(input))
		return nil
	}}, time.Minute)
	require.NoError(t, err)
	require.Equal(t, make([]byte, len("a secret message")), carried)
	s.open = false
	s.end(false)
	tok.goroutines.Wait()
}
