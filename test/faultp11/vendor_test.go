package faultp11_test

import (
	"strings"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRefusals: what one vendor or another does not take.
func TestRefusals(t *testing.T) {
	id := "id"
	bytes := func(n int) []byte { return []byte(strings.Repeat("x", n)) }
	for name, test := range map[string]struct {
		rule string
		rv   uint
		does func(h *host, s pkcs11.SessionHandle) error // what is refused
		goes func(h *host, s pkcs11.SessionHandle) error // and what not
	}{
		"the length of a key": {
			"C_GenerateKey fail CKR_ATTRIBUTE_TYPE_INVALID attribute=CKA_VALUE_LEN", pkcs11.CKR_ATTRIBUTE_TYPE_INVALID,
			generates(template(id)...), generatesPair,
		},
		"session objects": {
			"C_GenerateKey fail CKR_ATTRIBUTE_VALUE_INVALID attribute=CKA_TOKEN:00", pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
			generates(template(id, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false))...), generates(template(id)...),
		},
		"long ids": {
			"C_GenerateKey,C_CreateObject fail CKR_ATTRIBUTE_VALUE_INVALID attribute=CKA_ID>2", pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
			generates(template("abc")...), generates(template("ab")...),
		},
		"a mechanism": {
			"C_SignInit fail CKR_MECHANISM_INVALID mechanism=CKM_SHA224_HMAC", pkcs11.CKR_MECHANISM_INVALID,
			func(h *host, s pkcs11.SessionHandle) error {
				return h.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA224_HMAC, nil)}, h.key(s, id))
			},
			func(h *host, s pkcs11.SessionHandle) error { return h.SignInit(s, hmac, h.key(s, id)) },
		},
		"long messages": {
			"C_Sign,C_SignUpdate fail CKR_DATA_LEN_RANGE longer=3136", pkcs11.CKR_DATA_LEN_RANGE,
			func(h *host, s pkcs11.SessionHandle) error {
				return second(h.mac(s, h.key(s, id), string(bytes(3137))))
			},
			func(h *host, s pkcs11.SessionHandle) error {
				return second(h.mac(s, h.key(s, id), string(bytes(3136))))
			},
		},
		"read-only sessions": {
			"C_OpenSession fail CKR_TOKEN_WRITE_PROTECTED readonly", pkcs11.CKR_TOKEN_WRITE_PROTECTED,
			func(h *host, _ pkcs11.SessionHandle) error {
				return second(h.OpenSession(h.slot, pkcs11.CKF_SERIAL_SESSION))
			},
			func(h *host, _ pkcs11.SessionHandle) error {
				return second(h.OpenSession(h.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION))
			},
		},
		"random numbers": {
			"C_GenerateRandom,C_SeedRandom fail CKR_RANDOM_NO_RNG", pkcs11.CKR_RANDOM_NO_RNG,
			func(h *host, s pkcs11.SessionHandle) error { return second(h.GenerateRandom(s, 8)) },
			generates(template(id)...),
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			s := h.login()
			h.m.Do("on " + test.rule)
			requireRV(t, test.rv, test.does(h, s))
			require.NoError(t, test.goes(h, s))
			h.m.Clear()
			require.NoError(t, test.does(h, h.session()))
		})
	}
}

func second[T any](_ T, err error) error { return err }

func generates(template ...*pkcs11.Attribute) func(*host, pkcs11.SessionHandle) error {
	return func(h *host, s pkcs11.SessionHandle) error { return second(h.GenerateKey(s, generate, template)) }
}

func generatesPair(h *host, s pkcs11.SessionHandle) error {
	public := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte{0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07})} // P-256
	_, _, err := h.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)}, public, nil)
	return err
}

func TestToldTokens(t *testing.T) {
	h := newHost(t)
	real, err := h.GetTokenInfo(h.slot)
	require.NoError(t, err)
	h.m.Do("token label=other%20label manufacturer=IBM model=Luna%20K7 serial=0000000000000000 firmware=7.3 max-sessions=16 " +
		"library=IBM description=soft flags=+CKF_USER_PIN_COUNT_LOW,-CKF_LOGIN_REQUIRED")
	info, err := h.GetTokenInfo(h.slot)
	require.NoError(t, err)
	assert.Equal(t, []string{"other label", "IBM", "Luna K7", "0000000000000000"},
		[]string{info.Label, info.ManufacturerID, info.Model, info.SerialNumber})
	assert.Equal(t, pkcs11.Version{Major: 7, Minor: 3}, info.FirmwareVersion)
	assert.EqualValues(t, 16, info.MaxSessionCount)
	assert.Equal(t, real.Flags&^pkcs11.CKF_LOGIN_REQUIRED|pkcs11.CKF_USER_PIN_COUNT_LOW, info.Flags)
	library, err := h.GetInfo()
	require.NoError(t, err)
	assert.Equal(t, []string{"IBM", "soft"}, []string{library.ManufacturerID, library.LibraryDescription})

	h.m.Do("token")
	h.m.Do("token serial=1 padding=nul")
	info, err = h.GetTokenInfo(h.slot)
	require.NoError(t, err)
	assert.Equal(t, real.Label, strings.TrimRight(info.Label, "\x00"))
	assert.Equal(t, "1"+strings.Repeat("\x00", 15), info.SerialNumber)

	h.m.Do("token")
	info, err = h.GetTokenInfo(h.slot)
	require.NoError(t, err)
	info.UTCTime = real.UTCTime
	assert.Equal(t, real.SerialNumber, info.SerialNumber)
	assert.Equal(t, real.Flags, info.Flags)
}

// TestPINWithAUsersName: as with a CloudHSM. A wrong form costs the token nothing.
func TestPINWithAUsersName(t *testing.T) {
	h := newHost(t)
	h.m.Do("pin-prefix crypto:")
	s := h.session()
	for range 20 {
		requireRV(t, pkcs11.CKR_PIN_INCORRECT, h.Login(s, pkcs11.CKU_USER, h.token.PIN()))
	}
	requireRV(t, pkcs11.CKR_PIN_INCORRECT, h.Login(s, pkcs11.CKU_USER, "crypto:"+h.token.PIN()+"x"))
	require.NoError(t, h.Login(s, pkcs11.CKU_USER, "crypto:"+h.token.PIN()))
	h.key(s, "key")
}

// TestTokenWithoutLogin: keys can be made and used in a public session.
func TestTokenWithoutLogin(t *testing.T) {
	h := newHost(t)
	h.m.Do("login-free " + h.token.PINFile)
	s := h.session()
	info, err := h.GetSessionInfo(s)
	require.NoError(t, err)
	assert.EqualValues(t, pkcs11.CKS_RW_PUBLIC_SESSION, info.State)
	tokenInfo, err := h.GetTokenInfo(h.slot)
	require.NoError(t, err)
	assert.Zero(t, tokenInfo.Flags&pkcs11.CKF_LOGIN_REQUIRED)
	h.mustMAC(s, h.key(s, "key"), "message")
	assert.NotContains(t, h.m.Counters(), "C_Login")
}

// TestHMACTypes: as with YubiHSM2 and nShield, keys for HMAC have types of their own, and the type says the length.
func TestHMACTypes(t *testing.T) {
	h := newHost(t)
	h.m.Do("hmac-types CKR_TEMPLATE_INCONSISTENT")
	s := h.login()
	requireRV(t, pkcs11.CKR_TEMPLATE_INCONSISTENT, second(h.GenerateKey(s, generate, template("generic"))))
	for _, mechanism := range []uint{pkcs11.CKM_GENERIC_SECRET_KEY_GEN, pkcs11.CKM_NC_SHA256_HMAC_KEY_GEN} {
		typed := []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_SHA256_HMAC),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, "typed")}
		k, err := h.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, typed)
		require.NoError(t, err)
		h.mustMAC(s, k, "message")
		values, err := h.GetAttributeValue(s, k, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, nil), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, nil)})
		require.NoError(t, err)
		assert.Equal(t, pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_SHA256_HMAC).Value, values[0].Value)
		assert.Equal(t, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32).Value, values[1].Value)
		require.NoError(t, h.FindObjectsInit(s, typed[:2]))
		found, _, err := h.FindObjects(s, 10)
		require.NoError(t, err)
		require.NoError(t, h.FindObjectsFinal(s))
		assert.Contains(t, found, k)
		require.NoError(t, h.DestroyObject(s, k))
	}
}
