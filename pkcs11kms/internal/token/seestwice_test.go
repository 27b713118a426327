package token_test

import (
	"sync"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// seesTwice shows each object twice on the sessions that were open when it began to.
type seesTwice struct {
	token.Module
	mu   sync.Mutex // guards the rest
	open map[pkcs11.SessionHandle]bool
	old  map[pkcs11.SessionHandle]bool
	rv   uint // of C_OpenSession, unless it is 0
}

func (m *seesTwice) OpenSession(slot, flags uint) (pkcs11.SessionHandle, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rv != 0 {
		return 0, pkcs11.Error(m.rv)
	}
	s, err := m.Module.OpenSession(slot, flags)
	m.open[s] = true
	return s, err
}

func (m *seesTwice) CloseSession(s pkcs11.SessionHandle) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.open, s)
	return m.Module.CloseSession(s)
}

func (m *seesTwice) FindObjects(s pkcs11.SessionHandle, most int) ([]pkcs11.ObjectHandle, bool, error) {
	found, more, err := m.Module.FindObjects(s, most)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(found) == 1 && most > 1 && m.old[s] {
		found = append(found, found[0]+1000)
	}
	return found, more, err
}

// begin makes the sessions of now see twice. rv is what C_OpenSession answers from now on.
func (m *seesTwice) begin(rv uint) (sessions int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.old, m.rv = map[pkcs11.SessionHandle]bool{}, rv
	for s := range m.open {
		m.old[s] = true
	}
	return len(m.open)
}

func (m *seesTwice) sessions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.open)
}

// A key that a session sees twice is looked for by a fresh one before it is called ambiguous.
func TestAKeyThatASessionSeesTwice(t *testing.T) {
	cfg, _ := newConfig(t)
	m := &seesTwice{open: map[pkcs11.SessionHandle]bool{}}
	cfg.SetWrap(func(module token.Module) token.Module {
		m.Module = module
		return m
	})
	tok := open(t, cfg)
	key := newKey(t, tok)
	want, err := tok.MAC(t.Context(), key, []byte("message"))
	require.NoError(t, err)
	again := func() *token.Key { return tok.HMACKey(token.SHA256, key.ID()) } // whose handle is not known

	sessions := m.begin(pkcs11.CKR_OK)
	mac, err := tok.MAC(t.Context(), again(), []byte("message"))
	require.NoError(t, err)
	assert.Equal(t, want, mac)
	assert.Equal(t, sessions, m.sessions(), "the fresh one is closed")

	m.begin(pkcs11.CKR_SESSION_COUNT)
	_, err = tok.MAC(t.Context(), again(), []byte("message"))
	require.ErrorIs(t, err, token.ErrKeyAmbiguous, "no other session can be had")

	m.begin(pkcs11.CKR_DEVICE_ERROR)
	_, err = tok.MAC(t.Context(), again(), []byte("message"))
	require.NotErrorIs(t, err, token.ErrKeyAmbiguous, "the device fails, which says nothing of the key")
	requireRV(t, err, "C_OpenSession", pkcs11.CKR_DEVICE_ERROR)

	m.begin(pkcs11.CKR_OK)
	require.NoError(t, tok.DestroyKey(t.Context(), key.ID(), "test key"))
	_, err = tok.MAC(t.Context(), again(), []byte("message"))
	require.ErrorIs(t, err, token.ErrKeyMissing)
}
