package keyring

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEpochNames(t *testing.T) {
	for epoch, name := range map[uint32]string{1: "pkcs11kms/service/seal", 2: "pkcs11kms/service/seal/2",
		4294967295: "pkcs11kms/service/seal/4294967295"} {
		require.Equal(t, name, EpochName(SealKey, epoch))
		read, ok := EpochOf(SealKey, name)
		require.True(t, ok)
		require.Equal(t, epoch, read)
	}
	for _, other := range []string{"", "pkcs11kms/service/sea", "pkcs11kms/service/seal/", "pkcs11kms/service/seal/0",
		"pkcs11kms/service/seal/1",
		"pkcs11kms/service/seal/02", "pkcs11kms/service/seal2", "pkcs11kms/service/seal//2", "pkcs11kms/service/seal/-2",
		"pkcs11kms/service/seal/2 ", "pkcs11kms/service/seal/4294967296", "pkcs11kms/service/seal/2/3",
		"pkcs11kms/service/sealing", AuditKey, SecretsKey + "/2"} {
		_, ok := EpochOf(SealKey, other)
		require.False(t, ok, other)
	}
}
