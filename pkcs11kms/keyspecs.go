package pkcs11kms

import (
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// KeySpecs returns the key specs of which CreateKey makes keys, those of HMAC keys first; in FIPS 140-3 mode only those that are
// approved. A token may lack some of them.
func KeySpecs() (names []types.KeySpec) {
	for _, spec := range slices.Concat(keyring.MACSpecs, keyring.SignSpecs) {
		if spec.NotApproved() == nil {
			names = append(names, spec.Name)
		}
	}
	return names
}
