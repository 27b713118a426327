package jwt

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// DecodeSegment decodes strict base64url.
var DecodeSegment = decodeSegment

// KeyOf is the key of a JWK, for a Method.
func KeyOf(t *testing.T, jwk JWK) *Key {
	t.Helper()
	key, err := jwk.key()
	require.NoError(t, err)
	return key
}
