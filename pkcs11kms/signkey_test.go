package pkcs11kms

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

func TestUsagesThatAreNotHere(t *testing.T) {
	c := newClient(t)
	for _, refused := range []struct {
		spec, usage, text string
	}{
		{"RSA_2048", "ENCRYPT_DECRYPT", "KeyUsage ENCRYPT_DECRYPT is not supported. Use SIGN_VERIFY for KeySpec RSA_2048."},
		{"ECC_NIST_P384", "KEY_AGREEMENT", "KeyUsage KEY_AGREEMENT is not supported. Use SIGN_VERIFY for KeySpec ECC_NIST_P384."},
		{"ML_DSA_44", "SIGN_VERIFY", "KeySpec ML_DSA_44 is not supported. Use *"},
		{"SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "KeySpec SYMMETRIC_DEFAULT is not supported. Use *"},
	} {
		_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpec(refused.spec), KeyUsage: types.KeyUsageType(refused.usage)})
		requireAPIErrorLike(t, err, "UnsupportedOperationException", refused.text)
	}
	_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048})
	requireAPIError(t, err, "ValidationException", "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.")
	_, err = c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeKeyAgreement})
	requireAPIError(t, err, "ValidationException", "KeyUsage KEY_AGREEMENT is not compatible with KeySpec RSA_2048")
}

// Both halves go with the key, and no other object.
func TestDeletionOfASigningKey(t *testing.T) {
	cfg := newConfig(t)
	clk := newClock()
	cfg.Now = clk.Now
	c := openClient(t, cfg)
	kept := mustCreate(t, c, types.KeySpecEccNistP256)
	gone := []*types.KeyMetadata{mustCreate(t, c, types.KeySpecEccNistP256), mustCreate(t, c, types.KeySpecEccNistEdwards25519)}
	for _, key := range gone {
		schedule(t, c, key.KeyId, 7)
	}
	clk.Advance(7*day + time.Minute)
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	for _, key := range gone {
		_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
		requireAPIError(t, err, "NotFoundException", "Key '"+*key.Arn+"' does not exist")
	}
	mustSign(t, c, kept, ecdsaSHA256, []byte("m"))
	objects := objectsOf(t, c.region.Token)
	require.Len(t, objects, 2)
	for _, o := range objects {
		require.Equal(t, *kept.KeyId, o.Label)
	}
}

func TestHalfMadeSigningKeys(t *testing.T) {
	for state, spec := range map[keystore.KeyState]pubkey.Spec{keystore.Creating: pubkey.P256, keystore.Deleting: pubkey.Edwards25519} {
		cfg := newConfig(t)
		c := openClient(t, cfg)
		record := halfMade("", state)
		record.Spec, record.Usage = "ECC_NIST_P256", "SIGN_VERIFY"
		if spec == pubkey.Edwards25519 {
			record.Spec = "ECC_NIST_EDWARDS25519"
		}
		dieOver(t, cfg.StorePath, record)
		_, _, err := c.region.Token.GenerateKeyPair(t.Context(), spec, record.CKAID, record.ID)
		require.NoError(t, err)
		other := openClient(t, cfg) // its janitor starts with a pass
		requireNothingHalfMade(t, other, 0)
	}
	for _, step := range []keystore.KeyState{keystore.Creating, keystore.Enabled} {
		c, store, _ := withFaults(t)
		store.hook(failWhen(step), nil)
		_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify})
		require.ErrorIs(t, err, errDisk)
		requireNothingHalfMade(t, c, 0)
	}
}

// A record whose public key is not one is not believed.
func TestDamagedPublicKey(t *testing.T) {
	c := newClient(t)
	key, other := mustCreate(t, c, types.KeySpecEccNistP256), mustCreate(t, c, types.KeySpecEccNistP384)
	record, version := storedKey(t, c, key.KeyId)
	foreign, _ := storedKey(t, c, other.KeyId)
	for _, damaged := range []keystore.HexBytes{nil, record.PublicKey[1:], foreign.PublicKey} {
		record.PublicKey = damaged
		version, _ = c.bridge.core.Cache.Commit(t.Context(), record.Put(version))
		err := verifySignature(t, c, key.KeyId, ecdsaSHA256, []byte("m"), []byte("s"))
		var internal *types.KMSInternalException
		require.ErrorAs(t, err, &internal)
	}
}

// The rates of RSA keys, of curves and of HMAC keys are three (AWS KMS developer guide, "Request quotas").
func TestRatesOfSigning(t *testing.T) {
	cfg := newConfig(t)
	cfg.Quotas.NoRates = false
	clk := newClock()
	cfg.Now = clk.Now
	c := openClient(t, cfg)
	rsa, ecc, mac := mustCreate(t, c, types.KeySpecRsa2048), mustCreate(t, c, types.KeySpecEccNistP256), mustCreate(t, c, types.KeySpecHmac256)
	signature := mustSign(t, c, ecc, ecdsaSHA256, []byte("m"))
	count := func(key *types.KeyMetadata, algorithm types.SigningAlgorithmSpec) (n int) {
		for ; n < 1000; n++ {
			err := verifySignature(t, c, key.KeyId, algorithm, []byte("m"), signature)
			if _, invalid := err.(*types.KMSInvalidSignatureException); err != nil && !invalid {
				requireAPIError(t, err, "ThrottlingException",
					"You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.")
				return n
			}
		}
		return n
	}
	require.Equal(t, 299, count(ecc, ecdsaSHA256), "and the one that Sign took")
	require.Equal(t, 500, count(rsa, pkcs1SHA256))
	_, err := generate(t.Context(), c, mac.KeyId, []byte("m"))
	require.NoError(t, err)
}
