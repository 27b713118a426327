package pkcs11kms

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// newVendorsConfig makes a token whose module answers as a vendor's does. Commands are those of test/faultp11.
func newVendorsConfig(t testing.TB, commands ...string) (testConfig, *faultp11.Module) {
	cfg, tok := newConfigAndToken(t)
	m := faultp11.New(t, tok.Module)
	tok.Module = m.Path
	cfg.Regions = map[string]Region{testRegion: {Token: tok.URI(tok.PINFile)}}
	for _, command := range commands {
		m.AtStart(command)
	}
	return cfg, m
}

// yubiHSM2 answers as the YubiHSM's module: keys are objects of the token, of their own types, with ids of two bytes.
var yubiHSM2 = []string{
	"token manufacturer=Yubico%20(www.yubico.com) model=YubiHSM",
	"hmac-types CKR_ATTRIBUTE_VALUE_INVALID",
	"on C_GenerateKey,C_CreateObject fail CKR_ATTRIBUTE_TYPE_INVALID attribute=CKA_VALUE_LEN",
	"on C_GenerateKey,C_GenerateKeyPair,C_CreateObject fail CKR_ATTRIBUTE_VALUE_INVALID attribute=CKA_TOKEN:00",
	"on * fail CKR_ATTRIBUTE_VALUE_INVALID attribute=CKA_ID>2",
	"on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA224_HMAC",
	"on C_Sign,C_SignUpdate fail CKR_DATA_LEN_RANGE longer=3136",
	"sessions 16",
}

// TestTokenWithoutSessionObjects: what cannot be tried beforehand is not refused beforehand. The first key of a spec is the trial.
func TestTokenWithoutSessionObjects(t *testing.T) {
	cfg, m := newVendorsConfig(t, yubiHSM2...)
	c := openClient(t, cfg)
	var keys []string
	for _, spec := range KeySpecs() {
		out, err := create(t, c, spec)
		if spec == types.KeySpecHmac224 {
			requireAPIError(t, err, "UnsupportedOperationException", "KeySpec HMAC_224 is not supported by the token: "+
				"HMAC keys with SHA-224, use: C_SignInit: CKR_MECHANISM_INVALID.")
			continue
		}
		require.NoError(t, err, spec)
		requireUsable(t, c, out.KeyMetadata)
		keys = append(keys, *out.KeyMetadata.KeyId)
	}
	calls := m.Counters()["C_GenerateKey"].Calls
	_, err := create(t, c, types.KeySpecHmac224)
	requireCode(t, err, "UnsupportedOperationException")
	assert.Equal(t, calls, m.Counters()["C_GenerateKey"].Calls, "it is known now")
	requireObjectsOf(t, c, keys)

	requireObjectsOf(t, openClient(t, cfg), keys) // an open makes nothing
}

// TestMessagesThatATokenDoesNotTake: trying again would not help, so the error is one that SDKs do not repeat.
func TestMessagesThatATokenDoesNotTake(t *testing.T) {
	cfg, m := newVendorsConfig(t, yubiHSM2...)
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	long := make([]byte, 4096)
	mac, err := generate(t.Context(), c, key.KeyId, long)
	require.NoError(t, err, "in parts")
	require.NoError(t, verify(t.Context(), c, key.KeyId, long, mac))

	m.Do("on C_SignUpdate fail CKR_DATA_LEN_RANGE") // as the YubiHSM2, which keeps the parts of a message until they are all there
	const text = "The message is longer than the token takes: its limit is less than that of the API."
	_, err = generate(t.Context(), c, key.KeyId, long)
	requireAPIError(t, err, "ValidationException", text)
	requireAPIError(t, verify(t.Context(), c, key.KeyId, long, mac), "ValidationException", text)
	_, err = generate(t.Context(), c, key.KeyId, long[:3136])
	require.NoError(t, err)
	stream, err := c.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
	require.NoError(t, err)
	_, err = stream.Write(long)
	requireAPIError(t, err, "ValidationException", text)
}

// create makes a key of a spec.
func create(t testing.TB, c *Client, spec types.KeySpec) (*kms.CreateKeyOutput, error) {
	usage := types.KeyUsageTypeSignVerify
	if keyring.MACSpecOf(spec) != nil {
		usage = types.KeyUsageTypeGenerateVerifyMac
	}
	return c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
}

// requireUsable has a key make and verify a MAC, or a signature by each of its algorithms.
func requireUsable(t testing.TB, c *Client, key *types.KeyMetadata) {
	t.Helper()
	for _, a := range key.MacAlgorithms {
		out, err := c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: key.KeyId, MacAlgorithm: a, Message: []byte("message")})
		require.NoError(t, err)
		_, err = c.VerifyMac(t.Context(), &kms.VerifyMacInput{KeyId: key.KeyId, MacAlgorithm: a, Message: []byte("message"), Mac: out.Mac})
		require.NoError(t, err)
	}
	for _, a := range key.SigningAlgorithms {
		_, err := c.Verify(t.Context(), &kms.VerifyInput{KeyId: key.KeyId, SigningAlgorithm: a, Message: []byte("message"),
			Signature: mustSign(t, c, key, a, []byte("message"))})
		require.NoError(t, err)
	}
}

// requireObjectsOf asserts that the token holds the objects of the keys, and none beside those of the program's own.
func requireObjectsOf(t testing.TB, c *Client, keys []string) {
	t.Helper()
	objects, err := c.region.Token.Objects(t.Context())
	require.NoError(t, err)
	var labels []string
	for _, o := range objects {
		if !strings.HasPrefix(o.Label, keyring.ServicePrefix) && !slices.Contains(labels, o.Label) {
			labels = append(labels, o.Label)
		}
	}
	require.ElementsMatch(t, keys, labels)
}
