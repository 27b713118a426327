package pkcs11kms

import (
	"crypto/fips140"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// What FIPS 140-3 mode refuses is tested by cmd/pkcs11kms/testdata/fips.txt. The tests of this package pass in the mode, too ("make
// test-fips"), with the keys that there are then.

// secg is how ECC_SECG_P256K1 stands in lists of key specs.
var secg = "ECC_SECG_P256K1, "

func init() {
	if fips140.Enabled() {
		secg = ""
		delete(signingTable, types.KeySpecEccSecgP256k1)
	}
}
