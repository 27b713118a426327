package jwt

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// DecodeSegment decodes strict base64url.
var DecodeSegment = decodeSegment

// The vector of RFC 7515 appendix A.1, and what takes it apart.
const A1Key, A1Token = a1Key, a1Token

// Split takes a token apart without looking at it.
var Split = split

// KeyOf is the key of a JWK, for a Method.
func KeyOf(t *testing.T, jwk JWK) *Key {
	t.Helper()
	key, err := jwk.key()
	require.NoError(t, err)
	return key
}
