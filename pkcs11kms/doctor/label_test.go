package doctor

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// relabel gives an object of the token another label, as an operator does with another tool.
func relabel(t *testing.T, c *client, class uint, ckaID []byte, label string) {
	t.Helper()
	module := pkcs11.New(c.token().Info().ModulePath)
	slots, err := module.GetSlotList(true)
	require.NoError(t, err)
	s, err := module.OpenSession(slotNamed(t, module, slots, c.token().Info().Label), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	require.NoError(t, err)
	require.NoError(t, module.FindObjectsInit(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_ID, ckaID)}))
	found, _, err := module.FindObjects(s, 2)
	require.NoError(t, err)
	require.NoError(t, module.FindObjectsFinal(s))
	require.Len(t, found, 1)
	require.NoError(t, module.SetAttributeValue(s, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}))
	require.NoError(t, module.CloseSession(s))
}

// Operators relabel objects: that is a warning for each object of our own, and the key works on.
func TestDoctorTellsOfOtherLabels(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	mac, same := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	private, public := mustCreate(t, c, types.KeySpecEccNistP256), mustCreate(t, c, types.KeySpecEccNistP256)
	accessKeys(t, c)
	service, _ := serviceKey(t, c)
	for class, keyID := range map[uint]*string{
		pkcs11.CKO_SECRET_KEY: mac.KeyId, pkcs11.CKO_PRIVATE_KEY: private.KeyId, pkcs11.CKO_PUBLIC_KEY: public.KeyId} {
		record, _ := storedKey(t, c, keyID)
		relabel(t, c, class, record.CKAID, "renamed")
	}
	relabel(t, c, pkcs11.CKO_SECRET_KEY, service.CKAID, "")
	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	for keyID, what := range map[string]string{
		*mac.KeyId: `CKO_SECRET_KEY has the label "renamed"`, keyring.SecretsKey: `CKO_SECRET_KEY has the label ""`,
		*private.KeyId: `CKO_PRIVATE_KEY has the label "renamed"`, *public.KeyId: `CKO_PUBLIC_KEY has the label "renamed"`} {
		checks := r.find("key", keyID)
		require.Len(t, checks, 2, keyID)
		require.Equal(t, StatusOK, checks[0].Status)
		require.Equal(t, StatusWarning, checks[1].Status)
		require.Equal(t, "its "+what+`, and was made with "`+keyID+`"`, checks[1].Text)
		require.Contains(t, checks[1].Hint, "before the key is deleted")
	}
	require.Len(t, r.find("key", *same.KeyId), 1)
	require.Empty(t, r.Regions[0].Unknown)
	_, err := generate(t.Context(), c, mac.KeyId, []byte("m"))
	require.NoError(t, err)
}

// An adopted object had a label of its own, with which its new one is compared: that of a key, or of either half of a pair.
func TestDoctorTellsOfOtherLabelsOfAdoptedObjects(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	adopted := map[uint]string{}
	for class, id := range map[uint]string{pkcs11.CKO_SECRET_KEY: "sixteen bytes 01", pkcs11.CKO_PRIVATE_KEY: "sixteen bytes 02",
		pkcs11.CKO_PUBLIC_KEY: "sixteen bytes 03"} {
		o := AdoptOptions{Label: "theirs " + id, KeySpec: types.KeySpecHmac256}
		var err error
		if class == pkcs11.CKO_SECRET_KEY {
			_, err = c.token().GenerateHMACKey(t.Context(), token.SHA256, []byte(id), o.Label)
		} else {
			o.KeySpec = types.KeySpecEccNistP256
			_, _, err = c.token().GenerateKeyPair(t.Context(), pubkey.P256, []byte(id), o.Label)
		}
		require.NoError(t, err)
		m, _, err := AdoptKey(t.Context(), c.Client, o)
		require.NoError(t, err)
		adopted[class] = *m.KeyId
	}
	for _, keyID := range adopted {
		require.Len(t, examine(t.Context(), cfg).find("key", keyID), 1)
	}
	for class, keyID := range adopted {
		record, _ := storedKey(t, c, &keyID)
		relabel(t, c, class, record.CKAID, "renamed")
		r := examine(t.Context(), cfg)
		require.True(t, r.OK(), "%+v", r.Checks)
		checks := r.find("key", keyID)
		require.Len(t, checks, 2)
		require.Equal(t, StatusWarning, checks[1].Status)
		require.Equal(t, "its adopted "+token.Object{Class: class}.ClassName()+` has the label "renamed", and had "theirs `+string(record.CKAID)+
			`" when it was adopted`, checks[1].Text)
	}
	// What was adopted before labels were kept says nothing of the one that it had.
	keyID := adopted[pkcs11.CKO_SECRET_KEY]
	record, version := storedKey(t, c, &keyID)
	record.Label = ""
	put(t, c, record.Put(version))
	require.Len(t, examine(t.Context(), cfg).find("key", keyID), 1)
}
