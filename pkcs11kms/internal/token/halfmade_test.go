package token_test

import (
	"os"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/halfmade"
)

// left is what a killed process has left in a token: the files of a secret key, two private keys and a public one.
func left(t *testing.T, tok softhsm.TestToken) (files []string) {
	t.Helper()
	for _, kind := range [][2]uint{
		{pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET}, {pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_RSA},
		{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_EC}, {pkcs11.CKO_PUBLIC_KEY, pkcs11.CKK_EC},
	} {
		files = append(files, leave(t, tok, kind[0], kind[1]))
	}
	return files
}

func leave(t *testing.T, tok softhsm.TestToken, class, keyType uint) (file string) {
	t.Helper()
	file, err := halfmade.Leave(tok.ConfigFile, tok.Serial, class, keyType)
	require.NoError(t, err)
	return file
}

// nameless makes what has no CKA_ID and is somebody's: keys of the token, with and without a label, and keys of a session.
func nameless(t *testing.T, tok *token.Token) {
	t.Helper()
	c, s := bareSession(t, tok)
	attribute := pkcs11.NewAttribute
	for _, onToken := range []bool{true, false} {
		for _, more := range [][]*pkcs11.Attribute{{attribute(pkcs11.CKA_LABEL, "a label")}, nil} {
			_, err := c.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, nil)},
				append(more, attribute(pkcs11.CKA_TOKEN, onToken), attribute(pkcs11.CKA_VALUE_LEN, 32)))
			require.NoError(t, err)
		}
		_, _, err := c.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
			[]*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, onToken),
				attribute(pkcs11.CKA_EC_PARAMS, []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07})},
			[]*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, onToken)})
		require.NoError(t, err)
		_, err = c.CreateObject(s, []*pkcs11.Attribute{attribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			attribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET), attribute(pkcs11.CKA_TOKEN, onToken),
			attribute(pkcs11.CKA_VALUE, randomBytes(t, 32))})
		require.NoError(t, err)
		_, err = c.CreateObject(s, []*pkcs11.Attribute{attribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
			attribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA), attribute(pkcs11.CKA_TOKEN, onToken),
			attribute(pkcs11.CKA_MODULUS, randomBytes(t, 256)), attribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})})
		require.NoError(t, err)
	}
}

func classesOf(objects []token.Object) (names []string) {
	for _, o := range objects {
		names = append(names, o.ClassName())
	}
	return names
}

var leftClasses = []string{"CKO_SECRET_KEY", "CKO_PRIVATE_KEY", "CKO_PRIVATE_KEY", "CKO_PUBLIC_KEY"}

func halfMade(t *testing.T, tok *token.Token) token.HalfMade {
	t.Helper()
	found, err := tok.HalfMade(t.Context())
	require.NoError(t, err)
	return found
}

// requireFiles asserts which of the files are there.
func requireFiles(t *testing.T, there bool, files ...string) {
	t.Helper()
	for _, file := range files {
		if there {
			require.FileExists(t, file)
		} else {
			require.NoFileExists(t, file)
		}
	}
}

// What a killed process has left is found and destroyed, and nothing else: not what is somebody's without a CKA_ID.
func TestHalfMadeObjectsAreDestroyed(t *testing.T) {
	cfg, made := newConfig(t)
	tok := open(t, cfg)
	require.Empty(t, halfMade(t, tok).Objects)
	key := newKey(t, tok)
	newPair(t, tok, pubkey.P256)
	nameless(t, tok)
	before, err := tok.Objects(t.Context())
	require.NoError(t, err)
	require.Empty(t, halfMade(t, tok).Objects)

	files := left(t, made)
	seen := halfMade(t, tok)
	require.ElementsMatch(t, leftClasses, classesOf(seen.Objects))
	for _, o := range seen.Objects {
		require.True(t, o.NoID)
	}
	destroyed, err := tok.DestroyHalfMade(t.Context(), seen)
	require.NoError(t, err)
	require.ElementsMatch(t, leftClasses, classesOf(destroyed))
	requireFiles(t, false, files...)
	require.Empty(t, halfMade(t, tok).Objects)
	after, err := tok.Objects(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, after)
	_, err = tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	destroyed, err = tok.DestroyHalfMade(t.Context(), seen)
	require.NoError(t, err)
	require.Empty(t, destroyed)
	destroyed, err = tok.DestroyHalfMade(t.Context(), token.HalfMade{})
	require.NoError(t, err)
	require.Empty(t, destroyed)
}

// What was not there at the first look, or has become a key since, is somebody's who is at work.
func TestHalfMadeObjectsOfTwoLooks(t *testing.T) {
	cfg, made := newConfig(t)
	tok := open(t, cfg)
	old := leave(t, made, pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET)
	finished := leave(t, made, pkcs11.CKO_PUBLIC_KEY, pkcs11.CKK_EC)
	seen := halfMade(t, tok)
	require.Len(t, seen.Objects, 2)

	c, s := bareSession(t, tok)
	require.NoError(t, c.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY)}))
	handles, _, err := c.FindObjects(s, 2)
	require.NoError(t, err)
	require.NoError(t, c.FindObjectsFinal(s))
	require.Len(t, handles, 1)
	require.NoError(t, c.SetAttributeValue(s, handles[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, "an id")}))
	young := leave(t, made, pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET)

	destroyed, err := tok.DestroyHalfMade(t.Context(), seen)
	require.NoError(t, err)
	require.Equal(t, []string{"CKO_SECRET_KEY"}, classesOf(destroyed))
	requireFiles(t, false, old)
	requireFiles(t, true, finished, young)
	require.Len(t, halfMade(t, tok).Objects, 1)
}

// Both looks take their turn: while another process may be making a key nothing is even read.
func TestHalfMadeObjectsInTurn(t *testing.T) {
	cfg, made := newConfig(t)
	cfg.CallTimeout = 50 * time.Millisecond
	f := newFaulty(&cfg)
	tok := open(t, cfg)
	file := leave(t, made, pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET)
	var seen token.HalfMade
	require.Eventually(t, func() (done bool) { // 50 ms are short on a busy machine
		var err error
		seen, err = tok.HalfMade(t.Context())
		return err == nil
	}, patience, tick)
	require.Len(t, seen.Objects, 1)
	unlock, err := lockFile(cfg.SoftHSMConf)
	require.NoError(t, err)
	searches, reads := f.count("C_FindObjectsInit"), f.count("C_GetAttributeValue")
	_, err = tok.HalfMade(t.Context())
	require.ErrorIs(t, err, token.ErrBusy)
	_, err = tok.DestroyHalfMade(t.Context(), seen)
	require.ErrorIs(t, err, token.ErrBusy)
	assert.Equal(t, searches, f.count("C_FindObjectsInit"))
	assert.Equal(t, reads, f.count("C_GetAttributeValue"))
	requireFiles(t, true, file)
	require.NoError(t, unlock())
}

// After the connection was lost nobody knows which objects the first look has found: the module gives its numbers out anew, so that of many
// objects some have the handles of others before.
func TestHalfMadeObjectsAfterALoss(t *testing.T) {
	cfg, made := newConfig(t)
	cfg, m := through(t, cfg, made)
	tok := open(t, cfg)
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	const many = 30
	var files []string
	for range many {
		files = append(files, leave(t, made, pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET))
	}
	seen := halfMade(t, tok)
	require.Len(t, seen.Objects, many)
	m.Do("lose device")
	requireBack(t, tok, key, want)
	destroyed, err := tok.DestroyHalfMade(t.Context(), seen)
	require.NoError(t, err)
	require.Empty(t, destroyed)
	requireFiles(t, true, files...)
	destroyed, err = tok.DestroyHalfMade(t.Context(), halfMade(t, tok))
	require.NoError(t, err)
	require.Len(t, destroyed, many)
}

// What the token does not tell of an object, for good or for now, may be what makes it somebody's.
func TestWhatIsNotToldIsNotHalfMade(t *testing.T) {
	cfg, made := newConfig(t)
	cfg, m := through(t, cfg, made)
	tok := open(t, cfg)
	file := leave(t, made, pkcs11.CKO_PRIVATE_KEY, pkcs11.CKK_EC)
	seen := halfMade(t, tok)
	require.Len(t, seen.Objects, 1)
	for _, attribute := range []string{"CKA_ID", "CKA_LABEL", "CKA_EC_PARAMS"} {
		for _, rv := range []string{"CKR_ATTRIBUTE_SENSITIVE", "CKR_ATTRIBUTE_VALUE_INVALID", "CKR_HOST_MEMORY"} {
			m.Do("on C_GetAttributeValue fail " + rv + " attribute=" + attribute)
			found, _ := tok.HalfMade(t.Context())
			assert.Empty(t, found.Objects, "%s %s", attribute, rv)
			destroyed, _ := tok.DestroyHalfMade(t.Context(), seen)
			assert.Empty(t, destroyed, "%s %s", attribute, rv)
			requireFiles(t, true, file)
			m.Do("clear")
		}
	}
	for _, attribute := range []string{"CKA_ID", "CKA_EC_PARAMS"} { // it goes while it is looked at
		m.Do("on C_GetAttributeValue fail CKR_OBJECT_HANDLE_INVALID attribute=" + attribute)
		found, err := tok.HalfMade(t.Context())
		assert.NoError(t, err, attribute)
		assert.Empty(t, found.Objects, attribute)
		m.Do("clear")
	}
	m.Do("on C_FindObjects fail CKR_HOST_MEMORY")
	_, err := tok.HalfMade(t.Context())
	require.Error(t, err)
	m.Do("clear")
	m.Do("on C_GetAttributeValue fail CKR_ATTRIBUTE_TYPE_INVALID attribute=CKA_ID")
	require.Eventually(t, func() bool {
		found, err := tok.HalfMade(t.Context())
		return err == nil && len(found.Objects) == 1
	}, patience, tick, "it has none")
}

// On a token of another make the same object may be somebody's.
func TestHalfMadeObjectsOfAnotherMake(t *testing.T) {
	cfg, made := newConfig(t)
	cfg, m := through(t, cfg, made)
	m.AtStart("token manufacturer=ACME")
	tok := open(t, cfg)
	file := leave(t, made, pkcs11.CKO_SECRET_KEY, pkcs11.CKK_GENERIC_SECRET)
	require.Empty(t, halfMade(t, tok).Objects)
	_, err := os.Stat(file)
	require.NoError(t, err)
}
