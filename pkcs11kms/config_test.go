package pkcs11kms

import (
	"errors"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/softhsm"
)

// The store remembers which token its keys live in.
func TestAnotherTokenInTheOnesPlace(t *testing.T) {
	cfg := newConfig(t)
	mustCreate(t, openClient(t, cfg), types.KeySpecHmac256)
	other := softhsm.NewToken(t)
	cfg.Regions = map[string]Region{testRegion: {Token: other.URI(other.PINFile)}}
	_, err := newAt(t.Context(), cfg)
	require.ErrorContains(t, err, "serial")
	var hinted interface{ Hint() string }
	require.ErrorAs(t, err, &hinted)
}

func TestConfigRefusals(t *testing.T) {
	good := Config{Audit: audit.Discard, Regions: map[string]Region{testRegion: {Token: "pkcs11:"}}}
	_, err := good.WithDefaults()
	require.NoError(t, err)
	for say, spoil := range map[string]func(*Config){
		"is not 12 digits":            func(c *Config) { c.AccountID = "1" },
		"partition":                   func(c *Config) { c.Partition = "azure" },
		"number of sessions":          func(c *Config) { c.MaxSessions = -1 },
		"too short":                   func(c *Config) { c.CallTimeout = 1 },
		"no region":                   func(c *Config) { c.Regions = nil },
		"has no token":                func(c *Config) { c.Regions = map[string]Region{testRegion: {}} },
		"is not among":                func(c *Config) { c.DefaultRegion = "eu-west-1" },
		"is not of the form":          func(c *Config) { c.Regions = map[string]Region{"here": {Token: "pkcs11:"}} },
		"is not one of AWS's form":    func(c *Config) { c.Partition = "aws_" },
		"account id \"11112222333a\"": func(c *Config) { c.AccountID = "11112222333a" },
	} {
		cfg := good
		spoil(&cfg)
		_, err := cfg.WithDefaults()
		require.ErrorContains(t, err, say)
	}
}

// TestWhoClosesTheStore: the caller, unless it is handed over; then the Bridge does, and an Open that fails, for whatever reason.
func TestWhoClosesTheStore(t *testing.T) {
	cfg := newConfig(t)
	closed := func(store keystore.Store) bool {
		_, err := store.Get(t.Context(), keystore.RegionRef(testRegion))
		return errors.Is(err, keystore.ErrClosed)
	}
	for name, spoil := range map[string]func(*Config){
		"good":                 func(*Config) {},
		"account is no number": func(c *Config) { c.AccountID = "1" },
		"no such token": func(c *Config) {
			c.Regions = map[string]Region{testRegion: {Token: "pkcs11:token=none?module-path=/nonexistent.so"}}
		},
	} {
		for _, handOver := range []bool{false, true} {
			store, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
			require.NoError(t, err)
			given := cfg.Config
			given.Store, given.CloseStore = store, handOver
			spoil(&given)
			b, err := Open(t.Context(), given)
			require.Equal(t, name == "good", err == nil, "%s: %v", name, err)
			if err == nil {
				require.False(t, closed(store), name)
				require.NoError(t, b.Close())
			}
			require.Equal(t, handOver, closed(store), name)
			assert.NoError(t, store.Close())
		}
	}
	given := cfg.Config
	_, err := Open(t.Context(), given)
	require.ErrorContains(t, err, "no store is given")
}
