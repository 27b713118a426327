package doctor

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

const otherRegion = "eu-west-1"

// twoRegions is the configuration of a store that has a key in each of two regions.
func twoRegions(t *testing.T) (cfg statedir.Config, keyID map[string]string) {
	t.Helper()
	cfg = newConfig(t)
	other := softhsm.NewToken(t)
	cfg.Regions[otherRegion] = pkcs11kms.Region{Token: other.URI(other.PINFile)}
	b, err := openBridge(t.Context(), cfg)
	require.NoError(t, err)
	keyID = map[string]string{}
	for name := range cfg.Regions {
		c, err := b.Client(name)
		require.NoError(t, err)
		keyID[name] = *mustCreate(t, &client{Client: c.As(b.Root())}, types.KeySpecHmac256).KeyId
	}
	require.NoError(t, b.Close())
	return cfg, keyID
}

// untouched makes every token of a configuration one that cannot be opened: an error about it would tell that it was touched.
func untouched(cfg statedir.Config, edit func(*statedir.Config)) statedir.Config {
	regions := map[string]pkcs11kms.Region{}
	for name := range cfg.Regions {
		regions[name] = pkcs11kms.Region{Token: "pkcs11:token=none?module-path=/nonexistent.so"}
	}
	cfg.Regions = regions
	edit(&cfg)
	return cfg
}

// TestRetiredRegion: what is gone for good may be missing in the configuration, once somebody has said so; nothing of it is lost.
func TestRetiredRegion(t *testing.T) {
	cfg, keyID := twoRegions(t)
	one := cfg
	one.Regions = map[string]pkcs11kms.Region{testRegion: cfg.Regions[testRegion]}
	yes := func(RetiredRegion) (bool, error) { return true, nil }
	var refused *pkcs11kms.RefusedError
	for name, c := range map[string]struct {
		cfg    statedir.Config
		region string
		agree  func(RetiredRegion) (bool, error)
		text   string
	}{
		"in use":     {cfg, otherRegion, yes, "is in use"},
		"unknown":    {one, "ap-south-1", yes, "has no region"},
		"not agreed": {one, otherRegion, func(RetiredRegion) (bool, error) { return false, nil }, "is left as it is"},
	} {
		err := RetireRegion(t.Context(), c.cfg.Config, c.cfg.OpenStore, c.region, c.agree)
		require.ErrorAs(t, err, &refused, name)
		require.ErrorContains(t, err, c.text, name)
	}
	_, err := openBridge(t.Context(), one)
	require.ErrorContains(t, err, otherRegion, "nothing was retired yet")

	blind := untouched(one, func(*statedir.Config) {})
	require.NoError(t, RetireRegion(t.Context(), blind.Config, blind.OpenStore, otherRegion, func(r RetiredRegion) (bool, error) {
		require.Equal(t, otherRegion, r.Name)
		require.Equal(t, 1, r.Keys)
		require.NotEmpty(t, r.Serial)
		return true, nil
	}))
	require.ErrorContains(t, RetireRegion(t.Context(), one.Config, one.OpenStore, otherRegion, yes), "was retired on")
	_, err = openClient(t, one).GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: aws.String(keyID[testRegion]),
		MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: []byte("message")})
	require.NoError(t, err)
	report := examine(t.Context(), one)
	require.True(t, report.OK(), "%+v", report.Checks)
	text := ""
	for _, check := range report.Checks {
		text += check.Subject + ": " + check.Text + "\n"
	}
	require.Contains(t, text, otherRegion+": retired on ")
	require.Contains(t, text, "1 key is set aside")

	// The token is there after all.
	b, err := openBridge(t.Context(), cfg)
	require.NoError(t, err)
	c, err := b.Client(otherRegion)
	require.NoError(t, err)
	_, err = c.As(b.Root()).GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: aws.String(keyID[otherRegion]),
		MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: []byte("message")})
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, err = openBridge(t.Context(), one)
	require.ErrorContains(t, err, otherRegion, "it is in use again, and may not be missing")
}

// TestDoctorReadsTheWholeStore: counters and policies of keys that the configuration does not name are examined too.
func TestDoctorReadsTheWholeStore(t *testing.T) {
	cfg, keyID := twoRegions(t)
	store := openedStore(t, cfg.StorePath)
	for _, ref := range []keystore.Ref{keystore.CounterRef(otherRegion, testAccount, keystore.CounterKeys),
		keystore.KeyRef(otherRegion, testAccount, keyID[otherRegion])} {
		rec, err := store.Get(t.Context(), ref)
		require.NoError(t, err)
		if ref.Kind == keystore.KindCounter {
			counter, err := keystore.DecodeCounter(rec)
			require.NoError(t, err)
			counter.N = 7
			_, err = store.Commit(t.Context(), counter.Put(rec.Version))
			require.NoError(t, err)
			continue
		}
		key, err := keystore.DecodeKey(rec)
		require.NoError(t, err)
		key.Policy = "{}"
		_, err = store.Commit(t.Context(), key.Put(rec.Version))
		require.NoError(t, err)
	}
	delete(cfg.Regions, otherRegion)
	yes := func(RetiredRegion) (bool, error) { return true, nil }
	require.NoError(t, RetireRegion(t.Context(), cfg.Config, cfg.OpenStore, otherRegion, yes))
	text := ""
	for _, check := range examine(t.Context(), cfg).Checks {
		text += check.Subject + ": " + check.Text + "\n"
	}
	require.Contains(t, text, otherRegion+": account "+testAccount+" has 1 keys, but their counter says 7")
	require.Contains(t, text, keyID[otherRegion]+": its key policy cannot be read")
}

// TestDoctorTellsWhatTheConfigurationHides: it says what opening says.
func TestDoctorTellsWhatTheConfigurationHides(t *testing.T) {
	cfg, _ := twoRegions(t)
	changed := untouched(cfg, func(c *statedir.Config) { c.AccountID = "999999999999" })
	_, err := openBridge(t.Context(), changed)
	var setup *pkcs11kms.SetupError
	require.ErrorAs(t, err, &setup)
	var found []Check
	for _, check := range examine(t.Context(), changed).Checks {
		if check.Area == "store" && check.Status == StatusError {
			found = append(found, check)
		}
	}
	require.Len(t, found, 1)
	require.Equal(t, err.Error(), found[0].Text)
	require.Equal(t, setup.Hint(), found[0].Hint)
}
