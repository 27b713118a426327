package sigv4

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The work for a request before its sender is known is bounded, and its time may be off by what AWS allows.
func TestBoundsBeforeTheSenderIsKnown(t *testing.T) {
	require.Equal(t, 5*time.Minute, DefaultSkew)
	require.Equal(t, 4096, maxAuthorization)
	require.Equal(t, 32, maxSigned)
	require.Equal(t, 128, maxAccessKeyID, "AWS IAM's own limit")
	require.Equal(t, 8192, maxTarget)
	require.Equal(t, 65536, maxHeaders)
}
