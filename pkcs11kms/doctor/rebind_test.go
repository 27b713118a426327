package doctor

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// A store of an earlier version knows the serial alone. It is bound when it is next opened, after the serial agreed; a token that has
// another is refused as before, and can be bound by somebody who knows better.
func TestStoresThatKnowTheSerialAlone(t *testing.T) {
	cfg, _, _ := throughModule(t)
	bound, keyID := bind(t, cfg)
	unbind := func(edit func(*keystore.Region)) {
		inStore(t, cfg, func(store keystore.Store) {
			rec, err := store.Get(t.Context(), keystore.RegionRef(testRegion))
			require.NoError(t, err)
			old := bound
			old.Binding = nil
			edit(&old)
			service, err := store.Get(t.Context(), keystore.KeyRef(testRegion, "", keyring.BindingKey))
			require.NoError(t, err)
			_, err = store.Commit(t.Context(), old.Put(rec.Version),
				keystore.Change{Op: keystore.Delete, Ref: service.Ref, Expect: service.Version})
			require.NoError(t, err)
		})
	}
	unbind(func(*keystore.Region) {})
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	require.Equal(t, BindingMissing, r.Regions[0].Token.Binding)
	require.NoError(t, useKey(t, cfg, keyID))
	again := boundTo(t, cfg)
	require.NotNil(t, again.Binding)
	require.NotEqual(t, bound.Binding.CKAID, again.Binding.CKAID)

	unbind(func(old *keystore.Region) { old.Serial = "0123456789abcdef" })
	require.ErrorIs(t, useKey(t, cfg, keyID), token.ErrAnotherToken)
	require.Nil(t, boundTo(t, cfg).Binding)
	var asked Rebinding
	require.NoError(t, RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, testRegion, agreeing(&asked, true)))
	require.Equal(t, 1, asked.Present)
	require.NoError(t, useKey(t, cfg, keyID))
}

// A token that has no HMAC proves by the signature of a key pair; one that has neither is known by its serial, which doctor says. It is
// asked once, and again when its firmware is another.
func TestTokensWithoutHMAC(t *testing.T) {
	cfg, m, _ := throughModule(t)
	inToken(t, cfg, func(*token.Token) {})
	hmac := m.Rule("C_GenerateKey fail CKR_MECHANISM_INVALID")
	pairs := m.Rule("C_GenerateKeyPair fail CKR_MECHANISM_INVALID")
	open := func() {
		b, err := openBridge(t.Context(), cfg)
		require.NoError(t, err)
		require.NoError(t, b.Close())
	}
	open()
	firmware := boundTo(t, cfg).Unable
	require.NotEmpty(t, firmware)
	require.Nil(t, boundTo(t, cfg).Binding)
	pairs.Remove()
	open()
	require.Nil(t, boundTo(t, cfg).Binding, "nobody has asked again")
	r := examine(t.Context(), cfg)
	require.Equal(t, BindingImpossible, r.Regions[0].Token.Binding)
	found := r.find("token", testRegion)
	require.Equal(t, StatusWarning, found[len(found)-1].Status)
	require.Contains(t, found[len(found)-1].Text, "its serial alone says which one it is")

	m.Do("token firmware=99.1")
	open()
	bound := boundTo(t, cfg)
	require.Empty(t, bound.Unable)
	require.Equal(t, "RSA_2048", bound.Binding.Spec)
	hmac.Remove()
	open()
	require.Equal(t, bound, boundTo(t, cfg))
	require.True(t, examine(t.Context(), cfg).OK())
	inToken(t, cfg, func(tok *token.Token) {
		require.NoError(t, tok.DestroyKeyPair(t.Context(), bound.Binding.CKAID, keyring.BindingKey))
	})
	_, err := openBridge(t.Context(), cfg)
	require.ErrorIs(t, err, token.ErrAnotherToken)
	var asked Rebinding
	require.NoError(t, RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, testRegion, agreeing(&asked, true)))
	require.Equal(t, "HMAC_256", boundTo(t, cfg).Binding.Spec)
	open()
}

// What a device answers when it is out of order says nothing of which token it is.
func TestADeviceThatFailsIsNotAnotherToken(t *testing.T) {
	cfg, m, _ := throughModule(t)
	_, keyID := bind(t, cfg)
	rule := m.Rule("C_SignInit fail CKR_DEVICE_ERROR")
	err := useKey(t, cfg, keyID)
	require.ErrorContains(t, err, "CKR_DEVICE_ERROR")
	require.NotErrorIs(t, err, token.ErrAnotherToken)
	require.False(t, strings.Contains(err.Error(), "does not prove"), err)
	rule.Remove()
	require.NoError(t, useKey(t, cfg, keyID))
}

// What a rebinding wants is checked first, and what others do meanwhile keeps the region as they made it.
func TestRebindingsThatAreRefused(t *testing.T) {
	cfg, _, _ := throughModule(t)
	var asked Rebinding
	yes := agreeing(&asked, true)
	inStore(t, cfg, func(keystore.Store) {})
	require.ErrorContains(t, RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, "eu-west-1", yes), "names no token for region eu-west-1")
	require.ErrorContains(t, RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, testRegion, yes), "the region was never used")
	bound, keyID := bind(t, cfg)
	require.ErrorContains(t, RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, testRegion, yes), "is bound to this token already")
	require.Empty(t, asked)

	inToken(t, cfg, func(tok *token.Token) {
		require.NoError(t, tok.DestroyKey(t.Context(), bound.Binding.CKAID, keyring.BindingKey))
	})
	meanwhile := func(Rebinding) (bool, error) {
		return true, RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, testRegion, yes)
	}
	err := RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, testRegion, meanwhile)
	require.ErrorContains(t, err, "region us-west-2 is left as it is")
	require.ErrorAs(t, err, new(*pkcs11kms.RefusedError))
	require.Equal(t, 1, ofBinding(objectsIn(t, cfg)), "of two who bind the region at once one has made a key")
	require.NoError(t, useKey(t, cfg, keyID))
	trouble := errors.New("nobody is there to ask")
	inToken(t, cfg, func(tok *token.Token) {
		require.NoError(t, tok.DestroyKey(t.Context(), boundTo(t, cfg).Binding.CKAID, keyring.BindingKey))
	})
	require.ErrorIs(t, RebindRegion(t.Context(), cfg.Config, cfg.OpenStore, testRegion,
		func(Rebinding) (bool, error) { return false, trouble }), trouble)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, RebindRegion(ctx, cfg.Config, cfg.OpenStore, testRegion, yes), context.Canceled)
}

// A region of which nothing is left but its binding key is missed by nobody.
func TestARegionWithoutKeysMayGo(t *testing.T) {
	cfg, _ := twoRegions(t)
	empty := softhsm.NewToken(t)
	cfg.Regions["ap-south-1"] = pkcs11kms.Region{Token: empty.URI(empty.PINFile)}
	b, err := openBridge(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, b.Close())
	delete(cfg.Regions, "ap-south-1")
	b, err = openBridge(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, b.Close())
	require.True(t, examine(t.Context(), cfg).OK())
	delete(cfg.Regions, otherRegion)
	_, err = openBridge(t.Context(), cfg)
	require.ErrorContains(t, err, otherRegion, "a region with a key is")
}
