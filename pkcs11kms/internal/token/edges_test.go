package token_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A PIN has at most 1,024 bytes, as the file that it is in.
func TestLongestPIN(t *testing.T) {
	for length, want := range map[int]token.Reason{1024: token.PINRefused, 1025: token.PINSource} {
		cfg, tok := newConfig(t)
		pin := strings.Repeat("x", length)
		requireRefused(t, withPINFile(cfg, tok, writePIN(t, pin, 0o600)), want, pin)
	}
}

// A PIN file that was changed after its PIN was refused is read again, by whatever the change can be told; one that was not is
// not. The token takes one attempt for each.
func TestChangedPINFileIsTriedAgain(t *testing.T) {
	for name, change := range map[string]func(path string, pin string, at time.Time) error{
		"time": func(path, pin string, at time.Time) error { // of the same size, in the same place
			return os.Chtimes(path, at, at.Add(time.Second))
		},
		"size": func(path, pin string, at time.Time) error {
			if err := os.WriteFile(path, []byte(pin+"\n"), 0o600); err != nil {
				return err
			}
			return os.Chtimes(path, at, at)
		},
		"file": func(path, pin string, at time.Time) error {
			if err := os.WriteFile(path+".new", []byte(pin), 0o600); err != nil {
				return err
			}
			if err := os.Chtimes(path+".new", at, at); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, tok := newConfig(t)
			f := newFaulty(&cfg)
			f.clear = pkcs11.CKF_USER_PIN_COUNT_LOW
			const wrong = "a wrong PIN"
			path, at := filepath.Join(t.TempDir(), "pin"), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			require.NoError(t, os.WriteFile(path, []byte(wrong), 0o600))
			require.NoError(t, os.Chtimes(path, at, at))
			cfg = withPINFile(cfg, tok, path)
			requireRefused(t, cfg, token.PINRefused, wrong)
			requireRefused(t, cfg, token.PINAttemptUnsafe, wrong)
			require.Equal(t, 1, f.count("C_Login"))
			require.NoError(t, change(path, wrong, at))
			requireRefused(t, cfg, token.PINRefused, wrong)
			require.Equal(t, 2, f.count("C_Login"))
		})
	}
}

// Each selector of the URI must be the token's.
func TestEverySelectorCounts(t *testing.T) {
	cfg, tok := newConfig(t)
	opened := open(t, cfg)
	info := opened.Info()
	good := token.URI{Token: info.Label, Serial: info.Serial, Manufacturer: info.Manufacturer, Model: info.Model, ModulePath: tok.Module,
		PINFile: tok.PINFile}
	cfg.URI = good.String()
	open(t, cfg)
	for name, change := range map[string]func(*token.URI){
		"token":        func(u *token.URI) { u.Token = "another" },
		"serial":       func(u *token.URI) { u.Serial = "another" },
		"manufacturer": func(u *token.URI) { u.Manufacturer = "another" },
		"model":        func(u *token.URI) { u.Model = "another" },
	} {
		u := good
		change(&u)
		cfg.URI = u.String()
		e := requireRefused(t, cfg, token.TokenMissing, tok.PIN())
		assert.Contains(t, e.Hint(), info.Label, name)
	}
}

// Some modules pad the fields of CK_TOKEN_INFO with NUL bytes.
func TestFieldsPaddedWithNUL(t *testing.T) {
	cfg, _ := newConfig(t)
	tok, _ := openAs(t, cfg, "Yubico (www.yubico.com)\x00\x00", "YubiHSM\x00 \x00")
	assert.Equal(t, "YubiHSM", tok.Info().Model)
	assert.Equal(t, 2, tok.Capabilities().IDBytes, "its quirks are known by its name")
}

// That a token honours CKA_ALLOWED_MECHANISMS is believed when it makes the MAC that is allowed, and refuses the other one by C_SignInit
// with an answer that is about the mechanism.
func TestProbeOfAllowedMechanisms(t *testing.T) {
	for name, tc := range map[string]struct {
		call     int64 // of C_SignInit during the probe: four hashes, the one that is allowed, the other one
		again    int64 // the same call of the second try
		rv       uint
		honoured bool
	}{
		"as it is":                      {0, 0, 0, true},
		"allowed one refused":           {5, 0, pkcs11.CKR_MECHANISM_INVALID, false},
		"allowed one: no memory once":   {5, 0, pkcs11.CKR_HOST_MEMORY, true},
		"allowed one: no memory":        {5, 7, pkcs11.CKR_HOST_MEMORY, false},
		"other one refused":             {6, 0, pkcs11.CKR_MECHANISM_INVALID, true},
		"other one: device error once":  {6, 0, pkcs11.CKR_DEVICE_ERROR, true},
		"other one: device error twice": {6, 8, pkcs11.CKR_DEVICE_ERROR, false},
	} {
		cfg, _ := newConfig(t)
		f := newFaulty(&cfg)
		var calls atomic.Int64
		f.on("C_SignInit", func() error {
			if n := calls.Add(1); n == tc.call || n == tc.again {
				return pkcs11.Error(tc.rv)
			}
			return nil
		})
		tok := open(t, cfg)
		assert.Equal(t, tc.honoured, tok.Capabilities().AllowedMechanisms, name)
	}
}

// A search that broke off is ended all the same.
func TestBrokenSearchIsEnded(t *testing.T) {
	tok, f := openFaulty(t)
	ended := f.count("C_FindObjectsFinal")
	f.fail("C_FindObjects", 1, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID)
	_, err := tok.Describe(t.Context(), []byte("0123456789abcdef"))
	requireRV(t, err, "C_FindObjects", pkcs11.CKR_ATTRIBUTE_VALUE_INVALID)
	assert.Equal(t, ended+1, f.count("C_FindObjectsFinal"))
}

// Of a pair the private half is destroyed first, in whatever order the token shows them: what is left after a failure signs nothing.
func TestPrivateHalfIsDestroyedFirst(t *testing.T) {
	for _, backwards := range []bool{false, true} {
		tok, f := openFaulty(t)
		pair, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, randomBytes(t, 16), "pair")
		require.NoError(t, err)
		f.set(func() { f.backwards = backwards })
		var calls atomic.Int64
		f.on("C_DestroyObject", func() error {
			if calls.Add(1) == 2 {
				return pkcs11.Error(pkcs11.CKR_ACTION_PROHIBITED)
			}
			return nil
		})
		requireRV(t, tok.DestroyObject(t.Context(), pair.ID()), "C_DestroyObject", pkcs11.CKR_ACTION_PROHIBITED)
		objects, err := tok.Objects(t.Context())
		require.NoError(t, err)
		left := slices.IndexFunc(objects, func(o token.Object) bool { return slices.Equal(o.ID, pair.ID()) })
		require.GreaterOrEqual(t, left, 0)
		assert.Equal(t, "CKO_PUBLIC_KEY", objects[left].ClassName(), "backwards: %v", backwards)
		assert.False(t, slices.ContainsFunc(objects, token.Object.PrivateKey))
	}
}

// When neither the digest nor the message can be signed, the answer is the token's first one.
func TestFirstRefusalToSignIsTold(t *testing.T) {
	tok, f := openFaulty(t)
	pair, _, err := tok.GenerateKeyPair(t.Context(), pubkey.P256, randomBytes(t, 16), "pair")
	require.NoError(t, err)
	var calls atomic.Int64
	f.on("C_SignInit", func() error {
		if calls.Add(1) == 1 {
			return pkcs11.Error(pkcs11.CKR_KEY_TYPE_INCONSISTENT)
		}
		return pkcs11.Error(pkcs11.CKR_MECHANISM_INVALID)
	})
	_, err = tok.Sign(t.Context(), pair, pubkey.ECDSASHA256, []byte("message"))
	requireRV(t, err, "C_SignInit", pkcs11.CKR_KEY_TYPE_INCONSISTENT)
}

// Another library in the process may have finalized the module by the time that Close would: that is what Close wants.
func TestCloseAfterAnotherHasFinalized(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	tok, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	f.on("C_Finalize", func() error {
		require.NoError(t, f.Module.Finalize())
		return pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
	})
	require.NoError(t, tok.Close())
}

// A module that cannot tell what it is does not stay initialised.
func TestModuleThatDoesNotDescribeItself(t *testing.T) {
	cfg, tok := newConfig(t)
	f := newFaulty(&cfg)
	f.fail("C_GetInfo", 1, pkcs11.CKR_GENERAL_ERROR)
	requireRefused(t, cfg, token.ModuleUnusable, tok.PIN())
	assert.Equal(t, 1, f.count("C_Initialize"))
	assert.Equal(t, 1, f.count("C_Finalize"))
	open(t, cfg)
}
