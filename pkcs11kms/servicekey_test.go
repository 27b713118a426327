package pkcs11kms

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// serviceKeysIn counts the service keys of a store by region.
func serviceKeysIn(t *testing.T, cfg testConfig) map[string]int {
	store, found := reopen(t, cfg), map[string]int{}
	for region := range cfg.Regions {
		_, err := store.Get(t.Context(), keystore.KeyRef(region, "", keyring.SecretsKey))
		if err == nil {
			found[region]++
			continue
		}
		require.ErrorIs(t, err, keystore.ErrNotFound)
	}
	return found
}

// The secret of an access key stays what it is when another region becomes the default one, for good or for one command.
func TestSecretsOutliveTheDefaultRegion(t *testing.T) {
	cfg, _ := twoRegions(t)
	opened := func(region string) *Bridge {
		cfg := cfg
		cfg.DefaultRegion = region
		return openClient(t, cfg).bridge
	}
	known := func(b *Bridge, key iam.AccessKey) {
		t.Helper()
		signing, _, err := b.SigningKey(t.Context(), key.ID, testDate, testRegion, "kms")
		require.NoError(t, err)
		require.True(t, signing == sigv4.SigningKey(key.Secret, testDate, testRegion, "kms"), "the secret is another")
	}
	here, there := opened(testRegion), opened(otherRegion)
	first, err := asRoot(here).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	known(there, first)
	second, err := asRoot(there).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	known(here, second)
	known(opened(otherRegion), first)
	require.Equal(t, map[string]int{testRegion: 1}, serviceKeysIn(t, cfg))
	require.NoError(t, there.Health(t.Context()))
}

// Processes with different default regions that need the first service key at once make one.
func TestFirstStartsInTwoRegionsMakeOneServiceKey(t *testing.T) {
	cfg, _ := twoRegions(t)
	made := make(chan error)
	bridges := map[string]*Bridge{}
	for _, region := range []string{testRegion, otherRegion} {
		cfg := cfg
		cfg.DefaultRegion = region
		bridges[region] = openClient(t, cfg).bridge
	}
	keys := map[string]*iam.AccessKey{}
	for region, b := range bridges {
		key := &iam.AccessKey{}
		keys[region] = key
		go func() {
			var err error
			*key, err = asRoot(b).CreateAccessKey(t.Context(), iam.PrincipalName{})
			made <- err
		}()
	}
	require.NoError(t, errors.Join(<-made, <-made))
	total := 0
	for _, n := range serviceKeysIn(t, cfg) {
		total += n
	}
	require.Equal(t, 1, total)
	for _, key := range keys {
		for _, b := range bridges {
			signing, _, err := b.SigningKey(t.Context(), key.ID, testDate, testRegion, "kms")
			require.NoError(t, err)
			require.True(t, signing == sigv4.SigningKey(key.Secret, testDate, testRegion, "kms"))
		}
	}
}

// The other process may be faster between the look at its region and the commit: then its key is taken.
func TestServiceKeyOfAnotherRegionAtTheLastMoment(t *testing.T) {
	cfg, _ := twoRegions(t)
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store := &faultyStore{Store: real, path: cfg.StorePath}
	here, there := cfg, cfg
	here.DefaultRegion, here.Store, here.StorePath = testRegion, store, ""
	there.DefaultRegion = otherRegion
	slow, fast := openClient(t, here).bridge, openClient(t, there).bridge
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // for one who would repeat for ever what cannot succeed
	defer cancel()
	first := true
	store.hook(func(changes []keystore.Change) error {
		for _, change := range changes {
			if first && change.Ref == keystore.KeyRef(testRegion, "", keyring.SecretsKey) {
				first = false
				_, err := asRoot(fast).CreateAccessKey(ctx, iam.PrincipalName{})
				return err
			}
		}
		return nil
	}, nil)
	key, err := asRoot(slow).CreateAccessKey(ctx, iam.PrincipalName{})
	require.NoError(t, err)
	require.False(t, first)
	require.Equal(t, map[string]int{otherRegion: 1}, serviceKeysIn(t, cfg))
	_, _, err = fast.SigningKey(ctx, key.ID, testDate, testRegion, "kms")
	require.NoError(t, err)
}

// The default region comes first, whatever its name.
func TestRegionsBeginWithTheDefaultOne(t *testing.T) {
	cfg, _ := twoRegions(t)
	for _, want := range [][]string{{testRegion, otherRegion}, {otherRegion, testRegion}} {
		cfg := cfg
		cfg.DefaultRegion = want[0]
		require.Equal(t, want, openClient(t, cfg).bridge.Regions())
	}
}

// The service key that a process was making which died is finished by whoever needs it next.
func TestServiceKeyOfAProcessThatDied(t *testing.T) {
	cfg := newConfig(t)
	c, store := openJanitor(t, cfg)
	half := c.region.NewRecord("", keyring.SecretsKey)
	half.State = keystore.Creating
	instance := dieOver(t, cfg.StorePath, half)
	_, err := asRoot(c.bridge).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	_, err = store.TakeOver(t.Context(), instance)
	require.ErrorIs(t, err, keystore.ErrUndecided, "it is forgotten")
}

// While another process that lives is making the service key, who needs it waits for CallTimeout, and no longer.
func TestWaitForAServiceKeyEnds(t *testing.T) {
	cfg := newConfig(t)
	maker := openClient(t, cfg)
	cfg.CallTimeout = 200 * time.Millisecond
	c := openClient(t, cfg)
	half := c.region.NewRecord("", keyring.SecretsKey)
	half.State, half.Instance = keystore.Creating, maker.bridge.core.Store.Instance()
	defer maker.bridge.core.Keys.InProgress(half.Ref())()
	_, err := c.bridge.core.Store.Commit(t.Context(), half.Put(0))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := asRoot(c.bridge).CreateAccessKey(context.Background(), iam.PrincipalName{})
		done <- err
	}()
	select {
	case err := <-done:
		require.ErrorIs(t, err, context.DeadlineExceeded)
	case <-time.After(30 * time.Second):
		require.Fail(t, "it waits on")
	}
	_, err = c.bridge.core.Store.Get(t.Context(), half.Ref())
	require.NoError(t, err, "what the living one makes stays")
}
