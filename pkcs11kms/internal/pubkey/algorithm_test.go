package pubkey_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// The algorithms of a kind are those that AWS KMS pairs with its key spec.
func TestAlgorithmsOfAKind(t *testing.T) {
	for spec, want := range map[pubkey.Spec]string{
		pubkey.P256: "ECDSA with SHA-256", pubkey.P384: "ECDSA with SHA-384", pubkey.P521: "ECDSA with SHA-512",
		pubkey.SECP256K1: "ECDSA with SHA-256",
	} {
		require.Len(t, spec.Algorithms(), 1)
		assert.Equal(t, want, spec.Algorithms()[0].String(), "%v", spec)
	}
	for _, spec := range []pubkey.Spec{pubkey.RSA2048, pubkey.RSA3072, pubkey.RSA4096} {
		var names []string
		for _, a := range spec.Algorithms() {
			names = append(names, a.String())
		}
		assert.ElementsMatch(t, []string{"RSASSA-PKCS1-v1_5 with SHA-256", "RSASSA-PKCS1-v1_5 with SHA-384", "RSASSA-PKCS1-v1_5 with SHA-512",
			"RSASSA-PSS with SHA-256", "RSASSA-PSS with SHA-384", "RSASSA-PSS with SHA-512"}, names, "%v", spec)
	}
}
