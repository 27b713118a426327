package token_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The function list is found in the release of miekg/pkcs11 that is used; signatures by it are what all other tests here see.
func TestFunctionListIsFound(t *testing.T) {
	cfg, _ := newConfig(t)
	tok := open(t, cfg)
	require.True(t, tok.CallsDirectly())
	wrapped, _ := openFaulty(t)
	require.False(t, wrapped.CallsDirectly())
}
