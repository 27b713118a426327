package keyring

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// outrun is a store in which, whenever it has said that a key is missing, somebody else is faster.
type outrun struct {
	keystore.Store
	faster func()
}

func (s *outrun) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	rec, err := s.Store.Get(ctx, ref)
	if faster := s.faster; faster != nil && ref.Kind == keystore.KindKey && errors.Is(err, keystore.ErrNotFound) {
		s.faster = nil
		faster()
	}
	return rec, err
}

// Who has found no service key, and then finds that another has made it, uses that one.
func TestServiceKeyThatAnotherHasJustMade(t *testing.T) {
	cfg, tok := newConfig(t), softhsm.NewToken(t)
	cfg.Regions = []string{"us-west-2"}
	cfg.Token = func(string) token.Config { return token.Config{URI: tok.URI(tok.PINFile)} }
	other := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, other.Close()) })
	store := &outrun{Store: cfg.Store}
	cfg.Store = store
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })

	var theirs []byte
	store.faster = func() {
		mac, err := other.SecretsMAC(t.Context(), []byte("message"))
		assert.NoError(t, err)
		theirs = mac
	}
	ours, err := r.SecretsMAC(t.Context(), []byte("message"))
	require.NoError(t, err)
	require.NotZero(t, len(theirs))
	require.True(t, string(theirs) == string(ours), "there are two keys")
	objects, err := r.Region("us-west-2").Token.Objects(t.Context())
	require.NoError(t, err)
	var labels []string
	for _, o := range objects {
		labels = append(labels, o.Label)
	}
	require.ElementsMatch(t, []string{BindingKey, SecretsKey}, labels)
}
