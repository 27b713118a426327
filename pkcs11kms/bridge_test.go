package pkcs11kms

import (
	"runtime"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Every goroutine of a Bridge ends with it, those of its sessions too.
func TestCloseEndsEveryGoroutine(t *testing.T) {
	cfg := newConfig(t)
	before := runtime.NumGoroutine()
	for range 3 {
		c, err := newAt(t.Context(), cfg)
		require.NoError(t, err)
		key := mustCreate(t, c, types.KeySpecHmac256)
		done := make(chan error, 8)
		for range cap(done) {
			go func() { _, err := generate(t.Context(), c, key.KeyId, []byte("m")); done <- err }()
		}
		for range cap(done) {
			require.NoError(t, <-done)
		}
		_, err = c.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, c.Close(), "twice is once")
	}
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 10*time.Second, 10*time.Millisecond,
		"(one more: the poll of this condition)")
}

func TestUseAfterClose(t *testing.T) {
	c, err := newAt(t.Context(), newConfig(t))
	require.NoError(t, err)
	key := mustCreate(t, c, types.KeySpecHmac256)
	require.NoError(t, c.Health(t.Context()))
	require.NoError(t, c.Close())
	_, err = generate(t.Context(), c, key.KeyId, []byte("m"))
	require.ErrorIs(t, err, ErrClosed)
	_, err = createHMAC256(t.Context(), c)
	require.ErrorIs(t, err, ErrClosed)
	err = c.Health(t.Context())
	require.ErrorIs(t, err, keystore.ErrClosed)
	require.ErrorIs(t, err, token.ErrClosed)
}

// Only the client that New returned closes the Bridge.
func TestHandlesDoNotClose(t *testing.T) {
	c := newClient(t)
	other, err := c.bridge.Client(testRegion)
	require.NoError(t, err)
	require.NoError(t, other.Close())
	require.NoError(t, c.Health(t.Context()))
	require.Equal(t, testRegion, other.Region())
	require.Equal(t, "arn:aws:iam::111122223333:root", c.Caller().ARN())
	require.Empty(t, other.Caller().ARN())
	_, err = c.bridge.Client("eu-north-1")
	require.ErrorContains(t, err, `region "eu-north-1" is not configured`)
}
