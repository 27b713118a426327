package pkcs11kms

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// A key of a spec that an earlier program does not know breaks that program's lists. So a new spec needs a new version of the
// store, see package sqlite, unless the newest version was never released.
func TestNewKeySpecsNeedANewStoreVersion(t *testing.T) {
	require.Equal(t, 8, sqlite.Version())
	var specs []string
	for _, spec := range append(append([]keyring.Spec(nil), keyring.MACSpecs...), keyring.SignSpecs...) {
		specs = append(specs, string(spec.Name))
	}
	require.Subset(t, []string{"HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512", "RSA_2048", "RSA_3072", "RSA_4096",
		"ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519"}, specs)
}
