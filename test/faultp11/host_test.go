package faultp11_test

import (
	"errors"
	"os"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/faultp11"
)

// host is what an application does with a token through the module.
type host struct {
	*pkcs11.Ctx
	t     *testing.T
	m     *faultp11.Module
	token softhsm.TestToken
	slot  uint
}

// newHost makes a token and initialises a module in front of it.
func newHost(t *testing.T) *host {
	t.Helper()
	h := newIdleHost(t)
	h.initialize()
	return h
}

// newIdleHost leaves C_Initialize to the test.
func newIdleHost(t *testing.T) *host {
	t.Helper()
	tok := softhsm.NewToken(t)
	t.Setenv(softhsm.EnvConfig, tok.ConfigFile)
	m := faultp11.New(t, tok.Module)
	return &host{t: t, m: m, token: tok}
}

func (h *host) load() {
	if h.Ctx == nil {
		h.Ctx = pkcs11.New(h.m.Path)
		require.NotNil(h.t, h.Ctx, "the module is loaded")
		h.t.Cleanup(func() {
			h.m.Clear()
			_ = h.Finalize()
		})
	}
}

func (h *host) initialize() {
	h.t.Helper()
	h.load()
	require.NoError(h.t, h.Initialize())
	slots, err := h.GetSlotList(true)
	require.NoError(h.t, err)
	for _, slot := range slots {
		if info, err := h.GetTokenInfo(slot); err == nil && info.Label == h.token.Label {
			h.slot = slot
			return
		}
	}
	h.t.Fatalf("the token %q is not among the slots %v", h.token.Label, slots)
}

// session opens a session.
func (h *host) session() pkcs11.SessionHandle {
	h.t.Helper()
	s, err := h.OpenSession(h.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	require.NoError(h.t, err)
	return s
}

// login opens a session and logs in.
func (h *host) login() pkcs11.SessionHandle {
	h.t.Helper()
	s := h.session()
	require.NoError(h.t, h.Login(s, pkcs11.CKU_USER, h.token.PIN()))
	return s
}

// template is that of a key for HMAC-SHA-256, with other attributes in the place of its own.
func template(id string, more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	all := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_ID, id)}
	for _, a := range more {
		for i := range all {
			if all[i].Type == a.Type {
				all[i] = a
			}
		}
	}
	return all
}

var (
	generate = []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, nil)}
	hmac     = []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA256_HMAC, nil)}
)

func (h *host) key(s pkcs11.SessionHandle, id string) pkcs11.ObjectHandle {
	h.t.Helper()
	k, err := h.GenerateKey(s, generate, template(id))
	require.NoError(h.t, err)
	return k
}

func (h *host) find(s pkcs11.SessionHandle, id string) []pkcs11.ObjectHandle {
	h.t.Helper()
	require.NoError(h.t, h.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, id)}))
	found, _, err := h.FindObjects(s, 10)
	require.NoError(h.t, err)
	require.NoError(h.t, h.FindObjectsFinal(s))
	return found
}

func (h *host) mac(s pkcs11.SessionHandle, k pkcs11.ObjectHandle, message string) ([]byte, error) {
	if err := h.SignInit(s, hmac, k); err != nil {
		return nil, err
	}
	return h.Sign(s, []byte(message))
}

// mustMAC is mac where it has to succeed.
func (h *host) mustMAC(s pkcs11.SessionHandle, k pkcs11.ObjectHandle, message string) string {
	h.t.Helper()
	mac, err := h.mac(s, k, message)
	require.NoError(h.t, err)
	return string(mac)
}

func requireRV(t *testing.T, rv uint, err error) {
	t.Helper()
	require.ErrorIs(t, err, pkcs11.Error(rv))
}

// other is another client of the same token: SoftHSM itself, without the module.
func (h *host) other() *host {
	h.t.Helper()
	file := h.t.TempDir() + "/other.so"
	library, err := os.ReadFile(h.token.Module)
	require.NoError(h.t, err)
	require.NoError(h.t, os.WriteFile(file, library, 0o700))
	o := &host{t: h.t, token: h.token, Ctx: pkcs11.New(file)}
	require.NotNil(h.t, o.Ctx)
	o.initialize()
	h.t.Cleanup(func() { _ = o.Finalize() })
	return o
}

// isRV tells whether an error is a return value.
func isRV(err error, rv uint) bool { return errors.Is(err, pkcs11.Error(rv)) }
