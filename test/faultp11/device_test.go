package faultp11_test

import (
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLostSessions(t *testing.T) {
	h := newHost(t)
	s := h.login()
	k := h.key(s, "key")
	want := h.mustMAC(s, k, "message")
	require.Equal(t, 1, h.m.Open())

	h.m.Do("lose sessions")
	require.Zero(t, h.m.Open())
	_, err := h.mac(s, k, "message")
	requireRV(t, pkcs11.CKR_SESSION_HANDLE_INVALID, err)
	assert.Equal(t, 1, h.m.Counters()["C_SignInit"].Lost)

	fresh := h.session()
	require.Equal(t, 1, h.m.Open())
	info, err := h.GetSessionInfo(fresh)
	require.NoError(t, err)
	assert.EqualValues(t, pkcs11.CKS_RW_PUBLIC_SESSION, info.State, "the login is gone with them")
	require.NoError(t, h.Login(fresh, pkcs11.CKU_USER, h.token.PIN()))
	assert.Equal(t, want, h.mustMAC(fresh, h.find(fresh, "key")[0], "message"))
	requireRV(t, pkcs11.CKR_SESSION_HANDLE_INVALID, h.CloseSession(s))

	h.m.Do("lose sessions CKR_DEVICE_REMOVED")
	_, err = h.GenerateRandom(fresh, 8)
	requireRV(t, pkcs11.CKR_DEVICE_REMOVED, err)
}

// TestLostDevice: as a network module whose server was started again, which only C_Finalize and C_Initialize bring back.
func TestLostDevice(t *testing.T) {
	h := newHost(t)
	s := h.login()
	h.key(s, "key")
	h.m.Do("lose device")
	_, err := h.GenerateRandom(s, 8)
	requireRV(t, pkcs11.CKR_DEVICE_ERROR, err)
	_, err = h.OpenSession(h.slot, pkcs11.CKF_SERIAL_SESSION)
	requireRV(t, pkcs11.CKR_DEVICE_ERROR, err)
	_, err = h.GetSlotList(true)
	requireRV(t, pkcs11.CKR_DEVICE_ERROR, err)

	require.NoError(t, h.Finalize())
	h.initialize()
	fresh := h.login()
	h.mustMAC(fresh, h.find(fresh, "key")[0], "message")
}

// TestServerDown: C_Initialize finds no slots while the server is down, and goes on to see none until the next one.
func TestServerDown(t *testing.T) {
	h := newHost(t)
	s := h.login()
	h.m.Do("down CKR_DEVICE_REMOVED")
	_, err := h.GenerateRandom(s, 8)
	requireRV(t, pkcs11.CKR_DEVICE_REMOVED, err)
	require.NoError(t, h.Finalize())
	for range 2 {
		require.NoError(t, h.Initialize())
		slots, err := h.GetSlotList(true)
		require.NoError(t, err)
		require.Empty(t, slots)
		_, err = h.OpenSession(h.slot, pkcs11.CKF_SERIAL_SESSION)
		requireRV(t, pkcs11.CKR_SLOT_ID_INVALID, err)
		h.m.Do("up")
		slots, err = h.GetSlotList(true)
		require.NoError(t, err)
		require.Empty(t, slots, "it has to be initialised again")
		require.NoError(t, h.Finalize())
		h.m.Do("down")
	}
	h.m.Do("up")
	h.initialize()
	h.login()
}

// TestEjectedToken: the slot stays, the token is away, and the other token of the module goes on.
func TestEjectedToken(t *testing.T) {
	second := newHost(t) // its token is in the same configuration
	h := newHost(t)
	s := h.login()
	slots := func() []uint {
		found, err := h.GetSlotList(true)
		require.NoError(t, err)
		return found
	}
	require.Contains(t, slots(), second.slot)
	others, err := h.OpenSession(second.slot, pkcs11.CKF_SERIAL_SESSION)
	require.NoError(t, err)

	h.m.Do("eject token=" + h.token.Label + " CKR_DEVICE_REMOVED")
	_, err = h.GenerateRandom(s, 8)
	requireRV(t, pkcs11.CKR_DEVICE_REMOVED, err)
	_, err = h.OpenSession(h.slot, pkcs11.CKF_SERIAL_SESSION)
	requireRV(t, pkcs11.CKR_TOKEN_NOT_PRESENT, err)
	_, err = h.GetTokenInfo(h.slot)
	requireRV(t, pkcs11.CKR_TOKEN_NOT_PRESENT, err)
	assert.NotContains(t, slots(), h.slot)
	_, err = h.GenerateRandom(others, 8)
	require.NoError(t, err, "the other token")

	h.m.Do("insert")
	assert.Contains(t, slots(), h.slot)
	h.login()
}

func TestSessionsRunOut(t *testing.T) {
	h := newHost(t)
	h.m.Do("sessions 3")
	var open []pkcs11.SessionHandle
	for range 3 {
		open = append(open, h.session())
	}
	_, err := h.OpenSession(h.slot, pkcs11.CKF_SERIAL_SESSION)
	requireRV(t, pkcs11.CKR_SESSION_COUNT, err)
	require.NoError(t, h.CloseSession(open[0]))
	h.session()
	require.NoError(t, h.CloseAllSessions(h.slot))
	for range 3 {
		h.session()
	}
	h.m.Do("sessions 0")
	h.session()
}

// TestOneTokensRule: a rule may be about the calls for one token.
func TestOneTokensRule(t *testing.T) {
	second := newHost(t)
	h := newHost(t)
	s := h.session()
	others, err := h.OpenSession(second.slot, pkcs11.CKF_SERIAL_SESSION)
	require.NoError(t, err)
	h.m.Fail("*", pkcs11.CKR_DEVICE_ERROR, "token="+h.token.Label)
	_, err = h.GenerateRandom(s, 8)
	requireRV(t, pkcs11.CKR_DEVICE_ERROR, err)
	_, err = h.GetTokenInfo(h.slot)
	requireRV(t, pkcs11.CKR_DEVICE_ERROR, err)
	_, err = h.GenerateRandom(others, 8)
	require.NoError(t, err)
}
