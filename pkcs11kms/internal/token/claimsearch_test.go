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
	search func(pkcs11.SessionHandle) // called by the next C_FindObjectsInit
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
	r := &rehandedSearch{rehanded: &rehanded{}}
	openOver := func() *token.Token {
		cfg, _ := newConfig(t)
		cfg.SetWrap(func(m token.Module) token.Module {
			r.Module = m
			return r
		})
		return open(t, cfg)
	}
	one, other := openOver(), openOver()
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
