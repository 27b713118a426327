package token_test

import (
	"context"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// rehandedSearch is a rehanded module, also for searches.
type rehandedSearch struct {
	*rehanded
	search   func(pkcs11.SessionHandle) // called by the next C_FindObjectsInit
	label    func(pkcs11.SessionHandle) // called by the next C_GetAttributeValue of a label
	destroys []pkcs11.SessionHandle     // of C_DestroyObject
}

func (r *rehandedSearch) GetAttributeValue(s pkcs11.SessionHandle, o pkcs11.ObjectHandle,
	a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	values, err := r.rehanded.GetAttributeValue(s, o, a)
	if after := r.label; after != nil && a[0].Type == pkcs11.CKA_LABEL {
		r.label = nil
		after(s)
	}
	return values, err
}

func (r *rehandedSearch) DestroyObject(s pkcs11.SessionHandle, o pkcs11.ObjectHandle) error {
	r.destroys = append(r.destroys, s)
	return r.Module.DestroyObject(r.of(s), o)
}

func (r *rehandedSearch) FindObjectsInit(s pkcs11.SessionHandle, a []*pkcs11.Attribute) error {
	if before := r.search; before != nil {
		r.search = nil
		before(s)
	}
	return r.Module.FindObjectsInit(r.of(s), a)
}

func (r *rehandedSearch) FindObjects(s pkcs11.SessionHandle, most int) ([]pkcs11.ObjectHandle, bool, error) {
	return r.Module.FindObjects(r.of(s), most)
}

func (r *rehandedSearch) FindObjectsFinal(s pkcs11.SessionHandle) error {
	return r.Module.FindObjectsFinal(r.of(s))
}

// A module closes a session by itself and gives its handle to a session of another token, where there is no such key: that says nothing of
// the key, which is there.
func TestAHandleThatAnotherSessionGotMissesNoKey(t *testing.T) {
	r, one, other := openRehanded(t)
	key, theirs := newKey(t, one), newKey(t, other)
	want, err := one.MAC(context.Background(), key, []byte("message"))
	require.NoError(t, err)
	busy, err := other.NewStream(t.Context(), theirs) // so that the next call opens a session
	require.NoError(t, err)

	r.search = func(s pkcs11.SessionHandle) {
		r.mu.Lock()
		r.next = s
		r.mu.Unlock()
		_, err := other.MAC(context.Background(), theirs, []byte("message"))
		require.NoError(t, err)
	}
	got, err := one.MAC(context.Background(), one.HMACKey(token.SHA256, key.ID()), []byte("message"))
	require.NoError(t, err, "it is repeated on another session")
	requireSame(t, want, got, "MAC")
	require.NoError(t, busy.Close())
	require.NoError(t, other.Healthy(t.Context()))
}

// Nor is anything destroyed by such a session: the handle of the object that was found may be another's, too.
func TestAHandleThatAnotherSessionGotDestroysNothing(t *testing.T) {
	r, one, other := openRehanded(t)
	key, theirs := newKey(t, one), newKey(t, other)
	busy, err := other.NewStream(t.Context(), theirs) // so that the next call opens a session
	require.NoError(t, err)
	var taken pkcs11.SessionHandle
	r.label = func(s pkcs11.SessionHandle) {
		r.mu.Lock()
		r.next, taken = s, s
		r.mu.Unlock()
		_, err := other.MAC(context.Background(), theirs, []byte("message"))
		require.NoError(t, err)
	}
	r.destroys = nil // those of the probes
	require.NoError(t, one.DestroyKey(context.Background(), key.ID(), "test key"), "it is repeated on another session")
	require.NotZero(t, taken)
	require.NotContains(t, r.destroys, taken)
	_, err = one.Describe(t.Context(), key.ID())
	require.ErrorIs(t, err, token.ErrKeyMissing)
	require.NoError(t, busy.Close())
}

// openRehanded opens two tokens over one such module.
func openRehanded(t *testing.T) (r *rehandedSearch, one, other *token.Token) {
	t.Helper()
	r = &rehandedSearch{rehanded: &rehanded{}}
	openOver := func() *token.Token {
		cfg, _ := newConfig(t)
		cfg.SetWrap(func(m token.Module) token.Module {
			r.Module = m
			return r
		})
		return open(t, cfg)
	}
	return r, openOver(), openOver()
}
