package token_test

import (
	"crypto"
	"errors"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// recycling gives object handles out as opencryptoki does: the lowest number that is free, and a number is free again when its object
// was destroyed, by whichever client. Everything else is the real module's.
type recycling struct {
	token.Module

	manufacturer string

	mu   sync.Mutex                                  // guards the rest
	real map[pkcs11.ObjectHandle]pkcs11.ObjectHandle // by the handle that was given out
	used pkcs11.ObjectHandle                         // with the last C_SignInit
	on   pkcs11.SessionHandle                        // of the last C_SignInit
	find int                                         // how often C_FindObjectsInit was called
	init int                                         // how often C_SignInit was called
}

// searched is how often objects were looked for.
func (r *recycling) searched() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.find
}

func (r *recycling) FindObjectsInit(s pkcs11.SessionHandle, a []*pkcs11.Attribute) error {
	r.mu.Lock()
	r.find++
	r.mu.Unlock()
	return r.Module.FindObjectsInit(s, a)
}

// last is the handle that was used last.
func (r *recycling) last() pkcs11.ObjectHandle {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used
}

// out gives out a handle.
func (r *recycling) out(s pkcs11.SessionHandle, object pkcs11.ObjectHandle) pkcs11.ObjectHandle {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.real == nil {
		r.real = map[pkcs11.ObjectHandle]pkcs11.ObjectHandle{}
	}
	for given, real := range r.real {
		if real == object {
			return given
		}
	}
	for given := pkcs11.ObjectHandle(1); ; given++ {
		real, taken := r.real[given]
		if taken {
			_, err := r.Module.GetAttributeValue(s, real, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, nil)})
			taken = !errors.Is(err, pkcs11.Error(pkcs11.CKR_OBJECT_HANDLE_INVALID))
		}
		if !taken {
			r.real[given] = object
			return given
		}
	}
}

// in returns the module's own handle.
func (r *recycling) in(given pkcs11.ObjectHandle) pkcs11.ObjectHandle {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.real[given]
}

// realOf is the module's own handle of a secret or private key.
func (r *recycling) realOf(t *testing.T, id []byte) pkcs11.ObjectHandle {
	t.Helper()
	require.NoError(t, r.Module.FindObjectsInit(r.on, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_ID, id), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true)}))
	found, _, err := r.Module.FindObjects(r.on, 2)
	require.NoError(t, err)
	require.NoError(t, r.Module.FindObjectsFinal(r.on))
	require.Len(t, found, 1)
	return found[0]
}

// swap makes a handle another object's, as when the token's handles are the partition's own and another client has made the object.
func (r *recycling) swap(given, real pkcs11.ObjectHandle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.real[given] = real
}

func (r *recycling) GenerateKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, a []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	object, err := r.Module.GenerateKey(s, m, a)
	return r.out(s, object), err
}

func (r *recycling) GenerateKeyPair(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, public, private []*pkcs11.Attribute) (
	pkcs11.ObjectHandle, pkcs11.ObjectHandle, error) {
	p, q, err := r.Module.GenerateKeyPair(s, m, public, private)
	return r.out(s, p), r.out(s, q), err
}

func (r *recycling) CreateObject(s pkcs11.SessionHandle, a []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	object, err := r.Module.CreateObject(s, a)
	return r.out(s, object), err
}

func (r *recycling) FindObjects(s pkcs11.SessionHandle, most int) ([]pkcs11.ObjectHandle, bool, error) {
	objects, more, err := r.Module.FindObjects(s, most)
	for i := range objects {
		objects[i] = r.out(s, objects[i])
	}
	return objects, more, err
}

func (r *recycling) DestroyObject(s pkcs11.SessionHandle, o pkcs11.ObjectHandle) error {
	return r.Module.DestroyObject(s, r.in(o))
}

func (r *recycling) SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, o pkcs11.ObjectHandle) error {
	r.mu.Lock()
	r.used, r.on = o, s
	r.init++
	r.mu.Unlock()
	return r.Module.SignInit(s, m, r.in(o))
}

func (r *recycling) GetAttributeValue(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	return r.Module.GetAttributeValue(s, r.in(o), a)
}

func (r *recycling) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	info, err := r.Module.GetTokenInfo(slot)
	if r.manufacturer != "" {
		info.ManufacturerID = r.manufacturer
	}
	return info, err
}

// openRecycling opens a token through a module that recycles handles, as a token of that manufacturer (empty: its own), and once more
// as another client, whose handles are apart.
func openRecycling(t *testing.T, manufacturer string) (tok *token.Token, r *recycling, other *token.Token) {
	t.Helper()
	cfg, _ := newConfig(t)
	other = open(t, cfg)
	r = &recycling{manufacturer: manufacturer}
	cfg.SetWrap(func(m token.Module) token.Module {
		r.Module = m
		return r
	})
	return open(t, cfg), r, other
}

// keyOf is a key of the test with two ways to use it.
type keyOf struct {
	id   []byte
	use  func(*token.Token) error
	made []byte // what the last use has made
}

// newKeyOf makes a key as a client does.
func newKeyOf(t *testing.T, tok *token.Token, kind string) *keyOf {
	t.Helper()
	k := &keyOf{id: randomBytes(t, 16)}
	message := []byte("message")
	switch kind {
	case "stream", "MAC":
		_, err := tok.GenerateHMACKey(t.Context(), token.SHA256, k.id, "key")
		require.NoError(t, err)
	default:
		_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, k.id, "key")
		require.NoError(t, err)
	}
	handles := map[*token.Token]any{}
	k.use = func(tok *token.Token) (err error) {
		k.made = nil
		switch kind {
		case "MAC":
			if handles[tok] == nil {
				handles[tok] = tok.HMACKey(token.SHA256, k.id)
			}
			k.made, err = tok.MAC(t.Context(), handles[tok].(*token.Key), message)
		case "stream":
			if handles[tok] == nil {
				handles[tok] = tok.HMACKey(token.SHA256, k.id)
			}
			var s *token.Stream
			if s, err = tok.NewStream(t.Context(), handles[tok].(*token.Key)); err == nil {
				k.made, err = s.Sum()
			}
		default:
			if handles[tok] == nil {
				handles[tok] = tok.KeyPair(pubkey.P256, k.id)
			}
			k.made, err = tok.Sign(t.Context(), handles[tok].(*token.Pair), pubkey.Algorithm{Scheme: pubkey.ECDSA, Hash: crypto.SHA256}, message)
		}
		return err
	}
	return k
}

func destroy(t *testing.T, tok *token.Token, kind string, k *keyOf) {
	t.Helper()
	if kind == "pair" {
		require.NoError(t, tok.DestroyKeyPair(t.Context(), k.id, "key"))
		return
	}
	require.NoError(t, tok.DestroyKey(t.Context(), k.id, "key"))
}
