package token_test

import (
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// noPSS is what a token without RSASSA-PSS refuses.
func noPSS() map[uint]bool {
	return map[uint]bool{pkcs11.CKM_RSA_PKCS_PSS: true, pkcs11.CKM_SHA256_RSA_PKCS_PSS: true, pkcs11.CKM_SHA384_RSA_PKCS_PSS: true,
		pkcs11.CKM_SHA512_RSA_PKCS_PSS: true}
}

func requireGap(t *testing.T, err error, text string) {
	t.Helper()
	var gap *token.GapError
	require.ErrorAs(t, err, &gap)
	require.EqualError(t, gap, text)
}

const pssGap = "RSA-2048 key pairs, RSASSA-PSS with SHA-256: C_SignInit: CKR_MECHANISM_INVALID"

// A pair is made that lacks algorithms of its kind, and signs by the others. What it lacks is known, and tried again after a while.
func TestOneMissingAlgorithmIsNoMissingKind(t *testing.T) {
	tok, f := openFaulty(t)
	f.set(func() { f.noMechanism = noPSS() })
	pair, public := newPair(t, tok, pubkey.RSA2048)
	require.NoError(t, tok.PairGap(pubkey.RSA2048))
	for _, a := range pubkey.RSA2048.Algorithms() {
		calls := f.count("C_SignInit")
		signature, err := tok.Sign(t.Context(), pair, a, []byte("m"))
		if a.Scheme == pubkey.PSS {
			require.Error(t, err, a)
			require.Equal(t, calls, f.count("C_SignInit"), "it is known")
			require.False(t, tok.Makes(pubkey.RSA2048, a))
			continue
		}
		require.NoError(t, err, a)
		require.NoError(t, public.VerifyMessage(a, []byte("m"), signature))
		require.True(t, tok.Makes(pubkey.RSA2048, a))
	}
	sign := func() error {
		_, err := tok.Sign(t.Context(), pair, pubkey.PSSSHA256, []byte("m"))
		return err
	}
	requireGap(t, sign(), pssGap)
	require.True(t, tok.Makes(pubkey.RSA3072, pubkey.PSSSHA256), "of another kind nothing is known")

	tok.AgeGaps(10 * time.Minute)
	calls := f.count("C_SignInit")
	requireGap(t, sign(), pssGap)
	require.Greater(t, f.count("C_SignInit"), calls, "it is tried again")
	calls = f.count("C_SignInit")
	requireGap(t, sign(), pssGap)
	require.Equal(t, calls, f.count("C_SignInit"), "and believed again")

	f.set(func() { f.noMechanism = nil })
	tok.AgeGaps(10 * time.Minute)
	require.False(t, tok.Makes(pubkey.RSA2048, pubkey.PSSSHA256))
	require.NoError(t, sign())
	require.True(t, tok.Makes(pubkey.RSA2048, pubkey.PSSSHA256))
}

// A process that has made no such pair is told by the token itself, and remembers nothing: it may be this one key that is not allowed to.
func TestRefusedAlgorithmOfAPairThatIsThere(t *testing.T) {
	tok, f := openFaulty(t)
	pair, _ := newPair(t, tok, pubkey.RSA2048)
	f.set(func() { f.noMechanism = noPSS() })
	_, err := tok.Sign(t.Context(), pair, pubkey.PSSSHA256, []byte("m"))
	requireGap(t, err, pssGap)
	require.True(t, tok.Makes(pubkey.RSA2048, pubkey.PSSSHA256))
	f.set(func() { f.noMechanism = nil })
	_, err = tok.Sign(t.Context(), pair, pubkey.PSSSHA256, []byte("m"))
	require.NoError(t, err)
}

// One refusal that passes takes no algorithm away, from a new pair or from one that is used.
func TestPassingRefusalOfAnAlgorithm(t *testing.T) {
	cfg, m := newConfigThrough(t)
	tok := open(t, cfg)
	m.Fail("C_SignInit", pkcs11.CKR_MECHANISM_INVALID, "times=1", "mechanism=CKM_RSA_PKCS_PSS")
	m.Fail("C_SignInit", pkcs11.CKR_MECHANISM_INVALID, "times=1", "mechanism=CKM_SHA256_RSA_PKCS_PSS")
	pair, _ := newPair(t, tok, pubkey.RSA2048)
	for _, a := range pubkey.RSA2048.Algorithms() {
		assert.True(t, tok.Makes(pubkey.RSA2048, a), a)
	}
	m.Fail("C_SignInit", pkcs11.CKR_KEY_TYPE_INCONSISTENT, "times=1", "mechanism=CKM_RSA_PKCS")
	m.Fail("C_SignInit", pkcs11.CKR_MECHANISM_INVALID, "times=1", "mechanism=CKM_SHA256_RSA_PKCS")
	_, err := tok.Sign(t.Context(), pair, pubkey.PKCS1SHA256, []byte("m"))
	require.NoError(t, err)
}

// A token that signs wrongly by one algorithm is not believed in the others: no such pair is made.
func TestWrongSignatureByOneAlgorithm(t *testing.T) {
	cfg, m := newConfigThrough(t)
	tok := open(t, cfg)
	m.Rule("C_Sign flip skip=3") // those by RSASSA-PKCS1-v1_5 come first
	_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.RSA2048, randomBytes(t, 16), "label")
	requireGap(t, err, "RSA-2048 key pairs, RSASSA-PSS with SHA-256: the signature is not valid")
	require.Error(t, tok.PairGap(pubkey.RSA2048))
	objects, err := tok.Objects(t.Context())
	require.NoError(t, err)
	require.Empty(t, objects)
}

// The health of a pair is asked by an algorithm that it has.
func TestHealthOfAPairThatLacksAlgorithms(t *testing.T) {
	tok, f := openFaulty(t)
	pair, _ := newPair(t, tok, pubkey.RSA2048)
	f.set(func() {
		f.noMechanism = map[uint]bool{pkcs11.CKM_RSA_PKCS: true, pkcs11.CKM_SHA256_RSA_PKCS: true, pkcs11.CKM_SHA384_RSA_PKCS: true,
			pkcs11.CKM_SHA512_RSA_PKCS: true}
	})
	healthy := func() error {
		return tok.ByFirst(pubkey.RSA2048, func(a pubkey.Algorithm) error { return tok.HealthySignature(t.Context(), pair, a) })
	}
	require.NoError(t, healthy())
	for m := range noPSS() {
		f.set(func() { f.noMechanism[m] = true })
	}
	requireGap(t, healthy(), pssGap[:len("RSA-2048 key pairs, RSASSA-PSS with SHA-")]+"512: C_SignInit: CKR_MECHANISM_INVALID")
}

// A token makes no Ed25519ph signatures until a pair has shown that it does, however long ago it was tried.
func TestPrehashMustBeProven(t *testing.T) {
	cfg, m := newConfigThrough(t)
	m.AtStart(noSessionObjects)
	tok := open(t, cfg)
	sign := func(p *token.Pair) error {
		_, err := tok.Sign(t.Context(), p, pubkey.Ed25519phSHA512, []byte("m"))
		return err
	}
	requireGap(t, sign(tok.KeyPair(pubkey.Edwards25519, make([]byte, 16))), "edwards25519 key pairs, Ed25519ph with SHA-512: "+
		"it could not be tried, and is known when such a key is made")
	pair, _ := newPair(t, tok, pubkey.Edwards25519)
	for range 2 {
		requireGap(t, sign(pair), "edwards25519 key pairs, Ed25519ph with SHA-512: the signature is not valid")
		require.False(t, makes(tok, pubkey.Ed25519phSHA512))
		tok.AgeGaps(10 * time.Minute)
	}
}
