package token_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Of PKCS #11 3.0, which github.com/miekg/pkcs11 does not have.
const (
	ckkECEdwards = 0x40
	ckmEdDSA     = 0x1057
)

// edwardsKey is the key of a pair for Go's own library.
func edwardsKey(t *testing.T, public *pubkey.Key) ed25519.PublicKey {
	t.Helper()
	parsed, err := x509.ParsePKIXPublicKey(public.DER())
	require.NoError(t, err)
	return parsed.(ed25519.PublicKey)
}

func TestEdwardsPairSignsMessages(t *testing.T) {
	tok := newToken(t)
	pair, public := newPair(t, tok, pubkey.Edwards25519)
	read, err := tok.PublicKey(t.Context(), tok.KeyPair(pubkey.Edwards25519, pair.ID()))
	require.NoError(t, err)
	assert.Equal(t, public.DER(), read.DER())
	for _, message := range [][]byte{[]byte("m"), bytes.Repeat([]byte("message"), 1000)} {
		for name, ctx := range contexts(t) {
			signature, err := tok.Sign(ctx, pair, pubkey.Ed25519SHA512, message)
			require.NoError(t, err, name)
			assert.True(t, ed25519.Verify(edwardsKey(t, public), message, signature))
			assert.NoError(t, public.VerifyMessage(pubkey.Ed25519SHA512, message, signature))
		}
		digest := sha512.Sum512(message)
		_, err := tok.SignDigest(t.Context(), pair, pubkey.Ed25519SHA512, digest[:])
		assert.ErrorIs(t, err, token.ErrDigestRefused)
	}
	require.NoError(t, tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair"))
	requireClasses(t, tok, pair.ID())
	_, err = tok.Sign(t.Context(), pair, pubkey.Ed25519SHA512, []byte("m"))
	assert.ErrorIs(t, err, token.ErrKeyMissing)
}

// TestSignaturesAreThoseOfRFC8032 has the keys of section 7.1 in the token, where nothing but a test puts them. The signatures of
// Ed25519 are the same each time.
func TestSignaturesAreThoseOfRFC8032(t *testing.T) {
	tok := newToken(t)
	c, s := bareSession(t, tok)
	bytesOf := func(text string) []byte {
		b, err := hex.DecodeString(text)
		require.NoError(t, err)
		return b
	}
	for _, v := range []struct{ secret, message, signature string }{
		{"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", "72",
			"92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"},
		{"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7", "af82",
			"6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"},
		{"833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
			"ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
			"dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"},
	} {
		id := randomBytes(t, 16)
		_, err := c.CreateObject(s, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, ckkECEdwards),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, id), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
			pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, pubkey.Edwards25519.CurveParameters()),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE, bytesOf(v.secret)),
		})
		require.NoError(t, err)
		signature, err := tok.Sign(t.Context(), tok.KeyPair(pubkey.Edwards25519, id), pubkey.Ed25519SHA512, bytesOf(v.message))
		require.NoError(t, err)
		assert.Equal(t, v.signature, hex.EncodeToString(signature))
	}
}

// SoftHSM lets a private key of an Edwards curve sign by ECDSA, unless it is told what the key is for.
func TestEdwardsKeyIsForEdDSAAlone(t *testing.T) {
	tok := newToken(t)
	c, s := bareSession(t, tok)
	pair, _ := newPair(t, tok, pubkey.Edwards25519)
	require.NoError(t, c.FindObjectsInit(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_ID, pair.ID()), pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}))
	found, _, err := c.FindObjects(s, 2)
	require.NoError(t, err)
	require.NoError(t, c.FindObjectsFinal(s))
	require.Len(t, found, 1)
	for attribute, want := range map[uint]byte{pkcs11.CKA_SENSITIVE: 1, pkcs11.CKA_NEVER_EXTRACTABLE: 1, pkcs11.CKA_SIGN: 1,
		pkcs11.CKA_EXTRACTABLE: 0, pkcs11.CKA_DECRYPT: 0, pkcs11.CKA_UNWRAP: 0, pkcs11.CKA_DERIVE: 0} {
		v, err := c.GetAttributeValue(s, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
		require.NoError(t, err)
		assert.Equal(t, []byte{want}, v[0].Value, "%#x", attribute)
	}
	_, err = c.GetAttributeValue(s, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	assert.Equal(t, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_SENSITIVE), err)
	assert.Equal(t, pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID),
		c.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, found[0]))
}

// TestFalsePrehashIsRefused: SoftHSM passes over phFlag, and so do tokens that answer anything else. A token that heeds it is none
// of those that run here, so a private key of the test stands behind a real token's calls.
func TestFalsePrehashIsRefused(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	plain := func(data []byte) []byte { return ed25519.Sign(private, data) }
	prehashed := func(digest []byte, context string) []byte {
		signature, err := private.Sign(nil, digest, &ed25519.Options{Hash: crypto.SHA512, Context: context})
		require.NoError(t, err)
		return signature
	}
	hash := func(data []byte) []byte { sum := sha512.Sum512(data); return sum[:] }
	for name, answer := range map[string]struct {
		ofFlag func(data []byte) []byte // what the token signs when phFlag is set
		heeds  bool
	}{
		"plain":            {plain, false},
		"of the hash":      {func(data []byte) []byte { return plain(hash(data)) }, false},
		"a context":        {func(data []byte) []byte { return prehashed(hash(data), "context") }, false},
		"hashed twice":     {func(data []byte) []byte { return prehashed(hash(hash(data)), "") }, false},
		"another length":   {func(data []byte) []byte { return prehashed(hash(data), "")[:63] }, false},
		"the prehash mode": {func(data []byte) []byte { return prehashed(hash(data), "") }, true},
	} {
		cfg, _ := newConfig(t)
		f := newFaulty(&cfg)
		f.values = map[uint]func([]byte) []byte{pkcs11.CKA_EC_POINT: func([]byte) []byte { return public }}
		f.signs = func(params, data []byte) []byte {
			if len(params) > 0 {
				require.Equal(t, append([]byte{1}, make([]byte, len(params)-1)...), params)
				return answer.ofFlag(data)
			}
			return plain(data)
		}
		tok := open(t, cfg)
		assert.Equal(t, answer.heeds, makes(tok, pubkey.Ed25519phSHA512), name)
		assert.True(t, makes(tok, pubkey.Ed25519SHA512))
		pair, read := newPair(t, tok, pubkey.Edwards25519)
		signature, err := tok.Sign(t.Context(), pair, pubkey.Ed25519phSHA512, []byte("m"))
		if !answer.heeds {
			var gap *token.GapError
			assert.ErrorAs(t, err, &gap, name)
			continue
		}
		require.NoError(t, err)
		assert.NoError(t, ed25519.VerifyWithOptions(public, hash([]byte("m")), signature, &ed25519.Options{Hash: crypto.SHA512}))
		assert.NoError(t, read.VerifyMessage(pubkey.Ed25519phSHA512, []byte("m"), signature))
	}
	tok := newToken(t) // SoftHSM as it is
	assert.False(t, makes(tok, pubkey.Ed25519phSHA512))
}

func makes(tok *token.Token, a pubkey.Algorithm) bool { return tok.Makes(pubkey.Edwards25519, a) }

// TestFormsOfEdwardsKeys: tokens name the curve and write the point in more ways than one.
func TestFormsOfEdwardsKeys(t *testing.T) {
	tok, f := openFaulty(t)
	oid, name := []byte{6, 3, 0x2b, 0x65, 0x70}, append([]byte{0x13, 12}, "edwards25519"...)
	for _, refused := range [][]byte{oid, name} {
		f.set(func() { f.noCurve = refused })
		pair, public := newPair(t, tok, pubkey.Edwards25519)
		signature, err := tok.Sign(t.Context(), pair, pubkey.Ed25519SHA512, []byte("m"))
		require.NoError(t, err)
		assert.True(t, ed25519.Verify(edwardsKey(t, public), []byte("m"), signature))
	}
	pair, public := newPair(t, tok, pubkey.Edwards25519)
	reads := func(attribute uint, change func([]byte) []byte) error {
		f.set(func() { f.values = map[uint]func([]byte) []byte{attribute: change} })
		got, err := tok.PublicKey(t.Context(), pair)
		if err == nil {
			assert.Equal(t, public.DER(), got.DER())
		}
		return err
	}
	point := edwardsKey(t, public)
	for _, form := range [][]byte{point, append([]byte{4, 32}, point...), append([]byte{3, 33, 0}, point...)} {
		assert.NoError(t, reads(pkcs11.CKA_EC_POINT, func([]byte) []byte { return form }), "%x", form)
	}
	for _, form := range [][]byte{nil, point[1:], append([]byte{4, 33}, point...), append([]byte{4, 31}, point...),
		append([]byte{3, 33, 1}, point...), append([]byte{4, 32, 0}, point...), make([]byte, 32), append([]byte{4, 33, 4}, point...)} {
		assert.ErrorContains(t, reads(pkcs11.CKA_EC_POINT, func([]byte) []byte { return form }), "reading an Ed25519 public key: it ", "%x", form)
	}
	for _, curve := range [][]byte{oid, name} {
		assert.NoError(t, reads(pkcs11.CKA_EC_PARAMS, func([]byte) []byte { return curve }))
	}
	for _, curve := range [][]byte{nil, {6, 3, 0x2b, 0x65, 0x71}, {6, 3, 0x2b, 0x65, 0x6e}, append([]byte{0x0c, 12}, "edwards25519"...),
		pubkey.P256.CurveParameters()} {
		assert.ErrorContains(t, reads(pkcs11.CKA_EC_PARAMS, func([]byte) []byte { return curve }),
			"its CKA_EC_PARAMS is not that of edwards25519", "%x", curve)
	}
	f.set(func() {
		f.values = map[uint]func([]byte) []byte{pkcs11.CKA_EC_POINT: func(v []byte) []byte { return point }}
	})
	_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.Edwards25519, randomBytes(t, 16), "label")
	var gap *token.GapError
	assert.ErrorAs(t, err, &gap, "a public key that is another pair's")
}

// TestTokenWithoutEdDSA is known from Open on.
func TestTokenWithoutEdDSA(t *testing.T) {
	for name, lack := range map[string]func(*faulty){
		"C_GenerateKeyPair: CKR_MECHANISM_INVALID": func(f *faulty) { f.fail("C_GenerateKeyPair", 2, pkcs11.CKR_MECHANISM_INVALID) },
		"C_SignInit: CKR_MECHANISM_INVALID":        func(f *faulty) { f.noMechanism = map[uint]bool{ckmEdDSA: true} },
	} {
		cfg, _ := newConfig(t)
		f := newFaulty(&cfg)
		lack(f)
		tok := open(t, cfg)
		assert.ErrorContains(t, tok.PairGap(pubkey.Edwards25519), name)
		assert.False(t, makes(tok, pubkey.Ed25519phSHA512))
		objects, err := tok.Objects(t.Context())
		require.NoError(t, err)
		assert.Empty(t, objects)
	}
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.fail("C_GenerateKeyPair", 1, pkcs11.CKR_DEVICE_MEMORY)
	tok := open(t, cfg)
	assert.NoError(t, tok.PairGap(pubkey.Edwards25519), "which says nothing of what it can do")
	newPair(t, tok, pubkey.Edwards25519)
}

func TestShortEdwardsSignatureIsRefused(t *testing.T) {
	tok, f := openFaulty(t)
	pair, _ := newPair(t, tok, pubkey.Edwards25519)
	f.set(func() { f.shortTag = true })
	_, err := tok.Sign(t.Context(), pair, pubkey.Ed25519SHA512, []byte("m"))
	assert.ErrorContains(t, err, "63 bytes instead of 64")
}
