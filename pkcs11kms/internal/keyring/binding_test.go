package keyring

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// watched is a store that tells before each Commit, which an error keeps from happening.
type watched struct {
	keystore.Store
	before func([]keystore.Change) error
}

func (s *watched) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	if s.before != nil {
		if err := s.before(changes); err != nil {
			return 0, err
		}
	}
	return s.Store.Commit(ctx, changes...)
}

// bindsRegion tells whether a batch is the one that keeps a region's proof.
func bindsRegion(t *testing.T, changes []keystore.Change) bool {
	t.Helper()
	for _, c := range changes {
		if c.Ref.Kind != keystore.KindRegion {
			continue
		}
		bound, err := keystore.DecodeRegion(keystore.Record{Ref: c.Ref, Version: 1, Value: c.Value})
		require.NoError(t, err)
		return bound.Binding != nil
	}
	return false
}

const bindingRegion = "us-west-2"

// bindingConfig is for one region on a token of its own, whose store is watched.
func bindingConfig(t *testing.T) (Config, *watched) {
	cfg, tok := newConfig(t), softhsm.NewToken(t)
	cfg.Regions = []string{bindingRegion}
	cfg.Token = func(string) token.Config { return token.Config{URI: tok.URI(tok.PINFile)} }
	store := &watched{Store: cfg.Store}
	cfg.Store = store
	return cfg, store
}

func bindingKeys(t *testing.T, r *Ring) (n int) {
	t.Helper()
	objects, err := r.Region(bindingRegion).Token.Objects(t.Context())
	require.NoError(t, err)
	for _, o := range objects {
		if o.Label == BindingKey {
			n++
		}
	}
	return n
}

// Of two who open a region for the first time, one keeps the proof, and the other finds that it is of its own token.
func TestBoundByAnotherMeanwhile(t *testing.T) {
	cfg, store := bindingConfig(t)
	others := cfg
	others.Store = store.Store
	store.before = func(changes []keystore.Change) error {
		if bindsRegion(t, changes) {
			store.before = nil
			other := open(t, others)
			t.Cleanup(func() { assert.NoError(t, other.Close()) })
		}
		return nil
	}
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	require.Nil(t, store.before)
	require.Equal(t, 1, bindingKeys(t, r))
}

// If the other has bound the region to another token, this one is another and is closed again.
func TestBoundToAnotherMeanwhile(t *testing.T) {
	cfg, store := bindingConfig(t)
	store.before = func(changes []keystore.Change) error {
		if !bindsRegion(t, changes) {
			return nil
		}
		store.before = nil
		bound, version, err := readRegion(t.Context(), store, bindingRegion)
		require.NoError(t, err)
		bound.Binding = &keystore.Binding{CKAID: keystore.HexBytes("another token's"), Spec: "HMAC_256", Proof: keystore.HexBytes("proof")}
		_, err = store.Commit(t.Context(), bound.Put(version))
		return err
	}
	_, err := Open(t.Context(), cfg, records.New(cfg.Store, cfg.Log, cfg.Now))
	require.ErrorIs(t, err, token.ErrAnotherToken)
	var unproven *BindingError
	require.ErrorAs(t, err, &unproven)
	require.Equal(t, bindingRegion, unproven.Region)
}

// kept is what was logged.
type kept struct {
	slog.Handler
	mu       sync.Mutex // guards messages
	messages []string
}

func (k *kept) Enabled(context.Context, slog.Level) bool { return true }

func (k *kept) Handle(_ context.Context, r slog.Record) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.messages = append(k.messages, r.Message)
	return nil
}

// Where the key cannot be made or its proof not be kept for now, the token is used as it was before there were binding keys, and that is
// said. The next one who opens the region makes up for it, with the same key.
func TestBindingThatCannotBeKept(t *testing.T) {
	for name, refuse := range map[string]func(*testing.T, []keystore.Change) bool{
		"a store that takes nothing of it": func(_ *testing.T, changes []keystore.Change) bool { return changes[0].Ref.Kind == keystore.KindKey },
		"a store that takes the key alone": bindsRegion,
	} {
		t.Run(name, func(t *testing.T) {
			cfg, store := bindingConfig(t)
			said := &kept{}
			cfg.Log = slog.New(said)
			store.before = func(changes []keystore.Change) error {
				if refuse(t, changes) {
					return keystore.ErrFull
				}
				return nil
			}
			r := open(t, cfg)
			require.Contains(t, said.messages,
				"no key could be made by which the token of a region is known again: its serial alone says which one it is")
			require.NoError(t, r.Close())
			store.before = nil
			r = open(t, cfg)
			bound, err := BoundTo(t.Context(), store, bindingRegion)
			require.NoError(t, err)
			require.NotNil(t, bound.Binding)
			require.Equal(t, 1, bindingKeys(t, r))
			require.NoError(t, r.Close())
		})
	}
}

// A caller that goes while the key is made gets no Ring.
func TestBindingOfACallerThatHasGone(t *testing.T) {
	cfg, store := bindingConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	store.before = func(changes []keystore.Change) error {
		if bindsRegion(t, changes) {
			cancel()
			return errors.New("the store has no time left either")
		}
		return nil
	}
	_, err := Open(ctx, cfg, records.New(cfg.Store, cfg.Log, cfg.Now))
	require.ErrorIs(t, err, context.Canceled)
}

// Another process can bind the region anew while a token is open. Who connects to it again asks for what is true then.
func TestProofIsReadAnew(t *testing.T) {
	cfg, store := bindingConfig(t)
	require.NoError(t, open(t, cfg).Close())
	bound, version, err := readRegion(t.Context(), store, bindingRegion)
	require.NoError(t, err)
	config := cfg.Token(bindingRegion)
	tok, err := OpenBound(t.Context(), store, bound, config)
	require.NoError(t, err)
	require.NoError(t, tok.Close())
	bound.Binding.Proof[0] ^= 1
	_, err = store.Commit(t.Context(), bound.Put(version))
	require.NoError(t, err)
	bound.Binding.Proof[0] ^= 1 // what this process has read before
	_, err = OpenBound(t.Context(), store, bound, config)
	require.ErrorIs(t, err, token.ErrAnotherToken)
}

// Who loses the race at the last moment, when his key is made already, destroys it, and leaves the region as the other has made it.
func TestRebindThatLosesItsRace(t *testing.T) {
	cfg, store := bindingConfig(t)
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	bound, version, err := readRegion(t.Context(), store, bindingRegion)
	require.NoError(t, err)
	require.NoError(t, r.Region(bindingRegion).Token.DestroyKey(t.Context(), bound.Binding.CKAID, BindingKey))
	store.before = func(changes []keystore.Change) error {
		if !bindsRegion(t, changes) {
			return nil
		}
		store.before = nil
		require.Equal(t, 1, bindingKeys(t, r))
		_, err := store.Commit(t.Context(), bound.Put(version))
		return err
	}
	err = Rebind(t.Context(), cfg, bindingRegion, func(Rebinding) (bool, error) { return true, nil })
	require.ErrorIs(t, err, ErrBoundMeanwhile)
	require.Zero(t, bindingKeys(t, r))
	now, err := BoundTo(t.Context(), store, bindingRegion)
	require.NoError(t, err)
	require.Equal(t, bound, now)
	require.NoError(t, Rebind(t.Context(), cfg, bindingRegion, func(Rebinding) (bool, error) { return true, nil }))
	require.Equal(t, 1, bindingKeys(t, r))
}
