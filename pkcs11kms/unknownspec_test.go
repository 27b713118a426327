package pkcs11kms

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// A key of a spec that another version of the program has made is shown and administrated, and not used.
func TestKeysOfAnUnknownSpec(t *testing.T) {
	c := newClient(t)
	planted := func(i int, spec, usage string) *string {
		record := numbered(i, keystore.Enabled)
		record.Spec, record.Usage, record.Instance = spec, usage, ""
		put(t, c, record.Put(0))
		m := describe(t, c, &record.ID)
		require.Equal(t, types.KeySpec(spec), m.KeySpec)
		require.Empty(t, m.MacAlgorithms)
		require.Empty(t, m.SigningAlgorithms)
		return &record.ID
	}
	mac, signing := planted(1, "HMAC_1024", "GENERATE_VERIFY_MAC"), planted(2, "ML_DSA_44", "SIGN_VERIFY")

	_, err := generate(t.Context(), c, mac, []byte("m"))
	requireAPIError(t, err, "InvalidKeyUsageException", "Algorithm HMAC_SHA_256 is incompatible with key spec HMAC_1024.")
	_, err = c.Sign(t.Context(), &kms.SignInput{KeyId: signing, Message: []byte("m"), SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256})
	requireAPIError(t, err, "InvalidKeyUsageException", "Algorithm ECDSA_SHA_256 is incompatible with key spec ML_DSA_44.")
	_, err = c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: signing})
	requireCode(t, err, "UnsupportedOperationException")
	require.NoError(t, toggle(t.Context(), c, signing, false))
	require.NoError(t, toggle(t.Context(), c, signing, true))
	require.NoError(t, c.Health(t.Context()), "a check finds no fault with them")
}
