package pkcs11kms

import (
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/softhsm"
)

func openedStore(t *testing.T, path string) keystore.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

const otherRegion = "eu-west-1"

// twoRegions is the configuration of a store that has a key in each of two regions.
func twoRegions(t *testing.T) (cfg testConfig, keyID map[string]string) {
	t.Helper()
	cfg = newConfig(t)
	other := softhsm.NewToken(t)
	cfg.Regions[otherRegion] = Region{Token: other.URI(other.PINFile)}
	b, err := openAt(t.Context(), cfg)
	require.NoError(t, err)
	keyID = map[string]string{}
	for name := range cfg.Regions {
		c, err := b.Client(name)
		require.NoError(t, err)
		keyID[name] = *mustCreate(t, c.As(b.Root()), types.KeySpecHmac256).KeyId
	}
	require.NoError(t, b.Close())
	return cfg, keyID
}

// untouched makes every token of a configuration one that cannot be opened: an error about it would tell that it was touched.
func untouched(cfg testConfig, edit func(*testConfig)) testConfig {
	regions := map[string]Region{}
	for name := range cfg.Regions {
		regions[name] = Region{Token: "pkcs11:token=none?module-path=/nonexistent.so"}
	}
	cfg.Regions = regions
	edit(&cfg)
	return cfg
}

// TestConfigurationThatHidesWhatTheStoreHolds: opening refuses before any token is touched, and names both sides.
func TestConfigurationThatHidesWhatTheStoreHolds(t *testing.T) {
	cfg, _ := twoRegions(t)
	without := func(name string) func(*testConfig) {
		return func(c *testConfig) { delete(c.Regions, name) }
	}
	for name, c := range map[string]struct {
		edit        func(*testConfig)
		says, hints []string
	}{
		"account": {func(c *testConfig) { c.AccountID = "999999999999" },
			[]string{"keys of the account " + testAccount + " in " + testRegion, "in " + otherRegion,
				"the account 999999999999 with " + otherRegion + ", " + testRegion},
			[]string{"config.yaml"}},
		"region removed": {without(otherRegion),
			[]string{"keys of the account " + testAccount + " in " + otherRegion + ", and", "with " + testRegion},
			[]string{"pkcs11kms doctor --retire-region " + otherRegion}},
		"region renamed": {func(c *testConfig) {
			c.Regions["ap-south-1"] = c.Regions[otherRegion]
			delete(c.Regions, otherRegion)
		}, []string{"in " + otherRegion, "with ap-south-1, " + testRegion}, []string{"--retire-region " + otherRegion}},
	} {
		changed := untouched(cfg, c.edit)
		_, err := openAt(t.Context(), changed)
		var setup *SetupError
		require.ErrorAs(t, err, &setup, name)
		for _, text := range c.says {
			require.Contains(t, err.Error(), text, name)
		}
		for _, text := range c.hints {
			require.Contains(t, setup.Hint(), text, name)
		}
		require.NotContains(t, err.Error(), "nonexistent", "a token was touched")
	}
	b, err := openAt(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, b.Close())
}

// TestAccountOfUsersAndAccessKeys: without any key, they tell the account.
func TestAccountOfUsersAndAccessKeys(t *testing.T) {
	for name, make := range map[string]func(*testing.T, *Bridge){
		"user": func(t *testing.T, b *Bridge) {
			_, err := asRoot(b).CreatePrincipal(t.Context(), iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Alice"}, iam.PrincipalOptions{})
			require.NoError(t, err)
		},
		"access key of the root": func(t *testing.T, b *Bridge) {
			_, err := asRoot(b).CreateAccessKey(t.Context(), iam.PrincipalName{})
			require.NoError(t, err)
		},
	} {
		cfg := newConfig(t)
		b, err := openAt(t.Context(), cfg)
		require.NoError(t, err)
		make(t, b)
		require.NoError(t, b.Close())
		_, err = openAt(t.Context(), untouched(cfg, func(c *testConfig) { c.AccountID = "999999999999" }))
		require.ErrorContains(t, err, "the store holds users or access keys of the account "+testAccount, name)
	}
}

// TestTwoFirstStarts: two processes that open a store for the first time bind its region at once. Both work when they mean one token;
// with two tokens the slower one is refused.
func TestTwoFirstStarts(t *testing.T) {
	for name, same := range map[string]bool{"one token": true, "two tokens": false} {
		t.Run(name, func(t *testing.T) {
			mine, theirs := softhsm.NewToken(t), softhsm.NewToken(t)
			if same {
				theirs = mine
			}
			cfg := testConfig{StorePath: filepath.Join(t.TempDir(), "kms.db"),
				Config: Config{AccountID: testAccount, Audit: audit.Discard,
					Regions: map[string]Region{testRegion: {Token: theirs.URI(theirs.PINFile)}}}}
			require.NoError(t, sqlite.Create(cfg.StorePath))
			store := &faultyStore{Store: openedStore(t, cfg.StorePath)}
			raced := false
			store.hook(func(changes []keystore.Change) error {
				if raced || changes[0].Ref.Kind != keystore.KindRegion {
					return nil
				}
				raced = true // and now the other one is first
				b, err := openAt(t.Context(), cfg)
				if err != nil {
					return err
				}
				return b.Close()
			}, nil)
			slower := cfg
			slower.StorePath, slower.Store = "", store
			slower.Regions = map[string]Region{testRegion: {Token: mine.URI(mine.PINFile)}}
			b, err := openAt(t.Context(), slower)
			require.True(t, raced)
			if !same {
				require.ErrorContains(t, err, "was bound to the token with the serial "+theirs.Serial+" meanwhile, this one has "+mine.Serial)
			} else {
				require.NoError(t, err)
				require.NoError(t, b.Close())
			}
			rec, err := store.Get(t.Context(), keystore.RegionRef(testRegion))
			require.NoError(t, err)
			bound, err := keystore.DecodeRegion(rec)
			require.NoError(t, err)
			require.Equal(t, theirs.Serial, bound.Serial)
		})
	}
}
