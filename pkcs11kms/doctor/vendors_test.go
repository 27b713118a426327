package doctor

import (
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// newVendorsConfig makes a token whose module answers as a vendor's does. Commands are those of test/faultp11.
func newVendorsConfig(t *testing.T, commands ...string) (statedir.Config, *faultp11.Module) {
	cfg, tok := newConfigAndToken(t)
	m := faultp11.New(t, tok.Module)
	tok.Module = m.Path
	cfg.Regions = map[string]pkcs11kms.Region{testRegion: {Token: tok.URI(tok.PINFile)}}
	for _, command := range commands {
		m.AtStart(command)
	}
	return cfg, m
}

const noSessionObjects = "on C_GenerateKey,C_GenerateKeyPair fail CKR_ATTRIBUTE_VALUE_INVALID attribute=CKA_TOKEN:00"

// Of a token whose keys cannot be tried before they are made doctor says so, and accuses it of nothing.
func TestDoctorOnATokenWithoutSessionObjects(t *testing.T) {
	cfg, _ := newVendorsConfig(t, noSessionObjects)
	c := openClient(t, cfg)
	mustCreate(t, c, types.KeySpecHmac256)
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	able := r.Regions[0].Token
	require.Equal(t, []string{"HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512",
		"RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"}, able.UntriedKeySpecs)
	require.Empty(t, able.KeySpecs)
	require.Empty(t, able.MissingKeySpecs)
}

// How long a message may be is told where it is less than the API allows.
func TestDoctorTellsTheLongestMessage(t *testing.T) {
	cfg, m := newVendorsConfig(t)
	c := openClient(t, cfg)
	mustCreate(t, c, types.KeySpecHmac256)
	const text = "takes messages of at most 3136 bytes for a MAC; the API has 4096"
	says := func() bool {
		r := examine(t.Context(), cfg)
		require.True(t, r.OK(), "%+v", r.Checks)
		return slices.ContainsFunc(r.find("token", testRegion), func(c Check) bool { return c.Status == StatusWarning && c.Text == text })
	}
	require.False(t, says())
	m.Do("on C_Sign fail CKR_DATA_LEN_RANGE longer=3136")
	m.Do("on C_SignUpdate fail CKR_DATA_LEN_RANGE")
	require.True(t, says())
}
