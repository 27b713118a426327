package token_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

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

// Another client destroys a key, a third makes one, and this one uses the new key, whose handle is the old key's: the old key is
// missing then, and is never used by the other's object. So it is when nothing here has found the new key.
func TestReusedHandles(t *testing.T) {
	for _, kind := range []string{"MAC", "stream", "pair"} {
		for _, found := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, new key found here %v", kind, found), func(t *testing.T) {
				tok, r, other := openRecycling(t, "A vendor that is not known")
				old := newKeyOf(t, other, kind)
				require.NoError(t, old.use(tok))
				given := r.last()
				destroy(t, other, kind, old)
				fresh := newKeyOf(t, other, kind)
				if found {
					require.NoError(t, fresh.use(tok))
					require.Equal(t, given, r.last(), "the module gives the handle out again")
				} else {
					r.swap(given, r.realOf(t, fresh.id))
				}
				require.ErrorIs(t, old.use(tok), token.ErrKeyMissing)
				require.Empty(t, len(old.made), "nothing is answered")
				require.NoError(t, fresh.use(tok), "the new key works")
				require.ErrorIs(t, old.use(tok), token.ErrKeyMissing)
			})
		}
	}
}

// Where a stale handle is known to be an error, and is not read at each use, a handle that is found for one key is no other key's any
// more from that moment on.
func TestAHandleIsOneKeys(t *testing.T) {
	for _, kind := range []string{"MAC", "stream", "pair"} {
		for _, here := range []bool{true, false} {
			tok, r, other := openRecycling(t, "")
			old := newKeyOf(t, other, kind)
			require.NoError(t, old.use(tok))
			given := r.last()
			destroyer := map[bool]*token.Token{true: tok, false: other}[here]
			destroy(t, destroyer, kind, old)
			fresh := newKeyOf(t, other, kind)
			require.NoError(t, fresh.use(tok))
			require.Equal(t, given, r.last())
			require.ErrorIs(t, old.use(tok), token.ErrKeyMissing, "%s, destroyed here %v", kind, here)
			require.NoError(t, fresh.use(tok))
		}
	}
}

// An object of the same CKA_ID and another type is another key, and is looked for as one.
func TestKeyTypeIsConfirmed(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.manufacturer = "A vendor that is not known"
	tok := open(t, cfg)
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

// What refuses the work of a key may be another kind of object that has its handle now: the key is looked for then, too.
func TestReusedHandleOfAnotherKind(t *testing.T) {
	for kind, others := range map[string]string{"MAC": "pair", "stream": "pair", "pair": "MAC"} {
		tok, r, other := openRecycling(t, "A vendor that is not known")
		k, another := newKeyOf(t, other, kind), newKeyOf(t, other, others)
		require.NoError(t, k.use(tok))
		given := r.last()
		r.swap(given, r.realOf(t, another.id))
		require.NoError(t, k.use(tok), kind)
		destroy(t, other, kind, k)
		r.swap(r.last(), r.realOf(t, another.id))
		require.ErrorIs(t, k.use(tok), token.ErrKeyMissing, kind)
	}
}

// The handle of a key that was destroyed because its caller had gone is nobody's: the next key that gets it need not be looked for.
func TestHandleOfAKeyOfALostCaller(t *testing.T) {
	cfg, _ := newConfig(t)
	f, r := newFaulty(&cfg), &recycling{}
	cfg.SetWrap(func(m token.Module) token.Module {
		f.Module, r.Module = m, f
		return r
	})
	tok := open(t, cfg)
	for _, kind := range []string{"MAC", "pair"} {
		function := map[string]string{"MAC": "C_GenerateKey", "pair": "C_GenerateKeyPair"}[kind]
		reached, free := f.hang(function)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			if kind == "MAC" {
				_, err := tok.GenerateHMACKey(ctx, token.SHA256, []byte("left"), "left")
				done <- err
				return
			}
			_, _, err := tok.GenerateKeyPair(ctx, pubkey.P256, []byte("left"), "left")
			done <- err
		}()
		<-reached
		cancel()
		var hung *token.HungError
		require.ErrorAs(t, <-done, &hung)
		free()
		<-hung.Done()
		var use func() error
		if kind == "MAC" {
			key := newKey(t, tok)
			use = func() error { _, err := tok.MAC(t.Context(), key, []byte("message")); return err }
		} else {
			pair, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, []byte("pair"), "pair")
			require.NoError(t, err)
			a := pubkey.Algorithm{Scheme: pubkey.ECDSA, Hash: crypto.SHA256}
			use = func() error { _, err := tok.Sign(t.Context(), pair, a, []byte("message")); return err }
		}
		before := f.count("C_FindObjectsInit")
		require.NoError(t, use())
		require.Equal(t, before, f.count("C_FindObjectsInit"), kind)
	}
}

// A module may look for the key of a stream by its handle again, at each part: the end is confirmed as the beginning is.
func TestEndOfAStreamIsConfirmed(t *testing.T) {
	tok, r, other := openRecycling(t, "A vendor that is not known")
	k, another := newKeyOf(t, other, "stream"), newKeyOf(t, other, "stream")
	begin := func() *token.Stream {
		s, err := tok.NewStream(t.Context(), tok.HMACKey(token.SHA256, k.id))
		require.NoError(t, err)
		_, err = s.Write([]byte("message"))
		require.NoError(t, err)
		return s
	}
	s := begin()
	_, err := s.Sum()
	require.NoError(t, err)
	theirs := r.realOf(t, another.id)
	s = begin()
	r.swap(r.last(), theirs)
	for range 2 {
		tag, err := s.Sum()
		require.ErrorContains(t, err, "its handle has become another object's")
		require.Zero(t, len(tag))
	}
	require.NoError(t, k.use(tok))
}

// A key that moved to another handle, while its handle became another key's, is found again.
func TestReusedHandleOfAKeyThatIsThere(t *testing.T) {
	for _, kind := range []string{"MAC", "stream", "pair"} {
		tok, r, other := openRecycling(t, "A vendor that is not known")
		k, another := newKeyOf(t, other, kind), newKeyOf(t, other, kind)
		require.NoError(t, k.use(tok))
		want := k.made
		r.swap(r.last(), r.realOf(t, another.id))
		r.init = 0
		require.NoError(t, k.use(tok), kind)
		require.Equal(t, 2, r.init, "a session on which another key's MAC was begun is not used again")
		if kind != "pair" {
			requireSame(t, want, k.made, kind)
		}
	}
}

// Where it is known that a stale handle is an error, what a handle is for is read once a second.
func TestHandlesAreConfirmedOnceASecond(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t)
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

// Of two keys with one handle neither keeps it: both are looked for anew.
func TestBothKeysOfOneHandleAreLookedForAnew(t *testing.T) {
	tok, r, other := openRecycling(t, "")
	old := newKeyOf(t, other, "MAC")
	require.NoError(t, old.use(tok))
	destroy(t, other, "MAC", old)
	fresh := newKeyOf(t, other, "MAC")
	for _, finds := range []int{1, 1, 0} { // found, and dropped since the old key holds the handle; found again; known
		before := r.searched()
		require.NoError(t, fresh.use(tok))
		require.Equal(t, finds, r.searched()-before)
	}
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
