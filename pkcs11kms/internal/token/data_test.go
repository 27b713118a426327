package token_test

import (
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// dataOf is what is kept under a label.
func dataOf(t *testing.T, tok *token.Token, label string) (texts []string) {
	t.Helper()
	values, err := tok.Data(t.Context(), label)
	require.NoError(t, err)
	for _, value := range values {
		texts = append(texts, string(value))
	}
	return texts
}

// A data object is private, takes the place of those before it, and leaves those of other labels alone. Keys are no data.
func TestDataObjects(t *testing.T) {
	tok := newToken(t)
	_, err := tok.GenerateHMACKey(t.Context(), token.SHA256, randomBytes(t, 16), "mine")
	require.NoError(t, err)
	require.Empty(t, dataOf(t, tok, "mine"))
	for name, ctx := range contexts(t) {
		require.NoError(t, tok.ReplaceData(ctx, "mine", []byte(name)))
		require.NoError(t, tok.ReplaceData(ctx, "other", []byte("other")))
		require.Equal(t, []string{name}, dataOf(t, tok, "mine"))
		require.Equal(t, []string{"other"}, dataOf(t, tok, "other"))
	}
	c, s := bareSession(t, tok)
	require.NoError(t, c.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA)}))
	found, _, err := c.FindObjects(s, 9)
	require.NoError(t, err)
	require.NoError(t, c.FindObjectsFinal(s))
	require.Len(t, found, 2)
	for _, object := range found {
		told, err := c.GetAttributeValue(s, object, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, nil),
			pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, nil), pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, nil)})
		require.NoError(t, err)
		require.Equal(t, []byte{1}, told[0].Value)
		require.Equal(t, []byte{0}, told[1].Value)
		require.Equal(t, "pkcs11kms", string(told[2].Value))
	}
}

// What a process has left that died between the making and the destroying is read with the rest, and goes with the next.
func TestDataObjectsOfADeadProcess(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	tok := open(t, cfg)
	require.NoError(t, tok.ReplaceData(t.Context(), "mine", []byte("one")))
	f.fail("C_DestroyObject", 1, pkcs11.CKR_ACTION_PROHIBITED)
	require.Error(t, tok.ReplaceData(t.Context(), "mine", []byte("two")))
	require.ElementsMatch(t, []string{"one", "two"}, dataOf(t, tok, "mine"))
	require.NoError(t, tok.ReplaceData(t.Context(), "mine", []byte("three")))
	require.Equal(t, []string{"three"}, dataOf(t, tok, "mine"))

	f.fail("C_DestroyObject", 1000, pkcs11.CKR_ACTION_PROHIBITED)
	for range 40 {
		require.Error(t, tok.ReplaceData(t.Context(), "mine", []byte("more")))
	}
	require.Len(t, dataOf(t, tok, "mine"), 16, "a token that keeps all is not filled")
}

// What a token refuses is told from a failure, and a refusal to be told that nobody changes the object is none.
func TestDataObjectsThatATokenRefuses(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	tok := open(t, cfg)
	require.NoError(t, tok.ReplaceData(t.Context(), "mine", []byte("one")))
	for rv, refused := range map[uint]bool{pkcs11.CKR_ATTRIBUTE_VALUE_INVALID: true, pkcs11.CKR_TEMPLATE_INCONSISTENT: true,
		pkcs11.CKR_FUNCTION_NOT_SUPPORTED: true, pkcs11.CKR_TOKEN_WRITE_PROTECTED: true, pkcs11.CKR_DEVICE_MEMORY: false,
		pkcs11.CKR_DEVICE_ERROR: false} {
		f.fail("C_CreateObject", 1000, rv)
		err := tok.ReplaceData(t.Context(), "mine", []byte("two"))
		if refused {
			require.ErrorIs(t, err, token.ErrNoData, rv)
		} else {
			require.Error(t, err)
			require.NotErrorIs(t, err, token.ErrNoData, rv)
		}
		f.on("C_CreateObject", nil)
		require.Equal(t, []string{"one"}, dataOf(t, tok, "mine"), "what was there stays")
	}
	f.fail("C_CreateObject", 1, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
	require.NoError(t, tok.ReplaceData(t.Context(), "mine", []byte("two")))
	f.fail("C_FindObjectsInit", 1, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID)
	require.Empty(t, dataOf(t, tok, "mine"), "a token that knows no such class has none")
}

// What somebody else keeps under the label is not read without limit.
func TestLongDataObjects(t *testing.T) {
	tok := newToken(t)
	require.NoError(t, tok.ReplaceData(t.Context(), "mine", make([]byte, 5000)))
	require.Empty(t, dataOf(t, tok, "mine"))
}
