package pkcs11kms

import (
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// withoutPSS is a token that lacks RSASSA-PSS, in every form.
var withoutPSS = []string{
	"on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_RSA_PKCS_PSS",
	"on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA256_RSA_PKCS_PSS",
	"on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA384_RSA_PKCS_PSS",
	"on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA512_RSA_PKCS_PSS",
}

// A token that lacks algorithms of a spec makes keys of it all the same, which sign by the others, and says so. Sign names the gap, for
// real and as a dry run, also in a process that has made no key; what others have signed is verified, since that takes no token.
func TestOneMissingAlgorithmIsNoMissingSpec(t *testing.T) {
	cfg, m := newVendorsConfig(t, withoutPSS...)
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecRsa2048)
	has, lacks := rsaSigning[:3], rsaSigning[3:]
	require.Equal(t, has, key.SigningAlgorithms)
	require.Equal(t, has, describe(t, c, key.KeyId).SigningAlgorithms)
	public, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
	require.Equal(t, has, public.SigningAlgorithms)
	requireUsable(t, c, key)
	require.NoError(t, c.bridge.Health(t.Context()))

	message := []byte("message")
	sign := func(c *Client, a types.SigningAlgorithmSpec, dry *bool) (*kms.SignOutput, error) {
		return c.Sign(t.Context(), &kms.SignInput{KeyId: key.KeyId, SigningAlgorithm: a, Message: message, DryRun: dry})
	}
	const use = " Use RSASSA_PKCS1_V1_5_SHA_256, RSASSA_PKCS1_V1_5_SHA_384, RSASSA_PKCS1_V1_5_SHA_512."
	for _, a := range lacks {
		for _, dry := range []*bool{nil, aws.Bool(true)} {
			_, err := sign(c, a, dry)
			requireAPIErrorLike(t, err, "UnsupportedOperationException", "SigningAlgorithm "+string(a)+" is not supported by the token: "+
				"RSA-2048 key pairs, RSASSA-PSS with *: C_SignInit: CKR_MECHANISM_INVALID."+use)
		}
	}
	later := openClient(t, cfg)
	require.Equal(t, has, describe(t, later, key.KeyId).SigningAlgorithms, "it is in the store")
	editLearnt(t, c, func(string) string { return "" })
	later = openClient(t, cfg)
	_, err = sign(later, lacks[0], nil)
	requireAPIErrorLike(t, err, "UnsupportedOperationException", "SigningAlgorithm RSASSA_PSS_SHA_256 is not supported by the token: *")
	_, err = sign(later, has[0], nil)
	require.NoError(t, err)

	m.Clear()
	out, err := sign(later, lacks[0], nil)
	require.NoError(t, err)
	_, err = c.Verify(t.Context(), &kms.VerifyInput{KeyId: key.KeyId, SigningAlgorithm: lacks[0], Message: message, Signature: out.Signature})
	require.NoError(t, err, "although this process knows that the token lacks it")
}

// A spec none of whose algorithms work is missing as a whole.
func TestSpecWithoutAnyAlgorithm(t *testing.T) {
	cfg, _ := newVendorsConfig(t, slices.Concat(withoutPSS, []string{
		"on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_RSA_PKCS",
		"on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA256_RSA_PKCS",
		"on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA384_RSA_PKCS",
		"on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA512_RSA_PKCS",
	})...)
	c := openClient(t, cfg)
	for range 2 {
		_, err := create(t, c, types.KeySpecRsa2048)
		requireAPIError(t, err, "UnsupportedOperationException", "KeySpec RSA_2048 is not supported by the token: "+
			"RSA-2048 key pairs, RSASSA-PKCS1-v1_5 with SHA-256: C_SignInit: CKR_MECHANISM_INVALID.")
	}
	requireObjectsOf(t, c, nil)
}

// A token without HMAC whose RSA keys sign by RSASSA-PSS alone can make no proof that is always the same: it is known by its serial.
func TestTokenWhoseSignaturesDifferEachTime(t *testing.T) {
	commands := []string{noHMAC}
	for _, mechanism := range []string{"CKM_RSA_PKCS", "CKM_SHA256_RSA_PKCS", "CKM_SHA384_RSA_PKCS", "CKM_SHA512_RSA_PKCS"} {
		commands = append(commands, "on C_SignInit fail CKR_MECHANISM_INVALID mechanism="+mechanism)
	}
	cfg, _ := newVendorsConfig(t, commands...)
	for range 2 {
		c := openClient(t, cfg)
		key := mustCreate(t, c, types.KeySpecRsa2048)
		require.Equal(t, rsaSigning[3:], key.SigningAlgorithms)
		requireUsable(t, c, key)
		require.NoError(t, c.bridge.Health(t.Context()))
		require.NoError(t, c.Close())
	}
}
