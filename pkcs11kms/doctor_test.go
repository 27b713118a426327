package pkcs11kms

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// find returns the checks of an area and subject.
func (r *Report) find(area, subject string) (found []Check) {
	for _, c := range r.Checks {
		if c.Area == area && c.Subject == subject {
			found = append(found, c)
		}
	}
	return found
}

func TestDoctorOnAHealthyBridge(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	require.Len(t, r.Regions, 1)
	region := r.Regions[0]
	require.Equal(t, []string{"HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512",
		"RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"}, region.Token.KeySpecs)
	require.Empty(t, region.Unknown)
	require.Len(t, region.Keys, 1)
	require.Equal(t, *key.KeyId, region.Keys[0].KeyID)
	require.Equal(t, *key.KeyId, region.Keys[0].Object.Label)
	require.Equal(t, 32, region.Keys[0].Object.Length)
	text, err := json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, string(text), `"unknown_objects":[]`)
}

func TestDoctorFinds(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	lost, kept := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac512)
	half := plant(t, c, c.bridge.store.Instance(), "Creating", false)
	defer c.bridge.inProgress.add(half.Ref())()
	foreign := bytes.Repeat([]byte{0xab}, 16)
	_, err := c.region.token.GenerateHMACKey(t.Context(), token.SHA256, foreign, "somebody else's")
	require.NoError(t, err)
	for _, k := range examine(t.Context(), cfg).Regions[0].Keys {
		if k.KeyID == *lost.KeyId {
			require.NoError(t, c.region.token.DestroyKey(t.Context(), unhex(t, k.CKAID), k.KeyID))
		}
	}

	r := examine(t.Context(), cfg)
	require.False(t, r.OK())
	require.Equal(t, StatusError, r.find("key", *lost.KeyId)[0].Status)
	require.Contains(t, r.find("key", *lost.KeyId)[0].Text, "no object in the token")
	require.NotEmpty(t, r.find("key", *lost.KeyId)[0].Hint)
	require.Equal(t, StatusOK, r.find("key", *kept.KeyId)[0].Status)
	require.Equal(t, StatusWarning, r.find("key", half.ID)[0].Status)
	unknown := r.find("object", strings.Repeat("ab", 16))
	require.Len(t, unknown, 1)
	require.Contains(t, unknown[0].Text, "unknown")
	require.Len(t, r.Regions[0].Unknown, 1)

	_, err = generate(t.Context(), c, lost.KeyId, []byte("m"))
	requireAPIError(t, err, "KeyUnavailableException", *lost.Arn+" is unavailable.")
	require.ErrorIs(t, err, token.ErrKeyMissing)
	_, err = c.region.token.Describe(t.Context(), foreign)
	require.NoError(t, err, "left alone")
}

func unhex(t *testing.T, text string) []byte {
	var b []byte
	for i := 0; i+1 < len(text); i += 2 {
		n := strings.IndexByte("0123456789abcdef", text[i])<<4 | strings.IndexByte("0123456789abcdef", text[i+1])
		b = append(b, byte(n))
	}
	require.Len(t, b, 16)
	return b
}

// The report goes as far as it can.
func TestDoctorWithoutATokenOrAStore(t *testing.T) {
	cfg := newConfig(t)
	tok := softhsm.NewToken(t)
	noToken := cfg
	noToken.Regions = map[string]Region{testRegion: {Token: strings.Replace(tok.URI(tok.PINFile), "token=", "token=x", 1)}}
	r := examine(t.Context(), noToken)
	require.False(t, r.OK())
	require.Equal(t, StatusOK, r.find("store", cfg.StorePath)[0].Status)
	require.Equal(t, StatusError, r.find("token", testRegion)[0].Status)
	require.NotEmpty(t, r.find("token", testRegion)[0].Hint)

	noStore := cfg
	noStore.StorePath += ".missing"
	r = examine(t.Context(), noStore)
	require.Equal(t, StatusError, r.find("store", noStore.StorePath)[0].Status)
	require.Equal(t, StatusOK, r.find("token", testRegion)[0].Status)

	r = examine(t.Context(), testConfig{})
	require.Equal(t, "config", r.Checks[0].Area)
}

// Doctor tells of policies that name principals who are gone, and of those that cannot be read.
func TestDoctorReadsKeyPolicies(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	name := roleName("gone")
	role := as(t, c, name)
	dangling, unreadable := mustCreate(t, c, "HMAC_256"), mustCreate(t, c, "HMAC_256")
	putPolicy(t, c, dangling.KeyId, keyPolicy(grant("Allow", role.caller.arn, "kms:GenerateMac")))
	require.Len(t, examine(t.Context(), cfg).find("key", *dangling.KeyId), 1)
	require.NoError(t, c.bridge.DeletePrincipal(t.Context(), name))

	k, err := c.bridge.key(t.Context(), keystore.KeyRef(testRegion, testAccount, *unreadable.KeyId), true)
	require.NoError(t, err)
	record := k.record
	record.Policy = "{"
	_, err = c.bridge.cache.Commit(t.Context(), record.Put(k.version))
	require.NoError(t, err)

	r := examine(t.Context(), cfg)
	require.Equal(t, StatusWarning, r.find("key", *dangling.KeyId)[1].Status)
	require.Contains(t, r.find("key", *dangling.KeyId)[1].Text, role.caller.id)
	require.Equal(t, StatusError, r.find("key", *unreadable.KeyId)[1].Status)
	_, err = generate(t.Context(), c, unreadable.KeyId, []byte("m"))
	require.ErrorContains(t, err, "KMSInternalException")
}
