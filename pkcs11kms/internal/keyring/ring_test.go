package keyring

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// newConfig makes an empty store for one test. It names no region.
func newConfig(t *testing.T) Config {
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(path))
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	return Config{Account: "111122223333", Store: store, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: time.Now,
		CallTimeout: 5 * time.Second, MaxKeys: 10}
}

func open(t *testing.T, cfg Config) *Ring {
	r, err := Open(t.Context(), cfg, records.New(cfg.Store, cfg.Log, cfg.Now))
	require.NoError(t, err)
	return r
}

// Rings on one Store are one instance: each knows what the others work on, and nothing is kept of them when all are closed.
func TestRingsOnOneStoreShareWhatIsInProgress(t *testing.T) {
	cfg := newConfig(t)
	ref := keystore.KeyRef("r", "a", "i")
	first, second := open(t, cfg), open(t, cfg)
	done := first.InProgress(ref)
	require.True(t, second.inProgress.has(ref))
	require.NoError(t, second.Close())
	third := open(t, cfg)
	require.True(t, third.inProgress.has(ref), "the first is open still")
	done()
	require.False(t, third.inProgress.has(ref))
	require.NoError(t, first.Close())
	require.Contains(t, instances.sets, cfg.Store.Instance())
	require.NoError(t, third.Close())
	require.NotContains(t, instances.sets, cfg.Store.Instance())
}

// Nothing is kept of the object of a key that is removed.
func TestHandleGoesWithItsKey(t *testing.T) {
	cfg, tok := newConfig(t), softhsm.NewToken(t)
	const name = "us-west-2"
	cfg.Regions = []string{name}
	cfg.Token = func(string) token.Config { return token.Config{URI: tok.URI(tok.PINFile)} }
	r := open(t, cfg)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	region := r.Region(name)
	made := func(id string) *Key {
		k, err := r.Make(t.Context(), region, MACSpecOf(types.KeySpecHmac256), region.NewRecord(cfg.Account, id), nil)
		require.NoError(t, err)
		return k
	}
	gone, kept := made("gone"), made("kept")
	removed, err := r.Finish(t.Context(), gone.Record, gone.Version)
	require.NoError(t, err)
	require.True(t, removed)
	held := []any{}
	region.handles.Range(func(id, _ any) bool { held = append(held, id); return true })
	binding, err := BoundTo(t.Context(), cfg.Store, name)
	require.NoError(t, err)
	require.ElementsMatch(t, []any{kept.Record.CKAID.String(), binding.Binding.CKAID.String()}, held)
}
