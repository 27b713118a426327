package doctor

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"github.com/ThalesIgnite/crypto11"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// A key pair of another application signs under management, and what that has signed is valid here.
func TestAdoptKeyPairOfCrypto11(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	digest := sha256.Sum256([]byte("m"))
	var theirs []byte
	byCrypto11(t, tok, func(other *crypto11.Context) {
		pair, err := other.GenerateECDSAKeyPairWithLabel([]byte("their id"), []byte("signer"), elliptic.P256())
		require.NoError(t, err)
		theirs, err = pair.Sign(rand.Reader, digest[:], crypto.SHA256)
		require.NoError(t, err)
	})
	c := openClient(t, cfg)
	m, weak := mustAdopt(t, c, AdoptOptions{Label: "signer", KeySpec: types.KeySpecEccNistP256, DestroyWithKey: true})
	require.Equal(t, []string{"usable with other mechanisms than the signatures of ECC_NIST_P256 keys"}, weak)
	require.Equal(t, m, describe(t, c, m.KeyId))
	require.Equal(t, []types.SigningAlgorithmSpec{types.SigningAlgorithmSpecEcdsaSha256}, m.SigningAlgorithms)
	verify := func(signature []byte) {
		_, err := c.Verify(t.Context(), &kms.VerifyInput{KeyId: m.KeyId, Message: []byte("m"), Signature: signature,
			SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
		require.NoError(t, err)
	}
	verify(theirs)
	ours, err := c.Sign(t.Context(), &kms.SignInput{KeyId: m.KeyId, Message: []byte("m"),
		SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
	require.NoError(t, err)
	verify(ours.Signature)

	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	require.Equal(t, StatusWarning, r.find("key", *m.KeyId)[0].Status)
	require.Contains(t, r.find("key", *m.KeyId)[0].Text, "its adopted object is usable with other mechanisms")
	require.Empty(t, r.Regions[0].Unknown)

	record, version := storedKey(t, c, m.KeyId)
	removed, err := c.inside.Keys.Finish(t.Context(), record, version) // as at the end of a deletion
	require.NoError(t, err)
	require.True(t, removed)
	objects, err := c.token().Objects(t.Context())
	require.NoError(t, err)
	require.Len(t, objects, 1, "both halves are destroyed, and the region's binding key is left")
}

// An adopted pair whose public key is another one by now is an error, as one of our own would be.
func TestDoctorSeesAnotherPublicKeyOfAnAdoptedPair(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	byCrypto11(t, tok, func(other *crypto11.Context) {
		for _, label := range []string{"one", "two"} {
			_, err := other.GenerateECDSAKeyPairWithLabel([]byte(label), []byte(label), elliptic.P256())
			require.NoError(t, err)
		}
	})
	c := openClient(t, cfg)
	one, _ := mustAdopt(t, c, AdoptOptions{Label: "one", KeySpec: types.KeySpecEccNistP256})
	two, _ := mustAdopt(t, c, AdoptOptions{Label: "two", KeySpec: types.KeySpecEccNistP256})
	record, version := storedKey(t, c, one.KeyId)
	other, _ := storedKey(t, c, two.KeyId)
	record.PublicKey = other.PublicKey
	_, err := c.inside.Store.Commit(t.Context(), record.Put(version))
	require.NoError(t, err)
	check := examine(t.Context(), cfg).find("key", *one.KeyId)[0]
	require.Equal(t, StatusError, check.Status)
	require.Contains(t, check.Text, "another public key than the record")
	require.NotContains(t, check.Text, "label", "which was never ours")
}

// What can be adopted is judged by what the object does, whether or not the token could make such a key.
func TestAdoptionIsJudgedByUse(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	byCrypto11(t, tok, func(other *crypto11.Context) { object(t, other, "made", "made by another", 256, nil) })
	m := faultp11.New(t, tok.Module)
	m.AtStart("on C_GenerateKey fail CKR_FUNCTION_NOT_SUPPORTED")
	through := tok
	through.Module = m.Path
	cfg.Regions = map[string]pkcs11kms.Region{testRegion: {Token: through.URI(tok.PINFile)}}
	c := openClient(t, cfg)
	require.Error(t, c.token().Capabilities().For(token.SHA256).Err())
	key, _ := mustAdopt(t, c, AdoptOptions{Label: "made by another", KeySpec: types.KeySpecHmac256})
	_, err := generate(t.Context(), c, key.KeyId, []byte("m"))
	require.NoError(t, err)
}

// A pair is adopted that signs by some algorithms of its kind, and the others are told.
func TestAdoptionOfAPairThatLacksAlgorithms(t *testing.T) {
	cfg, tok := newConfigAndToken(t)
	byCrypto11(t, tok, func(other *crypto11.Context) {
		_, err := other.GenerateRSAKeyPairWithLabel([]byte("their id"), []byte("signer"), 2048)
		require.NoError(t, err)
	})
	m := faultp11.New(t, tok.Module)
	m.AtStart("on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_RSA_PKCS")
	m.AtStart("on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA256_RSA_PKCS")
	m.AtStart("on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA512_RSA_PKCS")
	through := tok
	through.Module = m.Path
	cfg.Regions = map[string]pkcs11kms.Region{testRegion: {Token: through.URI(tok.PINFile)}}
	c := openClient(t, cfg)
	key, weak := mustAdopt(t, c, AdoptOptions{Label: "signer", KeySpec: types.KeySpecRsa2048})
	require.Contains(t, weak, "of no use for RSASSA_PKCS1_V1_5_SHA_256, RSASSA_PKCS1_V1_5_SHA_512")
	sign := func(a types.SigningAlgorithmSpec) error {
		_, err := c.Sign(t.Context(), &kms.SignInput{KeyId: key.KeyId, Message: []byte("m"), SigningAlgorithm: a})
		return err
	}
	var unsupported *types.UnsupportedOperationException
	require.ErrorAs(t, sign(types.SigningAlgorithmSpecRsassaPkcs1V15Sha256), &unsupported)
	require.NoError(t, sign(types.SigningAlgorithmSpecRsassaPkcs1V15Sha384))
	require.True(t, examine(t.Context(), cfg).OK(), "it signs by another algorithm than the first")
}
