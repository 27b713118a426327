package keystore_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/pkcs11kms/bridge/keystore"
)

// Other stores and other programs rely on the numbers of the contract.
func TestBoundsOfTheContract(t *testing.T) {
	assert.Equal(t, 64, keystore.MaxChanges)
	assert.Equal(t, 1000, keystore.MaxPage)
	assert.Equal(t, 262144, keystore.MaxValue)
}
