package jwt_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
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

// instant makes MACs in no time, which are none.
type instant struct{ jwt.Client }

func (instant) GenerateMac(context.Context, *kms.GenerateMacInput, ...func(*kms.Options)) (*kms.GenerateMacOutput, error) {
	return &kms.GenerateMacOutput{Mac: make([]byte, 32)}, nil
}

// Tokens that are made at once share nothing: the runtime ends a process that writes to a map from two sides.
func TestTokensMadeAtOnceShareNothing(t *testing.T) {
	f := newFixture(t)
	key := f.newKey(types.KeySpecHmac256)
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: instant{f.inProcess}, KeyID: key})
	require.NoError(t, err)
	want, err := signer.Sign(t.Context(), map[string]any{})
	require.NoError(t, err)
	var all errgroup.Group
	for range 8 {
		all.Go(func() error {
			for range 2000 {
				token, err := signer.Sign(t.Context(), map[string]any{})
				if err != nil {
					return err
				}
				if token != want {
					return errors.New(token)
				}
			}
			return nil
		})
	}
	require.NoError(t, all.Wait())
}
