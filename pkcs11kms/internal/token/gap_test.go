package token_test

import (
	"context"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

func TestGapsAreFoundAndKept(t *testing.T) {
	tok, f := openFaulty(t)
	gap := func(spec pubkey.Spec) *token.GapError {
		_, _, err := tok.GenerateKeyPair(t.Context(), spec, randomBytes(t, 16), "label")
		var found *token.GapError
		require.ErrorAs(t, err, &found)
		assert.Equal(t, error(found), tok.PairGap(spec))
		objects, err := tok.Objects(t.Context())
		require.NoError(t, err)
		assert.Empty(t, objects)
		return found
	}
	require.NoError(t, tok.PairGap(pubkey.P384))
	f.fail("C_GenerateKeyPair", 2, pkcs11.CKR_MECHANISM_INVALID)
	assert.EqualError(t, gap(pubkey.P384), "P-384 key pairs, generation: C_GenerateKeyPair: CKR_MECHANISM_INVALID")
	require.NoError(t, tok.PairGap(pubkey.P256))

	f.set(func() { f.noMechanism = map[uint]bool{pkcs11.CKM_ECDSA: true} }) // and SoftHSM has no CKM_ECDSA_SHA256
	assert.EqualError(t, gap(pubkey.P256), "P-256 key pairs, ECDSA with SHA-256: C_SignInit: CKR_MECHANISM_INVALID")
	f.set(func() {
		f.noMechanism = map[uint]bool{pkcs11.CKM_RSA_PKCS_PSS: true, pkcs11.CKM_SHA256_RSA_PKCS_PSS: true,
			pkcs11.CKM_SHA384_RSA_PKCS_PSS: true, pkcs11.CKM_SHA512_RSA_PKCS_PSS: true}
	})
	require.NoError(t, tok.ProbeKeyPair(t.Context(), pubkey.RSA2048), "it signs by the other scheme")
	f.set(func() { f.noMechanism[pkcs11.CKM_RSA_PKCS] = true })
	for _, m := range []uint{pkcs11.CKM_SHA256_RSA_PKCS, pkcs11.CKM_SHA384_RSA_PKCS, pkcs11.CKM_SHA512_RSA_PKCS} {
		f.set(func() { f.noMechanism[m] = true })
	}
	assert.EqualError(t, gap(pubkey.RSA2048), "RSA-2048 key pairs, RSASSA-PKCS1-v1_5 with SHA-256: C_SignInit: CKR_MECHANISM_INVALID")
	var probed *token.GapError
	require.ErrorAs(t, tok.ProbeKeyPair(t.Context(), pubkey.RSA2048), &probed)
	f.set(func() { f.noMechanism = nil })
	require.NoError(t, tok.ProbeKeyPair(t.Context(), pubkey.P256))
}

// What a token refuses once and then does is no gap: it would switch the kind of key off.
func TestPassingRefusalIsNoGap(t *testing.T) {
	tok, f := openFaulty(t)
	for _, function := range []string{"C_GenerateKeyPair", "C_SignInit", "C_Sign"} {
		f.fail(function, 1, pkcs11.CKR_KEY_TYPE_INCONSISTENT)
		_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P384, randomBytes(t, 16), "label")
		requireRV(t, err, function, pkcs11.CKR_KEY_TYPE_INCONSISTENT)
		var gap *token.GapError
		assert.NotErrorAs(t, err, &gap)
		require.NoError(t, tok.PairGap(pubkey.P384))
		objects, err := tok.Objects(t.Context())
		require.NoError(t, err)
		assert.Empty(t, objects)
	}
}

func TestPairIsUndoneWhenItsCallerHasGone(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	tok := open(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reached, free := f.hang("C_GenerateKeyPair")
	made := make(chan error, 1)
	go func() {
		_, _, err := tok.GenerateKeyPair(ctx, pubkey.P256, make([]byte, 16), "late")
		made <- err
	}()
	<-reached
	cancel()
	var hung *token.HungError
	require.ErrorAs(t, <-made, &hung)
	free()
	<-hung.Done()
	requireClasses(t, tok, make([]byte, 16))
}

func TestPairGenerationIsNeverRepeated(t *testing.T) {
	tok, f := openFaulty(t)
	before := f.count("C_GenerateKeyPair")
	f.fail("C_GenerateKeyPair", 1, pkcs11.CKR_DEVICE_ERROR)
	_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, randomBytes(t, 16), "label")
	requireRV(t, err, "C_GenerateKeyPair", pkcs11.CKR_DEVICE_ERROR)
	assert.Equal(t, before+1, f.count("C_GenerateKeyPair"))
	require.NoError(t, tok.PairGap(pubkey.P256), "which says nothing of what it can do")
	newPair(t, tok, pubkey.P256)
}

// It may take longer than other calls: one that begins later runs into CallTimeout first.
func TestPairGenerationHasPatience(t *testing.T) {
	tok, f, _ := openShort(t)
	key := newKey(t, tok)
	reached, free := f.hang("C_GenerateKeyPair")
	made := make(chan error, 1)
	go func() {
		_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, make([]byte, 16), "slow")
		made <- err
	}()
	<-reached
	_, release := f.hang("C_SignInit")
	_, err := tok.MAC(t.Context(), key, []byte("message"))
	var hung *token.HungError
	require.ErrorAs(t, err, &hung)
	release()
	<-hung.Done()
	free()
	require.NoError(t, <-made)
}

func TestShortSignatureIsRefused(t *testing.T) {
	tok, f := openFaulty(t)
	for _, spec := range []pubkey.Spec{pubkey.RSA2048, pubkey.P256} {
		pair, _ := newPair(t, tok, spec)
		f.set(func() { f.shortTag = true })
		_, err := tok.Sign(t.Context(), pair, spec.Algorithms()[0], []byte("m"))
		assert.ErrorContains(t, err, "bytes instead of")
		f.set(func() { f.shortTag = false })
	}
}

func TestSigningIsRepeatedOnAFreshSession(t *testing.T) {
	tok, f := openFaulty(t)
	pair, public := newPair(t, tok, pubkey.P256)
	f.fail("C_SignInit", 1, pkcs11.CKR_SESSION_HANDLE_INVALID)
	signature, err := tok.Sign(t.Context(), pair, pubkey.ECDSASHA256, []byte("m"))
	require.NoError(t, err)
	assert.NoError(t, public.Verify(pubkey.ECDSASHA256, pubkey.ECDSASHA256.Digest([]byte("m")), signature))
	f.fail("C_SignInit", 1, pkcs11.CKR_KEY_HANDLE_INVALID)
	_, err = tok.Sign(t.Context(), pair, pubkey.ECDSASHA256, []byte("m"))
	require.NoError(t, err, "a stale handle is looked for again")
}
