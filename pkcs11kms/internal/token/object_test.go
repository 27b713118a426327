package token_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// bareSession is a session of another application, which shares the process's login.
func bareSession(t *testing.T, tok *token.Token) (*pkcs11.Ctx, pkcs11.SessionHandle) {
	t.Helper()
	c := pkcs11.New(tok.Info().ModulePath)
	s, err := c.OpenSession(slotOf(t, c, tok.Info().Label), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.CloseSession(s) }) // the token may be closed, and the module with it
	return c, s
}

func TestAttributesOfAGeneratedKey(t *testing.T) {
	tok := newToken(t)
	for name, ctx := range contexts(t) {
		for _, h := range token.Hashes() {
			id := randomBytes(t, 16)
			_, err := tok.GenerateHMACKey(ctx, h, id, "label of "+h.String())
			require.NoError(t, err, name)
			o, err := tok.Describe(ctx, id)
			require.NoError(t, err)
			assert.Equal(t, token.Object{
				Class: pkcs11.CKO_SECRET_KEY, KeyType: pkcs11.CKK_GENERIC_SECRET, Label: "label of " + h.String(), ID: id,
				ValueLen: h.KeyBytes(), Token: true, Private: true, Sensitive: true, AlwaysSensitive: true,
				Extractable: false, NeverExtractable: true, Sign: true, Verify: true, Local: true,
				AllowedMechanisms: []uint{h.Mechanism()},
			}, o)
		}
	}
}

func TestImportedKeyIsKnownAsImported(t *testing.T) {
	tok := newToken(t)
	id := randomBytes(t, 16)
	_, err := tok.ImportHMACKey(t.Context(), token.SHA256, id, "imported", randomBytes(t, 32))
	require.NoError(t, err)
	o, err := tok.Describe(t.Context(), id)
	require.NoError(t, err)
	assert.True(t, o.Sensitive)
	assert.False(t, o.Extractable)
	assert.False(t, o.Local)
	assert.False(t, o.NeverExtractable)
}

func TestValueCannotBeRead(t *testing.T) {
	tok := newToken(t)
	key := newKey(t, tok)
	c, s := bareSession(t, tok)
	require.NoError(t, c.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, key.ID())}))
	found, _, err := c.FindObjects(s, 2)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.NoError(t, c.FindObjectsFinal(s))
	_, err = c.GetAttributeValue(s, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	assert.Equal(t, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_SENSITIVE), err)
	for _, unlock := range []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true)} {
		assert.Equal(t, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_READ_ONLY), c.SetAttributeValue(s, found[0], []*pkcs11.Attribute{unlock}))
	}
}

func TestMissingKey(t *testing.T) {
	tok := newToken(t)
	id := randomBytes(t, 16)
	_, err := tok.Describe(t.Context(), id)
	assert.ErrorIs(t, err, token.ErrKeyMissing)
	assert.ErrorIs(t, tok.DestroyKey(t.Context(), id, "test key"), token.ErrKeyMissing)
	_, err = tok.MAC(t.Context(), tok.HMACKey(token.SHA256, id), []byte("message"))
	assert.ErrorIs(t, err, token.ErrKeyMissing)
	assert.Equal(t, 1, tok.Stats().Open, "the session is kept")
}

func TestDestroyIsExact(t *testing.T) {
	tok := newToken(t)
	one, other := newKey(t, tok), newKey(t, tok)
	c, s := bareSession(t, tok)
	_, err := c.CreateObject(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, "another application's"), pkcs11.NewAttribute(pkcs11.CKA_VALUE, one.ID()),
	})
	require.NoError(t, err)
	_, _, err = c.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, one.ID()),
			pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07})},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, one.ID())})
	require.NoError(t, err)
	before, err := tok.Objects(t.Context())
	require.NoError(t, err)
	require.Len(t, before, 4, "two secret keys and a key pair; the data object is no key")

	assert.ErrorIs(t, tok.DestroyKey(t.Context(), one.ID(), "another label"), token.ErrKeyForeign)
	require.NoError(t, tok.DestroyKey(t.Context(), one.ID(), "test key"))
	assert.ErrorIs(t, tok.DestroyKey(t.Context(), one.ID(), "test key"), token.ErrKeyMissing)
	after, err := tok.Objects(t.Context())
	require.NoError(t, err)
	assert.Len(t, after, 3)
	_, err = tok.MAC(t.Context(), other, []byte("message"))
	assert.NoError(t, err)
}

func TestAmbiguousKeyIsNeitherUsedNorDestroyed(t *testing.T) {
	tok := newToken(t)
	id := randomBytes(t, 16)
	for range 2 {
		_, err := tok.GenerateHMACKey(t.Context(), token.SHA256, id, "twin")
		require.NoError(t, err)
	}
	assert.ErrorIs(t, tok.DestroyKey(t.Context(), id, "twin"), token.ErrKeyAmbiguous)
	_, err := tok.MAC(t.Context(), tok.HMACKey(token.SHA256, id), []byte("message"))
	assert.ErrorIs(t, err, token.ErrKeyAmbiguous)
	_, err = tok.Describe(t.Context(), id)
	assert.ErrorIs(t, err, token.ErrKeyAmbiguous)
	objects, err := tok.Objects(t.Context())
	require.NoError(t, err)
	assert.Len(t, objects, 2)
}

// Another part of the process may have made an object that lasts as long as its session: it is no key of the token.
func TestSessionObjectsAreNoKeys(t *testing.T) {
	tok := newToken(t)
	key := newKey(t, tok)
	c, s := bareSession(t, tok)
	_, err := c.CreateObject(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_ID, key.ID()), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, randomBytes(t, 32)),
	})
	require.NoError(t, err)
	_, err = tok.MAC(t.Context(), tok.HMACKey(token.SHA256, key.ID()), []byte("message"))
	require.NoError(t, err)
	require.NoError(t, tok.DestroyKey(t.Context(), key.ID(), "test key"))
	_, err = tok.Describe(t.Context(), key.ID())
	require.ErrorIs(t, err, token.ErrKeyMissing)
}

func TestObjectsListsEveryKey(t *testing.T) {
	tok := newToken(t)
	none, err := tok.Objects(t.Context())
	require.NoError(t, err)
	assert.Empty(t, none)
	const many = 300 // more than one batch of handles and of descriptions
	want := map[string]bool{}
	for range many {
		want[string(newKey(t, tok).ID())] = true
	}
	for name, ctx := range contexts(t) {
		objects, err := tok.Objects(ctx)
		require.NoError(t, err, name)
		got := map[string]bool{}
		for _, o := range objects {
			got[string(o.ID)] = true
			assert.Equal(t, uint(pkcs11.CKO_SECRET_KEY), o.Class)
		}
		assert.Len(t, objects, many)
		assert.True(t, assert.ObjectsAreEqual(want, got))
	}
}

func TestKeyOfBadArguments(t *testing.T) {
	tok := newToken(t)
	ctx := context.Background()
	_, err := tok.GenerateHMACKey(ctx, token.Hash(7), randomBytes(t, 16), "label")
	assert.ErrorContains(t, err, "Hash(7)")
	_, err = tok.GenerateHMACKey(ctx, token.SHA256, nil, "label")
	assert.ErrorContains(t, err, "CKA_ID has 0 bytes, this token takes 1 to 16")
	_, err = tok.GenerateHMACKey(ctx, token.SHA256, randomBytes(t, 17), "label")
	assert.ErrorContains(t, err, "CKA_ID has 17 bytes, this token takes 1 to 16")
	_, err = tok.ImportHMACKey(ctx, token.SHA256, randomBytes(t, 16), "label", nil)
	assert.ErrorContains(t, err, "its value is empty")
	objects, err := tok.Objects(ctx)
	require.NoError(t, err)
	assert.Empty(t, objects)
}

func TestKeyDoesNotShareItsID(t *testing.T) {
	tok := newToken(t)
	id := randomBytes(t, 16)
	key := tok.HMACKey(token.SHA256, id)
	want := key.ID()
	id[0]++
	key.ID()[1]++
	assert.Equal(t, want, key.ID())
}

func TestErrorClasses(t *testing.T) {
	for _, c := range []struct {
		err                                   token.Error
		stale, lost, sessionOnly, unsupported bool
		text                                  string
	}{
		{err: token.Error{Func: "C_SignInit", RV: pkcs11.CKR_KEY_HANDLE_INVALID}, stale: true, text: "C_SignInit: CKR_KEY_HANDLE_INVALID"},
		{err: token.Error{Func: "C_Sign", RV: pkcs11.CKR_OBJECT_HANDLE_INVALID}, stale: true, text: "C_Sign: CKR_OBJECT_HANDLE_INVALID"},
		{err: token.Error{Func: "C_Sign", RV: pkcs11.CKR_DEVICE_REMOVED}, lost: true, text: "C_Sign: CKR_DEVICE_REMOVED"},
		{err: token.Error{Func: "C_Sign", RV: pkcs11.CKR_SESSION_CLOSED}, lost: true, sessionOnly: true, text: "C_Sign: CKR_SESSION_CLOSED"},
		{err: token.Error{Func: "C_SignInit", RV: pkcs11.CKR_KEY_SIZE_RANGE}, unsupported: true, text: "C_SignInit: CKR_KEY_SIZE_RANGE"},
		{err: token.Error{Func: "C_Sign", RV: 0x80001234}, text: "C_Sign: CKR 0x80001234"},
		{err: token.Error{Func: "C_Sign", RV: 0x7FFF}, text: "C_Sign: CKR 0x7FFF"},
	} {
		assert.Equal(t, c.text, c.err.Error())
		assert.Equal(t, c.stale, c.err.StaleHandle(), c.text)
		assert.Equal(t, c.lost, c.err.DeviceLost(), c.text)
		assert.Equal(t, c.sessionOnly, c.err.SessionLost(), c.text)
		assert.Equal(t, c.unsupported, c.err.Unsupported(), c.text)
	}
}

func TestClassName(t *testing.T) {
	for class, want := range map[uint]string{
		pkcs11.CKO_SECRET_KEY: "CKO_SECRET_KEY", pkcs11.CKO_PRIVATE_KEY: "CKO_PRIVATE_KEY", pkcs11.CKO_PUBLIC_KEY: "CKO_PUBLIC_KEY",
		0x80000001: "CKO 0x80000001",
	} {
		assert.Equal(t, want, token.Object{Class: class}.ClassName())
	}
}

func TestDestroyObjectOfAnyClass(t *testing.T) {
	tok := newToken(t)
	c, s := bareSession(t, tok)
	require.ErrorIs(t, tok.DestroyObject(t.Context(), []byte("none")), token.ErrKeyMissing)
	pair := func(private, public string) {
		onToken := func(id string) []*pkcs11.Attribute {
			return []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, id)}
		}
		p256 := pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07})
		label := pkcs11.NewAttribute(pkcs11.CKA_LABEL, "the public half's alone")
		_, _, err := c.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
			append(onToken(public), p256, label), onToken(private))
		require.NoError(t, err)
	}
	pair("alone", "other")
	pair("both", "both")
	pair("", "named")
	require.EqualError(t, tok.DestroyObject(t.Context(), nil), "destroying an object: its CKA_ID is empty",
		"the empty id names nothing, not even the one object that has none")
	require.ErrorIs(t, tok.DestroyObject(t.Context(), []byte("both")), token.ErrKeyAmbiguous)
	require.NoError(t, tok.DestroyObject(t.Context(), []byte("alone")))
	objects, err := tok.Objects(t.Context())
	require.NoError(t, err)
	var left []string
	for _, o := range objects {
		left = append(left, o.ClassName()+" "+string(o.ID))
		assert.False(t, o.HMACKey(token.SHA256))
	}
	assert.ElementsMatch(t,
		[]string{"CKO_PUBLIC_KEY other", "CKO_PRIVATE_KEY both", "CKO_PUBLIC_KEY both", "CKO_PRIVATE_KEY ", "CKO_PUBLIC_KEY named"}, left)
}

func TestWhatAnObjectAllows(t *testing.T) {
	any, only := token.Object{}, token.Object{AllowedMechanisms: []uint{pkcs11.CKM_SHA256_HMAC}}
	both := token.Object{AllowedMechanisms: []uint{pkcs11.CKM_SHA384_HMAC, pkcs11.CKM_SHA256_HMAC}}
	for _, o := range []token.Object{any, only, both} {
		assert.True(t, o.Allows(token.SHA256))
	}
	assert.False(t, only.Allows(token.SHA384))
	assert.True(t, only.AllowsOnly(token.SHA256))
	assert.False(t, only.AllowsOnly(token.SHA384))
	assert.False(t, any.AllowsOnly(token.SHA256))
	assert.False(t, both.AllowsOnly(token.SHA256))

	own := token.Object{Class: pkcs11.CKO_SECRET_KEY, KeyType: pkcs11.CKK_SHA256_HMAC}
	assert.True(t, own.HMACKey(token.SHA256))
	assert.False(t, own.HMACKey(token.SHA512), "a type for one hash is not for another")
}

// An object that is destroyed while the list is made is left out of it, and the others are there.
func TestObjectDestroyedMeanwhileIsLeftOut(t *testing.T) {
	tok, f := openFaulty(t)
	kept, gone := newKey(t, tok), newKey(t, tok)
	var begun atomic.Bool
	f.on("C_GetAttributeValue", func() error {
		if begun.CompareAndSwap(false, true) {
			return tok.DestroyKey(context.Background(), gone.ID(), "test key")
		}
		return nil
	})
	objects, err := tok.Objects(context.Background())
	require.NoError(t, err)
	require.True(t, begun.Load())
	require.Len(t, objects, 1)
	require.Equal(t, kept.ID(), objects[0].ID)
}

// An attribute that the token does not tell, in whichever words, is zero, and hides none of the others.
func TestWhatIsNotToldIsZero(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	for _, rv := range []uint{pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_SENSITIVE, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID} {
		f.fail("C_GetAttributeValue", 2, rv) // for all at once, and for CKA_CLASS, the first of them
		object, err := tok.Describe(t.Context(), key.ID())
		require.NoError(t, err, "0x%X", rv)
		require.Zero(t, object.Class)
		require.Equal(t, uint(pkcs11.CKK_GENERIC_SECRET), object.KeyType)
		require.Equal(t, "test key", object.Label)
	}
}

// Two halves are of one pair when they are of one CKA_ID, label and type, and one is private and the other public.
func TestHalvesOfOnePair(t *testing.T) {
	private := token.Object{Class: pkcs11.CKO_PRIVATE_KEY, KeyType: pkcs11.CKK_EC, Label: "label", ID: []byte{1}}
	public := private
	public.Class = pkcs11.CKO_PUBLIC_KEY
	require.True(t, public.PublicHalfOf(private))
	for name, change := range map[string]func(*token.Object){
		"class": func(o *token.Object) { o.Class = pkcs11.CKO_SECRET_KEY },
		"type":  func(o *token.Object) { o.KeyType = pkcs11.CKK_RSA },
		"label": func(o *token.Object) { o.Label = "another" },
		"id":    func(o *token.Object) { o.ID = []byte{2} },
	} {
		other := public
		change(&other)
		require.False(t, other.PublicHalfOf(private), "public half of another %s", name)
		other = private
		change(&other)
		require.False(t, public.PublicHalfOf(other), "private half of another %s", name)
	}
}
