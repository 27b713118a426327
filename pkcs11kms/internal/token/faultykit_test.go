package token_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// openFaulty opens a token of its own for the test through a faulty.
func openFaulty(t *testing.T, change ...func(*token.Config)) (*token.Token, *faulty) {
	t.Helper()
	cfg, _ := newConfig(t)
	for _, c := range change {
		c(&cfg)
	}
	f := newFaulty(&cfg)
	return open(t, cfg), f
}

// noCopies has keys used themselves, where a test counts the calls of a use.
func noCopies(cfg *token.Config) { cfg.NoCopies = true }

// newKey makes a key for SHA-256 in the token, however short the CallTimeout of the test is.
func newKey(t *testing.T, tok *token.Token) *token.Key {
	t.Helper()
	key, err := tok.GenerateHMACKey(context.Background(), token.SHA256, randomBytes(t, 16), "test key")
	require.NoError(t, err)
	return key
}

// requireRV asserts that a C_ function answered with a return value.
func requireRV(t *testing.T, err error, function string, rv uint) {
	t.Helper()
	var e *token.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, token.Error{Func: function, RV: rv}, *e)
}
