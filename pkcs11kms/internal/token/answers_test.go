package token_test

import (
	"errors"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// What each return value is taken for, of those that say something of the device, the session, the object or the mechanism.
func TestWhatReturnValuesSay(t *testing.T) {
	session := []uint{pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_OPERATION_ACTIVE}
	device := append([]uint{pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED,
		pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_GENERAL_ERROR,
		pkcs11.CKR_FUNCTION_FAILED}, session...)
	stale := []uint{pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID}
	unsupported := []uint{pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED, pkcs11.CKR_KEY_SIZE_RANGE,
		pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_MECHANISM_PARAM_INVALID}
	is := map[string]map[uint]bool{}
	for name, does := range map[string]func(*token.Error) bool{"session": (*token.Error).SessionLost, "device": (*token.Error).DeviceLost,
		"stale": (*token.Error).StaleHandle, "unsupported": (*token.Error).Unsupported} {
		is[name] = map[uint]bool{}
		for rv := range uint(0x300) {
			if does(&token.Error{Func: "C_Sign", RV: rv}) {
				is[name][rv] = true
			}
		}
	}
	for name, want := range map[string][]uint{"session": session, "device": device, "stale": stale, "unsupported": unsupported} {
		assert.Len(t, is[name], len(want), name)
		for _, rv := range want {
			assert.True(t, is[name][rv], "%s 0x%X", name, rv)
		}
	}
}

// A kind of key is missing where the token has refused it, whatever it found wrong with what was asked, and not where it was in trouble.
func TestWhichAnswersAreGaps(t *testing.T) {
	tok, f := openFaulty(t)
	for rv, gap := range map[uint]bool{
		pkcs11.CKR_MECHANISM_INVALID: true, pkcs11.CKR_FUNCTION_NOT_SUPPORTED: true, pkcs11.CKR_KEY_SIZE_RANGE: true,
		pkcs11.CKR_MECHANISM_PARAM_INVALID: true, pkcs11.CKR_TEMPLATE_INCOMPLETE: true, pkcs11.CKR_TEMPLATE_INCONSISTENT: true,
		pkcs11.CKR_ATTRIBUTE_TYPE_INVALID: true, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID: true, pkcs11.CKR_DOMAIN_PARAMS_INVALID: true,
		pkcs11.CKR_CURVE_NOT_SUPPORTED: true, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED: true,
		pkcs11.CKR_HOST_MEMORY: false, pkcs11.CKR_DEVICE_MEMORY: false, pkcs11.CKR_ARGUMENTS_BAD: false,
	} {
		f.on("C_GenerateKeyPair", func() error { return pkcs11.Error(rv) })
		_, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, randomBytes(t, 16), "label")
		require.Error(t, err)
		_, missing := errors.AsType[*token.GapError](err)
		assert.Equal(t, gap, missing, "0x%X", rv)
	}
}
