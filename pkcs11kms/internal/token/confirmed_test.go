package token_test

import (
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// openUnknown opens a token of a vendor that nothing is known of: what its handles are for is read at each use.
func openUnknown(t *testing.T) (*token.Token, *faulty) {
	t.Helper()
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.manufacturer = "A vendor that is not known"
	return open(t, cfg), f
}

// An object of the same CKA_ID and another class is not the key, as one of another type is not.
func TestClassIsConfirmed(t *testing.T) {
	tok, f := openUnknown(t)
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
	tok, f := openUnknown(t)
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

// An object of the same CKA_ID and another type is another key, and is looked for as one.
func TestKeyTypeIsConfirmed(t *testing.T) {
	tok, f := openUnknown(t)
	k := newKey(t, tok)
	_, err := tok.MAC(t.Context(), k, []byte("message"))
	require.NoError(t, err)
	finds := f.count("C_FindObjectsInit")
	f.set(func() {
		f.values = map[uint]func([]byte) []byte{pkcs11.CKA_KEY_TYPE: func(v []byte) []byte { return append([]byte{v[0] + 1}, v[1:]...) }}
	})
	_, err = tok.MAC(t.Context(), k, []byte("message"))
	require.NoError(t, err)
	require.Equal(t, finds+1, f.count("C_FindObjectsInit"))
}

// Where it is known that a stale handle is an error, what a handle is for is read once a second.
func TestHandlesAreConfirmedOnceASecond(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t, noCopies)
		k := newKey(t, tok)
		use := func() int {
			before := f.count("C_GetAttributeValue")
			_, err := tok.MAC(t.Context(), k, []byte("message"))
			require.NoError(t, err)
			return f.count("C_GetAttributeValue") - before
		}
		for range 3 {
			require.Equal(t, 1, use())
			time.Sleep(time.Second - time.Nanosecond) // of the bubble's clock
			require.Zero(t, use())
			time.Sleep(time.Nanosecond)
		}
	})
}

// Of a token that is not known, and of one whose handles are known to be given out again, it is read at each use.
func TestHandlesAreConfirmedAtEachUse(t *testing.T) {
	for _, manufacturer := range []string{"A vendor that is not known", "IBM", "Yubico"} {
		cfg, _ := newConfig(t)
		f := newFaulty(&cfg)
		f.manufacturer = manufacturer
		tok := open(t, cfg)
		k := newKey(t, tok)
		for n := range 3 {
			before := f.count("C_GetAttributeValue")
			_, err := tok.MAC(t.Context(), k, []byte("message"))
			require.NoError(t, err)
			require.Equal(t, 1, f.count("C_GetAttributeValue")-before, "%s, use %d", manufacturer, n)
		}
	}
}

// What cannot be confirmed is not answered.
func TestUnconfirmedMACIsNotAnswered(t *testing.T) {
	tok, f := openFaulty(t)
	k := newKey(t, tok)
	f.fail("C_GetAttributeValue", 100, pkcs11.CKR_ATTRIBUTE_SENSITIVE)
	tag, err := tok.MAC(t.Context(), k, []byte("message"))
	requireRV(t, err, "C_GetAttributeValue", pkcs11.CKR_ATTRIBUTE_SENSITIVE)
	require.Zero(t, len(tag))
}

// A key whose object has gone after it was used is looked for again, like one whose handle was stale before.
func TestObjectThatGoesAfterItsUse(t *testing.T) {
	tok, f := openFaulty(t)
	k := newKey(t, tok)
	want, err := tok.MAC(t.Context(), tok.HMACKey(token.SHA256, k.ID()), []byte("message"))
	require.NoError(t, err)
	finds, signs := f.count("C_FindObjectsInit"), f.count("C_Sign")
	f.fail("C_GetAttributeValue", 1, pkcs11.CKR_OBJECT_HANDLE_INVALID)
	got, err := tok.MAC(t.Context(), k, []byte("message"))
	require.NoError(t, err)
	requireSame(t, want, got, "MAC")
	require.Equal(t, [2]int{finds + 1, signs + 2}, [2]int{f.count("C_FindObjectsInit"), f.count("C_Sign")})
	f.on("C_GetAttributeValue", func() error { return pkcs11.Error(pkcs11.CKR_OBJECT_HANDLE_INVALID) })
	signs = f.count("C_Sign")
	got, err = tok.MAC(t.Context(), tok.HMACKey(token.SHA256, k.ID()), []byte("message"))
	require.ErrorIs(t, err, token.ErrKeyMissing)
	require.Empty(t, len(got))
	require.Equal(t, signs+3, f.count("C_Sign"), "it is not tried for ever")
}

// silent tells no CKA_ID.
type silent struct{ token.Module }

func (m silent) GetAttributeValue(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	values, err := m.Module.GetAttributeValue(s, o, a)
	return values[:min(2, len(values))], err
}

// A module that does not tell what the handle is for is not believed.
func TestModuleThatDoesNotTellTheID(t *testing.T) {
	cfg, _ := newConfig(t)
	cfg.SetWrap(func(m token.Module) token.Module { return silent{m} })
	tok := open(t, cfg)
	got, err := tok.MAC(t.Context(), newKey(t, tok), []byte("message"))
	require.ErrorIs(t, err, token.ErrMalformed)
	require.Empty(t, len(got))
}

// A module that says itself that the handle is stale is not asked what it is for: the key is looked for at once.
func TestStaleHandleIsNotConfirmed(t *testing.T) {
	tok, f := openUnknown(t)
	k := newKey(t, tok)
	_, err := tok.MAC(t.Context(), k, []byte("message"))
	require.NoError(t, err)
	before := f.count("C_GetAttributeValue")
	f.fail("C_SignInit", 1, pkcs11.CKR_KEY_HANDLE_INVALID)
	_, err = tok.MAC(t.Context(), k, []byte("message"))
	require.NoError(t, err)
	require.Equal(t, before+1, f.count("C_GetAttributeValue"), "of the handle that was found then alone")
}
