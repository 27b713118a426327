package jwt_test

import (
	"context"
	"testing"

	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// TestEachCallHasItsOwnContext: the end of the context with which the keys were asked for, often one request's, ends no later call.
func TestEachCallHasItsOwnContext(t *testing.T) {
	f := newFixture(t)
	key := f.newKey("HMAC_256")
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: key})
	require.NoError(t, err)
	token := f.sign(key, map[string]any{})
	verifier, parser := f.verifier(jwt.VerifierConfig{}, key), f.verifier(jwt.VerifierConfig{}, key)
	calls := map[string]func(context.Context) error{
		"Signer.Sign":      func(ctx context.Context) error { _, err := signer.Sign(ctx, map[string]any{}); return err },
		"Verifier.Verify":  func(ctx context.Context) error { return verifier.Verify(ctx, token, nil) },
		"Verifier.Keyfunc": func(ctx context.Context) error { _, err := gojwt.Parse(token, parser.Keyfunc(ctx)); return err },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			first, end := context.WithCancel(t.Context())
			require.NoError(t, call(first))
			end()
			require.NoError(t, call(t.Context()))
			require.ErrorIs(t, call(first), context.Canceled, "but its own does")
		})
	}
}
