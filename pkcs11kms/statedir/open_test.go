package statedir

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// TestStoreGoesWithTheBridge: whether it is closed, its Client is, or it could not be opened, nothing of the store stays open: each
// open one holds a lock.
func TestStoreGoesWithTheBridge(t *testing.T) {
	dir, _ := initDir(t)
	open := func() bool {
		locks, err := os.ReadDir(filepath.Join(dir, "locks"))
		require.NoError(t, err)
		return len(locks) > 0
	}
	require.False(t, open(), "of Init")
	cfg := load(t, dir)
	b, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	require.True(t, open())
	require.NoError(t, b.Close())
	require.False(t, open(), "of a Bridge")
	c := openClient(t, cfg)
	require.True(t, open())
	require.NoError(t, c.Close())
	require.False(t, open(), "of a Client")
	cfg.Regions[testRegion] = pkcs11kms.Region{Token: "pkcs11:token=none?module-path=/nonexistent.so"}
	_, err = Open(t.Context(), cfg)
	require.ErrorContains(t, err, "nonexistent")
	require.False(t, open(), "of a Bridge without a token")
}

// TestOpenRefusals: before anything is opened.
func TestOpenRefusals(t *testing.T) {
	dir, _ := initDir(t)
	good := load(t, dir)
	for say, spoil := range map[string]func(*Config){
		"is not 12 digits":          func(c *Config) { c.AccountID = "1" },
		"both a store and the path": func(c *Config) { c.Store = struct{ keystore.Store }{} },
		"none.db":                   func(c *Config) { c.StorePath = filepath.Join(dir, "none.db") },
	} {
		cfg := good
		spoil(&cfg)
		_, err := Open(t.Context(), cfg)
		require.ErrorContains(t, err, say)
		_, err = New(t.Context(), cfg)
		require.ErrorContains(t, err, say)
	}
	good.StorePath = filepath.Join(dir, "none.db")
	store, err := good.OpenStore(t.Context())
	require.ErrorContains(t, err, "none.db")
	require.True(t, store == nil, "a nil in an interface is a store that panics")
}
