package token_test

import (
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// givesHandle is a module whose sessions get a handle that another one has, while there is one.
type givesHandle struct {
	token.Module
	handle *pkcs11.SessionHandle
}

func (m *givesHandle) OpenSession(slot, flags uint) (pkcs11.SessionHandle, error) {
	if *m.handle != 0 {
		return *m.handle, nil
	}
	return m.Module.OpenSession(slot, flags)
}

// refusesPIN is a module in which nobody is logged in yet, and which refuses the PIN after something else has happened. It asks no token.
type refusesPIN struct {
	token.Module
	meanwhile func(pkcs11.SessionHandle)
}

func (m *refusesPIN) GetSessionInfo(s pkcs11.SessionHandle) (pkcs11.SessionInfo, error) {
	info, err := m.Module.GetSessionInfo(s)
	info.State = pkcs11.CKS_RW_PUBLIC_SESSION
	return info, err
}

func (m *refusesPIN) Login(s pkcs11.SessionHandle, _ uint, _ string) error {
	m.meanwhile(s)
	return pkcs11.Error(pkcs11.CKR_PIN_INCORRECT)
}

// A PIN that is refused is told as that, also where the session's handle was given to another session meanwhile: to try again would cost
// another attempt.
func TestARefusedPINIsToldWhateverBecameOfItsSession(t *testing.T) {
	cfg, _ := newConfig(t)
	var handle pkcs11.SessionHandle
	cfg.SetWrap(func(m token.Module) token.Module { return &givesHandle{m, &handle} })
	other, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()
	cfg.SetWrap(func(m token.Module) token.Module {
		return &refusesPIN{m, func(of pkcs11.SessionHandle) {
			handle = of
			_, _ = other.Objects(t.Context()) // whatever comes of it, its session has the handle then
			handle = 0
		}}
	})
	_, err = token.Open(t.Context(), cfg)
	var refused *token.OpenError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, token.PINRefused, refused.Reason)
}
