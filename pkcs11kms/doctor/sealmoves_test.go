package doctor

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

// A backup of a sealed store is restored like another one, and used once all of it is sealed anew.
func TestRestoreOfASealedStore(t *testing.T) {
	f := newFilled(t)
	sealStore(t, f.cfg, false)
	c := openClient(t, f.cfg)
	schedule(t, c, &f.other, 7)
	backup := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, statedir.Backup(t.Context(), c.bridge, backup))
	require.NoError(t, c.bridge.Close())
	loseStore(t, f.cfg.StorePath)
	restored, err := sqlite.Restore(t.Context(), backup, f.cfg.StorePath, nil)
	require.NoError(t, err)
	require.True(t, restored.Reseal)
	require.Len(t, restored.Postponed, 1)
	var refused *keyring.SealError
	require.ErrorAs(t, useKey(t, f.cfg, f.keyID), &refused)
	var changed []string
	for _, line := range sealStore(t, f.cfg, true) {
		if strings.Contains(line, ": IT ") {
			changed = append(changed, line)
		}
	}
	require.Len(t, changed, 1, "what the restore has changed")
	require.Contains(t, changed[0], f.other)
	require.NoError(t, useKey(t, f.cfg, f.keyID))
	require.True(t, examine(t.Context(), f.cfg).OK())
}

// The token that has the key is replaced: binding the region to another one leaves a store that is used once it was sealed anew.
func TestRebindingTheRegionOfTheSealKey(t *testing.T) {
	f := newFilled(t)
	sealStore(t, f.cfg, false)
	other := softhsm.NewToken(t)
	f.cfg.Regions[testRegion] = pkcs11kms.Region{Token: other.URI(other.PINFile)}
	require.ErrorIs(t, useKey(t, f.cfg, f.keyID), token.ErrAnotherToken)
	var asked Rebinding
	require.NoError(t, RebindRegion(t.Context(), f.cfg.Config, f.cfg.OpenStore, testRegion, agreeing(&asked, true)))
	var refused *keyring.SealError
	require.ErrorAs(t, useKey(t, f.cfg, f.keyID), &refused)
	sealStore(t, f.cfg, true)
	c := openClient(t, f.cfg)
	mustCreate(t, c, types.KeySpecHmac256)
}

// Another region's token may be replaced, or gone, without a word about the seals.
func TestOtherRegionsOfASealedStore(t *testing.T) {
	cfg, keyID := twoRegions(t)
	sealStore(t, cfg, false)
	other := softhsm.NewToken(t)
	cfg.Regions[otherRegion] = pkcs11kms.Region{Token: other.URI(other.PINFile)}
	var asked Rebinding
	require.NoError(t, RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, otherRegion, agreeing(&asked, true)))
	require.NoError(t, useKey(t, cfg, keyID[testRegion]))

	delete(cfg.Regions, otherRegion)
	yes := func(RetiredRegion) (bool, error) { return true, nil }
	require.NoError(t, RetireRegion(t.Context(), cfg.Config, cfg.OpenStore, otherRegion, yes))
	require.NoError(t, useKey(t, cfg, keyID[testRegion]))
	require.True(t, examine(t.Context(), cfg).OK())

	cfg.DefaultRegion = otherRegion
	cfg.Regions = map[string]pkcs11kms.Region{otherRegion: {Token: other.URI(other.PINFile)}}
	var hidden *pkcs11kms.SetupError
	require.ErrorAs(t, useKey(t, cfg, keyID[otherRegion]), &hidden, "the region of the seals is not configured")
}

// Who can write to the store and use a key of his own cannot have the seals made by that: by its MAC of what the seal key is made of.
func TestSealsByAKeyOfSomebodysOwn(t *testing.T) {
	f := newFilled(t)
	sealStore(t, f.cfg, false)
	c := openClient(t, f.cfg)
	rec, err := c.inside.Store.Get(t.Context(), keystore.KeyRef(testRegion, testAccount, f.other))
	require.NoError(t, err)
	own, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	root, _ := c.inside.Store.Root()
	root.CKAID = own.CKAID
	mac, err := generate(t.Context(), c, &f.other, sealed.KeyText(root))
	require.NoError(t, err)
	require.NoError(t, c.bridge.Close())
	inStore(t, f.cfg, func(store keystore.Store) {
		s, err := sealed.New(t.Context(), store, sealed.Options{})
		require.NoError(t, err)
		version, err := sealed.Begin(t.Context(), store, root, s.Version())
		require.NoError(t, err)
		require.NoError(t, sealed.SealAll(t.Context(), store, root, version, sealed.Key(mac), time.Now(), func(int) {}))
	})
	var refused *keyring.SealError
	require.ErrorAs(t, useKey(t, f.cfg, f.keyID), &refused)
	require.ErrorContains(t, refused, "is not the service key for them")
	require.False(t, examine(t.Context(), f.cfg).OK())
}
