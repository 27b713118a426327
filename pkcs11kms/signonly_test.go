package pkcs11kms

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/pkcs11kms/bridge/softhsm"
)

// noHMAC is a token that signs and makes no HMAC keys, as many smart cards and TPMs.
const noHMAC = "on C_GenerateKey fail CKR_MECHANISM_INVALID"

// requireSecrets makes an access key and checks that another process knows its secret.
func requireSecrets(t *testing.T, cfg testConfig) (made iam.AccessKey) {
	t.Helper()
	b := openClient(t, cfg).bridge
	made, err := asRoot(b).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	require.Len(t, made.Secret, 40)
	key, _, err := openClient(t, cfg).bridge.SigningKey(t.Context(), made.ID, testDate, testRegion, "kms")
	require.NoError(t, err)
	require.True(t, key == sigv4.SigningKey(made.Secret, testDate, testRegion, "kms"))
	require.NoError(t, b.Health(t.Context()))
	return made
}

// A token that makes no HMAC keys still serves: the secrets of access keys are made by an RSA pair, whose signatures are the same each
// time.
func TestATokenWithoutHMACKeysServes(t *testing.T) {
	cfg, _ := newVendorsConfig(t, noHMAC)
	first, second := requireSecrets(t, cfg), requireSecrets(t, cfg)
	require.NotEqual(t, first.Secret, second.Secret)
	rec, err := reopen(t, cfg).Get(t.Context(), keystore.KeyRef(testRegion, "", keyring.SecretsKey))
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	require.Equal(t, string(types.KeySpecRsa2048), record.Spec)
}

// Where another region's token makes HMAC keys, the secrets are made there.
func TestSecretsAreMadeWhereThereAreHMACKeys(t *testing.T) {
	cfg, _ := newVendorsConfig(t, noHMAC)
	other := softhsm.NewToken(t)
	cfg.Regions[otherRegion] = Region{Token: other.URI(other.PINFile)}
	cfg.DefaultRegion = testRegion
	requireSecrets(t, cfg)
	require.Equal(t, map[string]int{otherRegion: 1}, serviceKeysIn(t, cfg))
}

// Secrets that were made by a pair stay what they are when a region whose token makes HMAC keys is added.
func TestSecretsStayWhereTheyWereMade(t *testing.T) {
	cfg, _ := newVendorsConfig(t, noHMAC)
	requireSecrets(t, cfg)
	other := softhsm.NewToken(t)
	cfg.Regions[otherRegion] = Region{Token: other.URI(other.PINFile)}
	cfg.DefaultRegion = testRegion
	requireSecrets(t, cfg)
	require.Equal(t, map[string]int{testRegion: 1}, serviceKeysIn(t, cfg))
}
