package token_test

import (
	"crypto"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// hashing makes a token that signs no digests of the real one: it refuses the mechanisms for them by a return value, and knows
// CKM_ECDSA_SHAxxx, which SoftHSM 2.6 does not, by hashing before CKM_ECDSA.
type hashing struct {
	token.Module
	refusal uint

	mu    sync.Mutex // guards the rest
	asked []pkcs11.Mechanism
	hash  map[pkcs11.SessionHandle]crypto.Hash // of the operation that is active
}

var ecdsaHashes = map[uint]crypto.Hash{pkcs11.CKM_ECDSA_SHA256: crypto.SHA256, pkcs11.CKM_ECDSA_SHA384: crypto.SHA384,
	pkcs11.CKM_ECDSA_SHA512: crypto.SHA512}

func (h *hashing) SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, k pkcs11.ObjectHandle) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, *m[0])
	delete(h.hash, s)
	if slices.Contains([]uint{pkcs11.CKM_RSA_PKCS, pkcs11.CKM_RSA_PKCS_PSS, pkcs11.CKM_ECDSA}, m[0].Mechanism) {
		return pkcs11.Error(h.refusal)
	}
	if hash, ok := ecdsaHashes[m[0].Mechanism]; ok {
		h.hash[s] = hash
		m = []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}
	}
	return h.Module.SignInit(s, m, k)
}

func (h *hashing) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	h.mu.Lock()
	hash, ok := h.hash[s]
	h.mu.Unlock()
	if ok {
		digest := hash.New()
		digest.Write(message)
		message = digest.Sum(nil)
	}
	return h.Module.Sign(s, message)
}

func openHashing(t *testing.T, refusal uint) (*token.Token, *hashing) {
	t.Helper()
	cfg, _ := newConfig(t)
	return openHashingOf(t, cfg, refusal)
}

func openHashingOf(t *testing.T, cfg token.Config, refusal uint) (*token.Token, *hashing) {
	t.Helper()
	h := &hashing{refusal: refusal, hash: map[pkcs11.SessionHandle]crypto.Hash{}}
	cfg.SetWrap(func(m token.Module) token.Module {
		h.Module = m
		return h
	})
	return open(t, cfg), h
}

// refusals are the ways in which a token says that it does not sign digests.
var refusals = []uint{pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_KEY_SIZE_RANGE,
	pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_MECHANISM_PARAM_INVALID}

// A token that hashes itself signs by every algorithm of every kind of key, and no digests, whichever way it says so.
func TestTokensThatHashThemselves(t *testing.T) {
	message := []byte("a message that the token hashes")
	specs := []pubkey.Spec{pubkey.RSA2048, pubkey.P256, pubkey.P384, pubkey.P521, pubkey.SECP256K1}
	for _, refusal := range refusals {
		tok, _ := openHashing(t, refusal)
		for _, spec := range specs {
			pair, public := newPair(t, tok, spec)
			for _, a := range spec.Algorithms() {
				signature, err := tok.Sign(t.Context(), pair, a, message)
				require.NoError(t, err, "%v %v", spec, a)
				assert.True(t, judge(t, spec, public.DER(), a, a.Digest(message), signature), "%v %v", spec, a)
				_, err = tok.SignDigest(t.Context(), pair, a, a.Digest(message))
				assert.ErrorIs(t, err, token.ErrDigestRefused, "%v %v", spec, a)
			}
		}
		specs = specs[:1] // making pairs takes its time
	}
}

// The first that a process asks of such a token may be a digest: it is refused as well, never hashed once more.
func TestFirstDigestAtATokenThatHashesItself(t *testing.T) {
	cfg, _ := newConfig(t)
	maker := open(t, cfg)
	for _, spec := range []pubkey.Spec{pubkey.RSA2048, pubkey.P256} {
		made, public := newPair(t, maker, spec)
		for _, refusal := range refusals {
			tok, _ := openHashingOf(t, cfg, refusal)
			pair := tok.KeyPair(spec, made.ID())
			for _, a := range spec.Algorithms() {
				digest := a.Digest([]byte("message"))
				signature, err := tok.SignDigest(t.Context(), pair, a, digest)
				require.ErrorIs(t, err, token.ErrDigestRefused, "%v 0x%X", a, refusal)
				require.Zero(t, len(signature))
				signature, err = tok.Sign(t.Context(), pair, a, []byte("message"))
				require.NoError(t, err, "%v 0x%X", a, refusal)
				assert.True(t, judge(t, spec, public.DER(), a, digest, signature), "%v 0x%X", a, refusal)
			}
		}
	}
}

// Trouble of the moment does not make a token one that hashes itself, nor does a failure after C_SignInit: it goes on to sign digests.
func TestTroubleIsNoRefusalOfDigests(t *testing.T) {
	tok, f := openFaulty(t)
	pair, public := newPair(t, tok, pubkey.RSA2048)
	digest := pubkey.PKCS1SHA256.Digest([]byte("message"))
	for _, trouble := range []token.Error{
		{Func: "C_SignInit", RV: pkcs11.CKR_HOST_MEMORY}, {Func: "C_SignInit", RV: pkcs11.CKR_DEVICE_MEMORY},
		{Func: "C_SignInit", RV: pkcs11.CKR_FUNCTION_CANCELED}, {Func: "C_SignInit", RV: pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED},
		{Func: "C_Sign", RV: pkcs11.CKR_MECHANISM_INVALID}, {Func: "C_Sign", RV: pkcs11.CKR_KEY_SIZE_RANGE},
	} {
		f.fail(trouble.Func, 9, trouble.RV)
		_, err := tok.Sign(t.Context(), pair, pubkey.PKCS1SHA256, []byte("message"))
		requireRV(t, err, trouble.Func, trouble.RV)
		f.on(trouble.Func, nil)
		signature, err := tok.SignDigest(t.Context(), pair, pubkey.PKCS1SHA256, digest)
		require.NoError(t, err)
		assert.NoError(t, public.Verify(pubkey.PKCS1SHA256, digest, signature))
	}
}

// The mechanism that hashes the message has the parameters of RSASSA-PSS too, with a salt as long as the hash.
func TestTokensThatHashThemselvesGetPSSParameters(t *testing.T) {
	tok, h := openHashing(t, pkcs11.CKR_MECHANISM_INVALID)
	pair, _ := newPair(t, tok, pubkey.RSA2048)
	for a, want := range map[pubkey.Algorithm]struct {
		mechanism uint
		params    []byte
	}{
		pubkey.PSSSHA256: {pkcs11.CKM_SHA256_RSA_PKCS_PSS, pkcs11.NewPSSParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, 32)},
		pubkey.PSSSHA384: {pkcs11.CKM_SHA384_RSA_PKCS_PSS, pkcs11.NewPSSParams(pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384, 48)},
		pubkey.PSSSHA512: {pkcs11.CKM_SHA512_RSA_PKCS_PSS, pkcs11.NewPSSParams(pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512, 64)},
	} {
		h.mu.Lock()
		h.asked = nil
		h.mu.Unlock()
		_, err := tok.Sign(t.Context(), pair, a, []byte("m"))
		require.NoError(t, err, a)
		h.mu.Lock()
		require.Len(t, h.asked, 1, "it is known from the first pair on that digests are refused")
		assert.Equal(t, want.mechanism, h.asked[0].Mechanism, a)
		assert.Equal(t, want.params, h.asked[0].Parameter, a)
		h.mu.Unlock()
	}
}
