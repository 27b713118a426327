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
	cfg, m := newVendorsConfig(t, noSessionObjects)
	c := openClient(t, cfg)
	mustCreate(t, c, types.KeySpecHmac256)
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	able := r.Regions[0].Token
	require.Equal(t, []string{"HMAC_224", "HMAC_384", "HMAC_512",
		"RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"}, able.UntriedKeySpecs)
	require.Equal(t, []string{"HMAC_256"}, able.KeySpecs, "one was made")
	require.Empty(t, able.MissingKeySpecs)

	m.Do("on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA224_HMAC")
	p, err := ProbeTokenObjects(t.Context(), c.Client, types.KeySpecHmac224)
	require.NoError(t, err)
	require.Error(t, p.Gap)
	r = examine(t.Context(), cfg)
	require.Equal(t, []string{"HMAC_224"}, r.Regions[0].Token.MissingKeySpecs, "another process knows it, too")
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

// Algorithms that the token lacks are listed by themselves, and their spec among those that it can do; also those of an adopted pair alone.
func TestDoctorListsMissingAlgorithms(t *testing.T) {
	cfg, m := newVendorsConfig(t)
	c := openClient(t, cfg)
	mustCreate(t, c, types.KeySpecRsa2048)
	require.Equal(t, map[string][]types.SigningAlgorithmSpec{"ECC_NIST_EDWARDS25519": {"ED25519_PH_SHA_512"}},
		examine(t.Context(), cfg).Regions[0].Token.MissingAlgorithms)
	for _, mechanism := range []string{"CKM_RSA_PKCS", "CKM_SHA256_RSA_PKCS", "CKM_SHA384_RSA_PKCS", "CKM_SHA512_RSA_PKCS"} {
		m.Do("on C_SignInit fail CKR_MECHANISM_INVALID mechanism=" + mechanism)
	}
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	able := r.Regions[0].Token
	require.Contains(t, able.KeySpecs, "RSA_2048")
	require.Empty(t, able.MissingKeySpecs)
	require.Equal(t, []types.SigningAlgorithmSpec{"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512"},
		able.MissingAlgorithms["RSA_2048"])
	require.Contains(t, r.find("token", testRegion), Check{Area: "token", Subject: testRegion, Status: StatusWarning,
		Text: "its RSA_2048 keys sign by RSASSA_PSS_SHA_256, RSASSA_PSS_SHA_384, RSASSA_PSS_SHA_512, and not by RSASSA_PKCS1_V1_5_SHA_256, " +
			"RSASSA_PKCS1_V1_5_SHA_384, RSASSA_PKCS1_V1_5_SHA_512: RSA-2048 key pairs, RSASSA-PKCS1-v1_5 with SHA-256: " +
			"C_SignInit: CKR_MECHANISM_INVALID",
		Hint: "CreateKey makes keys of this spec, and Sign refuses these algorithms; use the others"})
}
