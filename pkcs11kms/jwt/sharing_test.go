package jwt_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// TestConfigurationIsNotShared: what a caller does later with what it has given, or was given, changes nothing here, and what
// it has given stays as it is.
func TestConfigurationIsNotShared(t *testing.T) {
	f := newFixture(t)
	key := f.newKey("HMAC_256")
	header, ids := map[string]any{"x": "mine"}, []string{key}
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: key, Header: header})
	require.NoError(t, err)
	v := f.verifier(jwt.VerifierConfig{}, ids...)
	header["x"], ids[0] = "another's", "alias/another"
	token, err := signer.Sign(t.Context(), map[string]any{})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"alg": "HS256", "kid": key, "typ": "JWT", "x": "mine"}, headerOf(t, token))
	require.Equal(t, map[string]any{"x": "another's"}, header)
	require.NoError(t, v.Verify(t.Context(), token, nil))

	jwt.Methods()[0] = nil
	require.Equal(t, jwt.HS256, jwt.Methods()[0])
	require.NoError(t, v.Verify(t.Context(), token, nil))

	resolved, err := jwt.Resolve(t.Context(), f.remote, key)
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = jwt.HS256.Sign("x", resolved.WithContext(ended))
	require.ErrorIs(t, err, context.Canceled)
	_, err = jwt.HS256.Sign("x", resolved)
	require.NoError(t, err, "the key itself has its own context")
}
