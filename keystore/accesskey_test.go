package keystore_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// The list of an owner's access keys is read from the index: what was deleted stays as a tombstone, and is in no list.
func TestAccessKeyThatWasDeletedIsInNoIndex(t *testing.T) {
	k := keystore.AccessKey{ID: "AKIAABCDEFGHIJKLMNOP", Account: "111122223333", Owner: "AIDAABCDEFGHIJKLMNOPQ",
		Created: time.Date(2026, 11, 22, 10, 11, 12, 0, time.UTC)}
	for status, want := range map[keystore.AccessKeyStatus][]keystore.Entry{
		keystore.AccessKeyActive:   {{Index: "access-key-owner", Value: "111122223333/AIDAABCDEFGHIJKLMNOPQ"}},
		keystore.AccessKeyInactive: {{Index: "access-key-owner", Value: "111122223333/AIDAABCDEFGHIJKLMNOPQ"}},
		keystore.AccessKeyDeleted:  nil,
	} {
		k.Status = status
		c := k.Put(3)
		assert.Equal(t, want, c.Index, status)
		assert.Equal(t, keystore.Ref{Kind: "access-key", ID: "AKIAABCDEFGHIJKLMNOP"}, c.Ref)
		back, err := keystore.DecodeAccessKey(record(c))
		require.NoError(t, err)
		assert.Equal(t, k, back)
	}
}
