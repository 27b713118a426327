package token_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// openAs opens a SoftHSM token that says it is another vendor's.
func openAs(t *testing.T, cfg token.Config, manufacturer, model string) (*token.Token, *faulty) {
	t.Helper()
	cfg.URI = uriOfSerial(t, cfg.URI)
	f := newFaulty(&cfg)
	f.manufacturer, f.model = manufacturer, model
	return open(t, cfg), f
}

func uriOfSerial(t *testing.T, uri string) string {
	t.Helper()
	u, err := token.ParseURI(uri)
	require.NoError(t, err)
	return token.URI{Serial: u.Serial, ModulePath: u.ModulePath, PINFile: u.PINFile}.String()
}

func attributeOf(f *faulty, attribute uint) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.template {
		if a.Type == attribute {
			return a.Value
		}
	}
	return nil
}

func ckUlong(v uint) []byte { return pkcs11.NewAttribute(pkcs11.CKA_CLASS, v).Value }

func TestNShieldKeysHaveTheirOwnType(t *testing.T) {
	cfg, _ := newConfig(t)
	tok, f := openAs(t, cfg, "nCipher Corp. Ltd", "")
	for h, want := range map[token.Hash][2]uint{
		token.SHA224: {0xDE436996, pkcs11.CKK_SHA224_HMAC}, token.SHA256: {0xDE436997, pkcs11.CKK_SHA256_HMAC},
		token.SHA384: {0xDE436998, pkcs11.CKK_SHA384_HMAC}, token.SHA512: {0xDE436999, pkcs11.CKK_SHA512_HMAC},
	} {
		_, err := tok.GenerateHMACKey(t.Context(), h, randomBytes(t, 16), "label")
		requireRV(t, err, "C_GenerateKey", pkcs11.CKR_MECHANISM_INVALID) // SoftHSM does not know it
		assert.Equal(t, want[0], f.mechanism)
		assert.Equal(t, ckUlong(want[1]), attributeOf(f, pkcs11.CKA_KEY_TYPE))
		requireRV(t, tok.Capabilities().For(h).Err(), "C_GenerateKey", pkcs11.CKR_MECHANISM_INVALID) // and the token opens all the same
	}
}

func TestYubiHSMTakesShortIDs(t *testing.T) {
	cfg, _ := newConfig(t)
	id := []byte{0x12, 0x34}
	_, err := open(t, cfg).GenerateHMACKey(t.Context(), token.SHA256, id, "there already")
	require.NoError(t, err)

	tok, f := openAs(t, cfg, "Yubico (www.yubico.com)", "YubiHSM")
	assert.Equal(t, 2, tok.Capabilities().IDBytes)
	_, err = tok.GenerateHMACKey(t.Context(), token.SHA256, randomBytes(t, 16), "label")
	assert.ErrorContains(t, err, "16 bytes")
	opened := f.count("C_OpenSession")
	for range 3 {
		_, err = tok.GenerateHMACKey(t.Context(), token.SHA256, id, "label")
		assert.ErrorIs(t, err, token.ErrKeyExists)
	}
	assert.Equal(t, opened+1, f.count("C_OpenSession"), "the session is kept")
	_, err = tok.GenerateHMACKey(t.Context(), token.SHA256, []byte{0x12, 0x35}, "label")
	requireRV(t, err, "C_GenerateKey", pkcs11.CKR_TEMPLATE_INCONSISTENT) // SoftHSM wants a length
	assert.NotErrorIs(t, err, token.ErrKeyExists)
	assert.Nil(t, attributeOf(f, pkcs11.CKA_VALUE_LEN))
	assert.Equal(t, ckUlong(pkcs11.CKK_SHA256_HMAC), attributeOf(f, pkcs11.CKA_KEY_TYPE))
}

func TestOtherTokensHaveNoQuirks(t *testing.T) {
	cfg, _ := newConfig(t)
	tok, f := openAs(t, cfg, "Yubico (www.yubico.com)", "another product")
	newKey(t, tok)
	assert.Equal(t, uint(pkcs11.CKM_GENERIC_SECRET_KEY_GEN), f.mechanism)
	assert.Equal(t, ckUlong(pkcs11.CKK_GENERIC_SECRET), attributeOf(f, pkcs11.CKA_KEY_TYPE))
	assert.Equal(t, ckUlong(32), attributeOf(f, pkcs11.CKA_VALUE_LEN))
}

func TestTokenWithoutAllowedMechanisms(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.refuse = pkcs11.CKA_ALLOWED_MECHANISMS
	tok := open(t, cfg)
	assert.False(t, tok.Capabilities().AllowedMechanisms)
	key := newKey(t, tok)
	assert.Nil(t, attributeOf(f, pkcs11.CKA_ALLOWED_MECHANISMS))
	_, err := tok.MAC(t.Context(), key, []byte("message"))
	assert.NoError(t, err)
}

func TestProbeLeavesNothingBehind(t *testing.T) {
	tok := newToken(t)
	c, s := bareSession(t, tok)
	require.NoError(t, c.FindObjectsInit(s, nil))
	found, _, err := c.FindObjects(s, 10)
	require.NoError(t, err)
	require.NoError(t, c.FindObjectsFinal(s))
	assert.Empty(t, found)
}

func TestProbeReportsAMissingHash(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.fail("C_SignInit", 1, pkcs11.CKR_MECHANISM_INVALID)
	tok := open(t, cfg)
	caps := tok.Capabilities()
	var e *token.Error
	require.ErrorAs(t, caps.For(token.SHA224).Err(), &e)
	assert.True(t, e.Unsupported())
	for _, h := range []token.Hash{token.SHA256, token.SHA384, token.SHA512} {
		assert.NoError(t, caps.For(h).Err())
	}
	assert.True(t, caps.AllowedMechanisms)
	caps.HMAC[0].Sign = nil
	requireRV(t, tok.Capabilities().For(token.SHA224).Err(), "C_SignInit", pkcs11.CKR_MECHANISM_INVALID) // the result is not shared
}

// opencryptoki is known by its library too: a TPM simulator of IBM's that another library serves is not taken for it.
func TestATokenOfIBMThatIsNotOpencryptoki(t *testing.T) {
	for library, streams := range map[string]bool{"IBM": false, "another.example": true} {
		cfg, _ := newConfig(t)
		cfg.URI = uriOfSerial(t, cfg.URI)
		f := newFaulty(&cfg)
		f.manufacturer, f.model, f.library = "IBM", "SW   TPM", library
		tok := open(t, cfg)
		require.Equal(t, streams, tok.Capabilities().Streams, library)
		require.NoError(t, tok.Close())
	}
}

// tpmLike answers as tpm2-pkcs11 does.
type tpmLike struct{ *faulty }

func (m tpmLike) GenerateKey(pkcs11.SessionHandle, []*pkcs11.Mechanism, []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	return 0, pkcs11.Error(pkcs11.CKR_FUNCTION_NOT_SUPPORTED)
}

func (m tpmLike) GenerateKeyPair(s pkcs11.SessionHandle, mechanism []*pkcs11.Mechanism,
	public, private []*pkcs11.Attribute) (pkcs11.ObjectHandle, pkcs11.ObjectHandle, error) {
	for _, a := range slices.Concat(public, private) {
		switch off := len(a.Value) == 1 && a.Value[0] == 0; {
		case off && a.Type == pkcs11.CKA_TOKEN:
			return 0, 0, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_VALUE_INVALID)
		case off && (a.Type == pkcs11.CKA_ENCRYPT || a.Type == pkcs11.CKA_DECRYPT):
			return 0, 0, pkcs11.Error(pkcs11.CKR_GENERAL_ERROR)
		}
	}
	return m.faulty.GenerateKeyPair(s, mechanism, public, private)
}

func openTPM(t *testing.T, timeout time.Duration) (*token.Token, *faulty) {
	t.Helper()
	cfg, _ := newConfig(t)
	cfg.CallTimeout = timeout
	f := newFaulty(&cfg)
	cfg.URI = uriOfSerial(t, cfg.URI)
	f.manufacturer, f.model, f.library = "IBM", "SW   TPM", "tpm2-software.github.io"
	cfg.SetWrap(func(m token.Module) token.Module {
		f.Module = m
		return tpmLike{f}
	})
	return open(t, cfg), f
}

// tpm2-pkcs11 fails when two processes write at once: they take turns by a lock on the directory of its store.
func TestProcessesTakeTurnsToChangeATPM(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, named := range []string{t.TempDir(), ""} {
		t.Setenv("TPM2_PKCS11_STORE", named)
		store := named
		if named == "" {
			store = filepath.Join(home, ".tpm2_pkcs11")
			require.NoError(t, os.Mkdir(store, 0o700))
		}
		tok, f := openTPM(t, 50*time.Millisecond)
		unlock, err := lockFile(store)
		require.NoError(t, err)
		before := f.count("C_GenerateKeyPair")
		_, _, err = tok.GenerateKeyPair(t.Context(), pubkey.P256, randomBytes(t, 16), "late")
		require.ErrorIs(t, err, token.ErrBusy)
		require.Equal(t, before, f.count("C_GenerateKeyPair"))
		require.NoError(t, unlock())
		newPair(t, tok, pubkey.P256)
	}
}

// A TPM makes pairs that it keeps, of templates that do not part signing from encrypting, and no keys for a trial: what it cannot do is
// known when a pair was to be made.
func TestATPMMakesPairs(t *testing.T) {
	tok, f := openTPM(t, time.Minute)
	requireRV(t, tok.Capabilities().For(token.SHA256).Err(), "C_GenerateKey", pkcs11.CKR_FUNCTION_NOT_SUPPORTED)
	for _, spec := range []pubkey.Spec{pubkey.RSA2048, pubkey.P256} {
		require.ErrorIs(t, tok.ProbeKeyPair(t.Context(), spec), token.ErrUntried, spec)
		require.NoError(t, tok.PairGap(spec))
		newPair(t, tok, spec)
	}
	before := f.count("C_GenerateKeyPair")
	_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P521, randomBytes(t, 16), "label")
	var gap *token.GapError
	require.ErrorAs(t, err, &gap)
	require.ErrorAs(t, tok.PairGap(pubkey.P521), &gap)
	require.ErrorAs(t, tok.ProbeKeyPair(t.Context(), pubkey.P521), &gap)
	require.Equal(t, before, f.count("C_GenerateKeyPair"), "it could not be destroyed again")
	_, err = tok.NewStream(t.Context(), tok.HMACKey(token.SHA256, []byte("adopted")))
	require.ErrorIs(t, err, token.ErrStreamRefused)
	f.set(func() { f.noCurve = pubkey.P384.CurveParameters() })
	_, _, err = tok.GenerateKeyPair(t.Context(), pubkey.P384, randomBytes(t, 16), "label")
	require.ErrorAs(t, err, &gap)
	require.ErrorIs(t, tok.PairGap(pubkey.P384), gap)
}

// leaky tells the value of one of the keys that are made.
type leaky struct {
	token.Module
	told *int // counts down
}

func (m leaky) GetAttributeValue(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	if len(a) == 1 && a[0].Type == pkcs11.CKA_VALUE {
		if *m.told--; *m.told == 0 {
			return []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, []byte("the value"))}, nil
		}
	}
	return m.Module.GetAttributeValue(s, o, a)
}

// One key whose value can be read is enough, whichever it is; and nothing is known where no key could be made.
func TestProbeOfTheValue(t *testing.T) {
	for _, which := range []int{1, 2, 4, 5} { // of the four hashes' keys; the fifth is none
		cfg, _ := newConfig(t)
		told := which
		cfg.SetWrap(func(m token.Module) token.Module { return leaky{m, &told} })
		caps := open(t, cfg).Capabilities()
		require.True(t, caps.ValueTried)
		require.Equal(t, which == 5, caps.ValueReadRefused, which)
	}
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.on("C_GenerateKey", func() error { return pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID) })
	require.False(t, open(t, cfg).Capabilities().ValueTried)
}
