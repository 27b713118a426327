package doctor

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
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
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_ID, ckaID)}))
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
	mac, private, public := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecEccNistP256), mustCreate(t, c, types.KeySpecEccNistP256)
	same := mustCreate(t, c, types.KeySpecHmac256)
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
	for keyID, what := range map[string]string{*mac.KeyId: `CKO_SECRET_KEY has the label "renamed"`, keyring.SecretsKey: `CKO_SECRET_KEY has the label ""`,
		*private.KeyId: `CKO_PRIVATE_KEY has the label "renamed"`, *public.KeyId: `CKO_PUBLIC_KEY has the label "renamed"`} {
		checks := r.find("key", keyID)
		require.Len(t, checks, 2, keyID)
		require.Equal(t, StatusOK, checks[0].Status)
		require.Equal(t, StatusWarning, checks[1].Status)
		require.Equal(t, "its "+what+", and was made with the id of the key as label", checks[1].Text)
		require.Contains(t, checks[1].Hint, "before the key is deleted")
	}
	require.Len(t, r.find("key", *same.KeyId), 1)
	require.Empty(t, r.Regions[0].Unknown)
	_, err := generate(t.Context(), c, mac.KeyId, []byte("m"))
	require.NoError(t, err)
}
