package keyring

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
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
		mac, err := other.SecretsMAC(t.Context(), 1, []byte("message"))
		assert.NoError(t, err)
		theirs = mac
	}
	ours, err := r.SecretsMAC(t.Context(), 1, []byte("message"))
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

// taken is a store that tells nothing but one thing of whether an instance is dead.
type taken struct {
	keystore.Store
	is error
}

func (s *taken) TakeOver(context.Context, string) (func(bool), error) { return nil, s.is }

// A service key that another process is making is waited for, but not for ever. Whether it lives may not be known: that is an error.
func TestServiceKeyOfWhoDoesNotFinish(t *testing.T) {
	cfg, store := bindingConfig(t)
	who := &taken{store.Store, keystore.ErrAlive}
	cfg.Store, cfg.CallTimeout = who, 300*time.Millisecond
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	begun := r.Region(bindingRegion).NewRecord("", SecretsKey)
	begun.Spec, begun.Usage, begun.State, begun.Instance = "HMAC_256", "GENERATE_VERIFY_MAC", keystore.Creating, "another"
	_, err := store.Commit(t.Context(), begun.Put(0))
	require.NoError(t, err)
	_, err = r.SecretsMAC(t.Context(), 1, []byte("message"))
	require.ErrorContains(t, err, "waiting for the service key "+SecretsKey)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	who.is = errDisk
	_, err = r.SecretsMAC(t.Context(), 1, []byte("message"))
	require.ErrorIs(t, err, errDisk)
}

// What an adopted key depends on and has changed is no race that could be won.
func TestAdoptionIsBoundToItsPrecondition(t *testing.T) {
	cfg, _ := bindingConfig(t)
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	gone := keystore.Change{Op: keystore.Check, Ref: keystore.CounterRef("", "", "permission"), Expect: 1}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	record := r.Region(bindingRegion).NewRecord(cfg.Account, "adopted")
	_, err := r.Adopt(ctx, MACSpecOf(types.KeySpecHmac256), record, []keystore.Change{gone})
	require.ErrorIs(t, err, keystore.ErrConflict)
	require.NoError(t, ctx.Err())
}
