package token_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	koblitz "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// newPair makes a key pair in the token.
func newPair(t *testing.T, tok *token.Token, spec pubkey.Spec) (*token.Pair, *pubkey.Key) {
	t.Helper()
	pair, public, err := tok.GenerateKeyPair(t.Context(), spec, randomBytes(t, 16), "test pair")
	require.NoError(t, err)
	return pair, public
}

// judge is Go's own opinion of a signature, from the DER of the public key.
func judge(t *testing.T, spec pubkey.Spec, der []byte, a pubkey.Algorithm, digest, signature []byte) bool {
	t.Helper()
	if spec == pubkey.SECP256K1 {
		key, err := secp256k1.ParsePubKey(der[len(der)-65:])
		require.NoError(t, err)
		parsed, err := koblitz.ParseDERSignature(signature)
		return err == nil && parsed.Verify(digest, key)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	require.NoError(t, err)
	switch key := parsed.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, signature)
	case *rsa.PublicKey:
		require.Equal(t, spec.RSABits(), key.N.BitLen())
		if a.Scheme == pubkey.PSS {
			return rsa.VerifyPSS(key, a.Hash, digest, signature, &rsa.PSSOptions{SaltLength: a.Hash.Size()}) == nil
		}
		return rsa.VerifyPKCS1v15(key, a.Hash, digest, signature) == nil
	}
	t.Fatalf("a public key of type %T", parsed)
	return false
}

func TestKeyPairsSign(t *testing.T) {
	tok := newToken(t)
	message := []byte("a message to sign")
	for _, spec := range pubkey.Specs() {
		pair, public := newPair(t, tok, spec)
		assert.Equal(t, spec, public.Spec())
		read, err := tok.PublicKey(t.Context(), tok.KeyPair(spec, pair.ID()))
		require.NoError(t, err)
		assert.Equal(t, public.DER(), read.DER())
		for _, a := range spec.Algorithms() {
			if a.OfMessage() {
				continue // see edwards_test.go
			}
			for name, ctx := range contexts(t) {
				signature, err := tok.Sign(ctx, pair, a, message)
				require.NoError(t, err, "%v %v %s", spec, a, name)
				assert.True(t, judge(t, spec, public.DER(), a, a.Digest(message), signature), "%v %v", spec, a)
				assert.False(t, judge(t, spec, public.DER(), a, a.Digest([]byte("another")), signature), "%v %v", spec, a)
				assert.NoError(t, public.Verify(a, a.Digest(message), signature))

				signature, err = tok.SignDigest(ctx, tok.KeyPair(spec, pair.ID()), a, a.Digest(message))
				require.NoError(t, err)
				assert.True(t, judge(t, spec, public.DER(), a, a.Digest(message), signature), "%v %v", spec, a)
			}
			_, err := tok.SignDigest(t.Context(), pair, a, make([]byte, a.Hash.Size()-1))
			assert.ErrorContains(t, err, "bytes instead of")
		}
		require.NoError(t, tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair"))
	}
	objects, err := tok.Objects(t.Context())
	require.NoError(t, err)
	assert.Empty(t, objects)
}

func TestPairsOfBadArguments(t *testing.T) {
	tok, other := newToken(t), newToken(t)
	pair, _ := newPair(t, tok, pubkey.P256)
	_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.Spec(99), randomBytes(t, 16), "label")
	assert.ErrorContains(t, err, "Spec(99)")
	_, _, err = tok.GenerateKeyPair(t.Context(), pubkey.P256, randomBytes(t, 17), "label")
	assert.ErrorContains(t, err, "CKA_ID has 17 bytes, this token takes 1 to 16")
	_, err = other.Sign(t.Context(), pair, pubkey.ECDSASHA256, []byte("m"))
	assert.EqualError(t, err, "using a key: it is not a key of this token")
	_, err = other.PublicKey(t.Context(), pair)
	assert.EqualError(t, err, "using a key: it is not a key of this token")
	_, err = tok.Sign(t.Context(), nil, pubkey.ECDSASHA256, []byte("m"))
	assert.EqualError(t, err, "using a key: it is not a key of this token")
	for _, a := range []pubkey.Algorithm{pubkey.PSSSHA256, pubkey.ECDSASHA384, {}} {
		_, err = tok.Sign(t.Context(), pair, a, []byte("m"))
		assert.ErrorContains(t, err, "is no algorithm of P-256")
	}
	_, err = tok.Sign(t.Context(), tok.KeyPair(pubkey.P256, randomBytes(t, 16)), pubkey.ECDSASHA256, []byte("m"))
	assert.ErrorIs(t, err, token.ErrKeyMissing)
}

// An independent client's view of the private key: it signs and does nothing else, and no part of it can be read.
func TestAttributesOfAPair(t *testing.T) {
	tok := newToken(t)
	c, s := bareSession(t, tok)
	for spec, parts := range map[pubkey.Spec][]uint{
		pubkey.RSA2048: {pkcs11.CKA_PRIVATE_EXPONENT, pkcs11.CKA_PRIME_1, pkcs11.CKA_PRIME_2, pkcs11.CKA_EXPONENT_1, pkcs11.CKA_EXPONENT_2,
			pkcs11.CKA_COEFFICIENT},
		pubkey.P256: {pkcs11.CKA_VALUE},
	} {
		pair, _ := newPair(t, tok, spec)
		find := func(class uint) pkcs11.ObjectHandle {
			require.NoError(t, c.FindObjectsInit(s, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_ID, pair.ID()), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)}))
			found, _, err := c.FindObjects(s, 2)
			require.NoError(t, err)
			require.NoError(t, c.FindObjectsFinal(s))
			require.Len(t, found, 1)
			return found[0]
		}
		private, public := find(pkcs11.CKO_PRIVATE_KEY), find(pkcs11.CKO_PUBLIC_KEY)
		truth := func(o pkcs11.ObjectHandle, attribute uint) bool {
			v, err := c.GetAttributeValue(s, o, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
			require.NoError(t, err, "%#x", attribute)
			return bytes.Equal(v[0].Value, []byte{1})
		}
		for _, yes := range []uint{pkcs11.CKA_TOKEN, pkcs11.CKA_PRIVATE, pkcs11.CKA_SENSITIVE, pkcs11.CKA_ALWAYS_SENSITIVE,
			pkcs11.CKA_NEVER_EXTRACTABLE, pkcs11.CKA_SIGN, pkcs11.CKA_LOCAL} {
			assert.True(t, truth(private, yes), "%v %#x", spec, yes)
		}
		assert.False(t, truth(private, pkcs11.CKA_EXTRACTABLE))
		assert.True(t, truth(public, pkcs11.CKA_TOKEN))
		assert.True(t, truth(public, pkcs11.CKA_VERIFY))
		for _, no := range []uint{pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE} {
			assert.False(t, truth(private, no), "%v %#x", spec, no)
		}
		assert.False(t, truth(public, pkcs11.CKA_ENCRYPT))
		assert.False(t, truth(public, pkcs11.CKA_WRAP))
		if spec == pubkey.RSA2048 {
			assert.Equal(t, pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID),
				c.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_X_509, nil)}, private), "a mechanism that we do not use")
		}
		for _, part := range parts {
			_, err := c.GetAttributeValue(s, private, []*pkcs11.Attribute{pkcs11.NewAttribute(part, nil)})
			assert.Equal(t, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_SENSITIVE), err, "%v %#x", spec, part)
		}
		for _, unlock := range []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true)} {
			assert.Equal(t, pkcs11.Error(pkcs11.CKR_ATTRIBUTE_READ_ONLY), c.SetAttributeValue(s, private, []*pkcs11.Attribute{unlock}))
		}
	}
	objects, err := tok.Objects(t.Context())
	require.NoError(t, err)
	require.Len(t, objects, 4)
	for _, o := range objects {
		assert.Equal(t, "test pair", o.Label)
		assert.Len(t, o.ID, 16)
	}
}

// What a private key may not do is said, and not left to the token's default.
func TestPairTemplateForbidsOtherUses(t *testing.T) {
	tok, f := openFaulty(t)
	for spec, uses := range map[pubkey.Spec][]uint{
		pubkey.RSA2048: {pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP, pkcs11.CKA_SIGN_RECOVER}, pubkey.P256: {pkcs11.CKA_DERIVE},
	} {
		newPair(t, tok, spec)
		for _, use := range uses {
			assert.Contains(t, f.private, pkcs11.NewAttribute(use, false), "%v %#x", spec, use)
		}
	}
}

// Of a pair of which another process destroys one half first, the other half is destroyed all the same.
func TestHalfOfAPairIsDestroyedByAnotherMeanwhile(t *testing.T) {
	tok, f := openFaulty(t)
	pair, _ := newPair(t, tok, pubkey.P256)
	f.fail("C_DestroyObject", 1, pkcs11.CKR_OBJECT_HANDLE_INVALID)
	require.NoError(t, tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair"))
	f.fail("C_DestroyObject", 1, pkcs11.CKR_OBJECT_HANDLE_INVALID)
	require.ErrorIs(t, tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair"), token.ErrKeyMissing, "nothing was left to destroy")
}

func TestDestroyKeyPairIsExact(t *testing.T) {
	tok := newToken(t)
	pair, public := newPair(t, tok, pubkey.P256)
	other, _ := newPair(t, tok, pubkey.P256)
	secret := newKey(t, tok)
	destroy := func(label string) error { return tok.DestroyKeyPair(t.Context(), pair.ID(), label) }
	assert.ErrorIs(t, destroy("another label"), token.ErrKeyForeign)
	assert.ErrorIs(t, tok.DestroyKey(t.Context(), pair.ID(), "test pair"), token.ErrKeyMissing, "a pair is no secret key")
	assert.ErrorIs(t, tok.DestroyKeyPair(t.Context(), secret.ID(), "test key"), token.ErrKeyMissing, "and the other way round")
	requireClasses(t, tok, pair.ID(), pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY)

	// A second public key with the id, whoever made it: nothing is destroyed.
	c, s := bareSession(t, tok)
	point := public.DER()[len(public.DER())-65:]
	twin, err := c.CreateObject(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, pair.ID()),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, "test pair"), pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, pubkey.P256.CurveParameters()),
		pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, append([]byte{4, 65}, point...)),
	})
	require.NoError(t, err)
	assert.ErrorIs(t, destroy("test pair"), token.ErrKeyAmbiguous)
	assert.ErrorIs(t, tok.DestroyObject(t.Context(), pair.ID()), token.ErrKeyAmbiguous)
	_, err = tok.PublicKey(t.Context(), pair)
	assert.ErrorIs(t, err, token.ErrKeyAmbiguous)
	require.NoError(t, c.DestroyObject(s, twin))
	requireClasses(t, tok, pair.ID(), pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY)

	require.NoError(t, destroy("test pair"))
	requireClasses(t, tok, pair.ID())
	assert.ErrorIs(t, destroy("test pair"), token.ErrKeyMissing)
	_, err = tok.Sign(t.Context(), pair, pubkey.ECDSASHA256, []byte("m"))
	assert.ErrorIs(t, err, token.ErrKeyMissing)
	_, err = tok.Sign(t.Context(), other, pubkey.ECDSASHA256, []byte("m"))
	assert.NoError(t, err)
	require.NoError(t, tok.DestroyObject(t.Context(), other.ID()), "a pair that nobody names is one thing")
	requireClasses(t, tok, other.ID())
	requireClasses(t, tok, secret.ID(), pkcs11.CKO_SECRET_KEY)
}

// requireClasses asserts which objects have the CKA_ID.
func requireClasses(t *testing.T, tok *token.Token, id []byte, want ...uint) {
	t.Helper()
	objects, err := tok.Objects(t.Context())
	require.NoError(t, err)
	var got []uint
	for _, o := range objects {
		if bytes.Equal(o.ID, id) {
			got = append(got, o.Class)
		}
	}
	require.ElementsMatch(t, want, got)
}

// A remote module may be unable to tell CKA_ALLOWED_MECHANISMS: keys are described, listed and destroyed all the same.
func TestListOfMechanismsThatIsNotTold(t *testing.T) {
	tok, f := openFaulty(t)
	key := newKey(t, tok)
	pair, _ := newPair(t, tok, pubkey.P256)
	f.set(func() { f.untold = pkcs11.CKA_ALLOWED_MECHANISMS })
	o, err := tok.Describe(t.Context(), key.ID())
	require.NoError(t, err)
	assert.True(t, o.Sign && o.Sensitive && o.NeverExtractable)
	assert.Empty(t, o.AllowedMechanisms)
	requireClasses(t, tok, pair.ID(), pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY)
	require.NoError(t, tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair"))
	require.NoError(t, tok.DestroyKey(t.Context(), key.ID(), "test key"))
	f.set(func() { f.untold = pkcs11.CKA_LABEL })
	key = newKey(t, tok)
	_, err = tok.Describe(t.Context(), key.ID())
	requireRV(t, err, "C_GetAttributeValue", pkcs11.CKR_DEVICE_ERROR)
}

// The private half goes first, so that what a call that dies in between leaves behind signs nothing; and the rest can be
// destroyed later.
func TestHalfOfAPairIsDestroyed(t *testing.T) {
	tok, f := openFaulty(t)
	pair, _ := newPair(t, tok, pubkey.P256)
	second := false
	f.on("C_DestroyObject", func() error {
		if second {
			return pkcs11.Error(pkcs11.CKR_DEVICE_MEMORY)
		}
		second = true
		return nil
	})
	requireRV(t, tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair"), "C_DestroyObject", pkcs11.CKR_DEVICE_MEMORY)
	f.on("C_DestroyObject", nil)
	requireClasses(t, tok, pair.ID(), pkcs11.CKO_PUBLIC_KEY)
	require.NoError(t, tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair"))
	requireClasses(t, tok, pair.ID())
}

// A half that has another label is left alone, and does not keep ours alive: whoever has no PIN can relabel a public key.
func TestHalfWithAnotherLabelIsLeftAlone(t *testing.T) {
	tok := newToken(t)
	c, s := bareSession(t, tok)
	for _, halves := range [][2]uint{{pkcs11.CKO_PUBLIC_KEY, pkcs11.CKO_PRIVATE_KEY}, {pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY}} {
		pair, _ := newPair(t, tok, pubkey.P256)
		require.NoError(t, c.FindObjectsInit(s, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_ID, pair.ID()), pkcs11.NewAttribute(pkcs11.CKA_CLASS, halves[0])}))
		found, _, err := c.FindObjects(s, 2)
		require.NoError(t, err)
		require.NoError(t, c.FindObjectsFinal(s))
		require.Len(t, found, 1)
		require.NoError(t, c.SetAttributeValue(s, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, "neighbour's")}))
		for range 2 { // the other half has gone the second time
			assert.ErrorIs(t, tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair"), token.ErrKeyForeign)
			requireClasses(t, tok, pair.ID(), halves[0])
		}
	}
}

func TestBarePointIsUnderstood(t *testing.T) {
	tok, f := openFaulty(t)
	for _, spec := range []pubkey.Spec{pubkey.P256, pubkey.P384, pubkey.P521, pubkey.SECP256K1} {
		pair, public := newPair(t, tok, spec)
		f.set(func() { f.barePoint = true })
		bare, err := tok.PublicKey(t.Context(), pair)
		require.NoError(t, err)
		assert.Equal(t, public.DER(), bare.DER())
		f.set(func() { f.barePoint = false })
	}
}

// A pair that another application has made is tried by every algorithm of its kind.
func TestTryPair(t *testing.T) {
	tok, f := openFaulty(t)
	pair, public := newPair(t, tok, pubkey.RSA2048)
	tried, without, err := tok.TryPair(t.Context(), tok.KeyPair(pubkey.RSA2048, pair.ID()))
	require.NoError(t, err)
	assert.Equal(t, public.DER(), tried.DER())
	assert.Empty(t, without)
	_, _, err = tok.TryPair(t.Context(), tok.KeyPair(pubkey.RSA3072, pair.ID()))
	assert.ErrorContains(t, err, "2048 bits instead of 3072", "it is no pair of that kind")
	_, _, err = newToken(t).TryPair(t.Context(), pair)
	assert.Error(t, err, "another token's")

	f.set(func() {
		f.noMechanism = map[uint]bool{pkcs11.CKM_RSA_PKCS_PSS: true, pkcs11.CKM_SHA512_RSA_PKCS_PSS: true}
	})
	_, without, err = tok.TryPair(t.Context(), pair)
	require.NoError(t, err)
	assert.Equal(t, []pubkey.Algorithm{pubkey.PSSSHA512}, without)
	assert.NoError(t, tok.AlgorithmGap(pubkey.RSA2048, pubkey.PSSSHA512), "which says nothing of pairs that are made here")

	require.NoError(t, tok.DestroyKeyPair(t.Context(), pair.ID(), "test pair"))
	_, _, err = tok.TryPair(t.Context(), pair)
	assert.ErrorIs(t, err, token.ErrKeyMissing)
}

// What a token says of its public key is not believed when it cannot be true: no key is made then.
func TestWrongPublicKeyIsRefused(t *testing.T) {
	tok, f := openFaulty(t)
	flip := func(v []byte) []byte { v = bytes.Clone(v); v[len(v)-1] ^= 1; return v }
	for _, wrong := range []struct {
		spec      pubkey.Spec
		attribute uint
		change    func([]byte) []byte
	}{
		{pubkey.P256, pkcs11.CKA_EC_POINT, flip},
		{pubkey.SECP256K1, pkcs11.CKA_EC_POINT, flip},
		{pubkey.P256, pkcs11.CKA_EC_POINT, func(v []byte) []byte { return v[:len(v)-1] }},
		{pubkey.P256, pkcs11.CKA_EC_PARAMS, flip},
		{pubkey.P256, pkcs11.CKA_EC_PARAMS, func([]byte) []byte { return pubkey.SECP256K1.CurveParameters() }},
		{pubkey.RSA2048, pkcs11.CKA_MODULUS, flip},
		{pubkey.RSA2048, pkcs11.CKA_MODULUS, func(v []byte) []byte { return v[1:] }},
		{pubkey.RSA2048, pkcs11.CKA_MODULUS, func(v []byte) []byte { v = bytes.Clone(v); v[100] ^= 2; return v }},
		{pubkey.RSA2048, pkcs11.CKA_PUBLIC_EXPONENT, func([]byte) []byte { return []byte{3} }},
	} {
		f.set(func() { f.values = map[uint]func([]byte) []byte{wrong.attribute: wrong.change} })
		_, _, err := tok.GenerateKeyPair(t.Context(), wrong.spec, randomBytes(t, 16), "label")
		assert.Error(t, err, "%v %#x", wrong.spec, wrong.attribute)
	}
	f.set(func() { f.values = nil })
	objects, err := tok.Objects(t.Context())
	require.NoError(t, err)
	assert.Empty(t, objects, "nothing is left of them")
}
