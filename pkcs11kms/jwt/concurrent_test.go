package jwt_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// One Signer and one Verifier serve many callers at once, also while the alias moves: every token names the key that made it.
func TestSignerAndVerifierServeManyAtOnce(t *testing.T) {
	f := newFixture(t)
	keys := []string{f.newKey(types.KeySpecHmac256), f.newKey(types.KeySpecHmac256)}
	f.point("alias/tokens", keys[0])
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: f.inProcess, KeyID: "alias/tokens", MaxAge: time.Nanosecond,
		Header: map[string]any{"typ": "at+jwt"}})
	require.NoError(t, err)
	verifier := f.verifier(jwt.VerifierConfig{Client: f.inProcess}, keys...)
	var all errgroup.Group
	for range 8 {
		all.Go(func() error {
			for range 20 {
				token, err := signer.Sign(t.Context(), map[string]any{"sub": "alice"})
				if err != nil {
					return err
				}
				if err := verifier.Verify(t.Context(), token, nil); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for i := range 10 {
		f.point("alias/tokens", keys[(i+1)%2])
	}
	require.NoError(t, all.Wait())
}
