package token_test

import (
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"
)

// An object of the same CKA_ID and another class is not the key, as one of another type is not.
func TestClassIsConfirmed(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.manufacturer = "A vendor that is not known"
	tok := open(t, cfg)
	k := newKey(t, tok)
	_, err := tok.MAC(t.Context(), k, []byte("message"))
	require.NoError(t, err)
	finds := f.count("C_FindObjectsInit")
	f.set(func() {
		f.values = map[uint]func([]byte) []byte{pkcs11.CKA_CLASS: func([]byte) []byte { return ckUlong(pkcs11.CKO_PRIVATE_KEY) }}
	})
	tag, err := tok.MAC(t.Context(), k, []byte("message"))
	require.Error(t, err, "the object stays of another class, however often it is looked for")
	require.Zero(t, len(tag))
	require.Greater(t, f.count("C_FindObjectsInit"), finds)
	f.set(func() { f.values = nil })
	_, err = tok.MAC(t.Context(), k, []byte("message"))
	require.NoError(t, err)
}

// A handle that ends between its use and its confirmation is no key that is missing: the key is looked for, and used.
func TestHandleThatEndsDuringItsUse(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.manufacturer = "A vendor that is not known"
	tok := open(t, cfg)
	k := newKey(t, tok)
	want, err := tok.MAC(t.Context(), k, []byte("message"))
	require.NoError(t, err)
	for _, rv := range []uint{pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID} {
		finds := f.count("C_FindObjectsInit")
		f.fail("C_GetAttributeValue", 1, rv)
		tag, err := tok.MAC(t.Context(), k, []byte("message"))
		require.NoError(t, err)
		requireSame(t, want, tag, "the MAC")
		require.Equal(t, finds+1, f.count("C_FindObjectsInit"))
	}
}
