package token_test

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// rehanded is a module that can give a session's handle to the next session, as one does that has closed the first by itself. Two Tokens
// share it.
type rehanded struct {
	token.Module
	mu   sync.Mutex // guards the rest
	real map[pkcs11.SessionHandle]pkcs11.SessionHandle
	next pkcs11.SessionHandle // what C_OpenSession gives out once
	last pkcs11.SessionHandle // of the last C_SignInit
	sign func()               // called by the next C_Sign
}

func (r *rehanded) of(s pkcs11.SessionHandle) pkcs11.SessionHandle {
	r.mu.Lock()
	defer r.mu.Unlock()
	if other, ok := r.real[s]; ok {
		return other
	}
	return s
}

func (r *rehanded) OpenSession(slot, flags uint) (pkcs11.SessionHandle, error) {
	s, err := r.Module.OpenSession(slot, flags)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && r.next != 0 {
		r.real = map[pkcs11.SessionHandle]pkcs11.SessionHandle{r.next: s}
		s, r.next = r.next, 0
	}
	return s, err
}

func (r *rehanded) CloseSession(s pkcs11.SessionHandle) error { return r.Module.CloseSession(r.of(s)) }

func (r *rehanded) GetSessionInfo(s pkcs11.SessionHandle) (pkcs11.SessionInfo, error) {
	return r.Module.GetSessionInfo(r.of(s))
}

func (r *rehanded) GetAttributeValue(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	return r.Module.GetAttributeValue(r.of(s), o, a)
}

func (r *rehanded) SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error {
	r.mu.Lock()
	r.last = s
	r.mu.Unlock()
	return r.Module.SignInit(r.of(s), m, key)
}

func (r *rehanded) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	r.mu.Lock()
	before := r.sign
	r.sign = nil
	r.mu.Unlock()
	if before != nil {
		before()
	}
	return r.Module.Sign(r.of(s), message)
}

// A module closes a session by itself and gives its handle to another one, which begins a MAC by another key: what the first then gets
// is that key's MAC, and it must not be its answer. Nor is the other session closed by the handle.
func TestAHandleThatAnotherSessionGotAnswersNothing(t *testing.T) {
	r := &rehanded{}
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
	wrong, err := other.MAC(context.Background(), theirs, []byte("message"))
	require.NoError(t, err)
	busy, err := other.NewStream(t.Context(), theirs) // so that the next call opens a session
	require.NoError(t, err)

	var stream *token.Stream
	r.sign = func() {
		r.mu.Lock()
		r.next = r.last // the session that one is about to call C_Sign on
		r.mu.Unlock()
		stream, err = other.NewStream(t.Context(), theirs)
		require.NoError(t, err)
	}
	got, err := one.MAC(context.Background(), key, []byte("message"))
	require.NoError(t, err, "it is repeated on another session")
	require.False(t, bytes.Equal(wrong, got))
	requireSame(t, want, got, "MAC")
	require.NoError(t, busy.Close())
	require.NoError(t, stream.Close())
	require.NoError(t, other.Healthy(t.Context()))
}
