package doctor

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// untried returns the key specs that the token of a client lets nobody try.
func untried(t *testing.T, c *client) []types.KeySpec {
	t.Helper()
	u, err := UntriedKeySpecs(t.Context(), c.bridge, testRegion)
	require.NoError(t, err)
	require.Equal(t, testRegion, u.Region)
	require.Equal(t, c.token().Info().Label, u.Token)
	return u.KeySpecs
}

// unfinishedOf returns the records in Creating or Deleting.
func unfinishedOf(t *testing.T, c *client) []keystore.Record {
	t.Helper()
	recs, err := c.inside.Store.Lookup(t.Context(), keystore.IndexUnfinished, "", keystore.Ref{}, 10)
	require.NoError(t, err)
	return recs
}

// What a token lets nobody try otherwise is tried by keys that are made in it, and known from then on. They are destroyed, and nothing is
// left in the store.
func TestProbeTokenObjects(t *testing.T) {
	cfg, m := newVendorsConfig(t, noSessionObjects, "on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA224_HMAC",
		"on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_RSA_PKCS_PSS",
		"on C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA512_RSA_PKCS_PSS")
	c := openClient(t, cfg)
	require.Equal(t, pkcs11kms.KeySpecs(), untried(t, c))
	before, err := c.token().Objects(t.Context())
	require.NoError(t, err)

	probe := func(spec types.KeySpec) Probed {
		p, err := ProbeTokenObjects(t.Context(), c.Client, spec)
		require.NoError(t, err)
		require.Equal(t, spec, p.KeySpec)
		return p
	}
	require.EqualError(t, probe(types.KeySpecHmac224).Gap, "HMAC keys with SHA-224, use: C_SignInit: CKR_MECHANISM_INVALID")
	require.NoError(t, probe(types.KeySpecHmac512).Gap)
	require.Equal(t, Probed{KeySpec: "ECC_NIST_P256", Signs: []types.SigningAlgorithmSpec{"ECDSA_SHA_256"}}, probe(types.KeySpecEccNistP256))
	rsa := probe(types.KeySpecRsa2048)
	require.NoError(t, rsa.Gap)
	require.Len(t, rsa.Signs, 5)
	require.Equal(t, []types.SigningAlgorithmSpec{"RSASSA_PSS_SHA_512"}, rsa.Missing)

	after, err := c.token().Objects(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.Empty(t, unfinishedOf(t, c))
	require.Zero(t, keyCount(t, c), "they count for nobody")
	calls := m.Counters()["C_GenerateKey"].Calls
	_, err = c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecHmac224, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	require.Error(t, err)
	require.Equal(t, calls, m.Counters()["C_GenerateKey"].Calls, "it is known now")

	_, err = ProbeTokenObjects(t.Context(), c.Client, types.KeySpecMlDsa44)
	requireRefused(t, err, `no keys are made of the spec "ML_DSA_44"`)
}

// Where keys end with their session nothing is untried, and finding that out makes nothing in the token.
func TestNothingIsUntriedWhereThereAreSessionObjects(t *testing.T) {
	cfg, m := newVendorsConfig(t)
	c := openClient(t, cfg)
	m.Do("on C_GenerateKey,C_GenerateKeyPair fail CKR_DEVICE_ERROR attribute=CKA_TOKEN:01")
	require.Empty(t, untried(t, c))
}

// While a key is tried a record names its object, so that the janitor of the next process can remove it. What cannot be destroyed at once
// is left to it, too.
func TestProbeIsOnRecord(t *testing.T) {
	cfg, m := newVendorsConfig(t, noSessionObjects)
	c := openClient(t, cfg)
	hang := m.Rule("C_SignInit hang")
	done := make(chan error, 1)
	go func() {
		_, err := ProbeTokenObjects(t.Context(), c.Client, types.KeySpecHmac512)
		done <- err
	}()
	m.Await("C_SignInit", func(n faultp11.Counters) bool { return n.Hanging == 1 })
	recs := unfinishedOf(t, c)
	require.Len(t, recs, 1)
	record, err := keystore.DecodeKey(recs[0])
	require.NoError(t, err)
	require.Equal(t, keystore.Creating, record.State)
	require.Empty(t, record.Account)
	require.Len(t, record.ID, len(unknownID), "as long as the labels of keys are")
	finished, err := c.inside.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Empty(t, finished, "somebody is at it")
	hang.Remove()
	require.NoError(t, <-done)
	require.Empty(t, unfinishedOf(t, c))

	failing := m.Rule("C_DestroyObject fail CKR_ACTION_PROHIBITED")
	_, err = ProbeTokenObjects(t.Context(), c.Client, types.KeySpecHmac512)
	require.ErrorContains(t, err, "C_DestroyObject")
	require.Len(t, unfinishedOf(t, c), 1)
	failing.Remove()
	finished, err = c.inside.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Len(t, finished, 1)
	requireNothingHalfMade(t, c, 0)
}
