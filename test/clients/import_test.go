package clients

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// boto3 and cryptography import keys of three lengths in the four envelopes, make the MACs that hmac makes, and see AWS's errors.
func TestImportByBoto3(t *testing.T) {
	srv := newServer(t, kmstest.Region("eu-west-1"))
	script, err := filepath.Abs("importkey.py")
	require.NoError(t, err)
	pyJWT.find(t) // has cryptography
	require.JSONEq(t, `{"right": 12, "state": "PendingImport", "refused": [
		["InvalidCiphertextException", "InvalidCiphertextException"],
		["InvalidImportTokenException", "InvalidImportTokenException"],
		["InvalidImportTokenException", "InvalidImportTokenException"],
		["IncorrectKeyMaterialException", "IncorrectKeyMaterialException"],
		["KMSInvalidStateException", "KMSInvalidStateException"],
		["IncorrectKeyMaterialException", "IncorrectKeyMaterialException"]]}`,
		string(run(t, rootEnv(t, srv), boto3.find(t), script)))
}
