package token_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// requireRefused opens a token and expects that a person is told what to do, without the PIN.
func requireRefused(t *testing.T, cfg token.Config, want token.Reason, secret string) *token.OpenError {
	t.Helper()
	tok, err := token.Open(context.Background(), cfg)
	if err == nil {
		require.NoError(t, tok.Close())
		require.Failf(t, "the token opened", "expected: %v", want)
	}
	var e *token.OpenError
	require.ErrorAs(t, err, &e)
	assert.Equal(t, want, e.Reason, e.Error())
	assert.NotEmpty(t, e.Hint())
	if secret != "" {
		assert.False(t, containsSecret(e.Error()+e.Hint(), secret), "the error holds the PIN")
	}
	return e
}

// containsSecret is apart from assert, which would print what it looks for.
func containsSecret(text, secret string) bool {
	for i := 0; i+len(secret) <= len(text); i++ {
		if text[i:i+len(secret)] == secret {
			return true
		}
	}
	return false
}

func writeFile(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

func TestOpenWithABadModule(t *testing.T) {
	tok := softhsm.NewToken(t)
	module, err := os.ReadFile(tok.Module)
	require.NoError(t, err)
	const machine = 18 // offset of e_machine in an ELF header
	foreign := append([]byte(nil), module...)
	foreign[machine], foreign[machine+1] = 8, 0 // MIPS
	for path, want := range map[string]struct {
		reason token.Reason
		says   string
	}{
		filepath.Join(t.TempDir(), "none.so"):            {token.ModuleMissing, "does not exist"},
		t.TempDir():                                      {token.ModuleUnusable, "not a regular file"},
		writeFile(t, []byte("text")):                     {token.ModuleUnusable, "not a shared library"},
		writeFile(t, nil):                                {token.ModuleUnusable, "not a shared library"},
		writeFile(t, foreign):                            {token.ModuleUnusable, "another kind of processor"},
		writeFile(t, module[:len(module)/2]):             {token.ModuleUnusable, "not complete"}, // the dynamic linker would crash,
		filepath.Join(writeFile(t, nil), "below a file"): {token.ModuleMissing, "looking at"},
	} {
		cfg := token.Config{URI: token.URI{Token: "kms", ModulePath: path}.String()}
		e := requireRefused(t, cfg, want.reason, "")
		assert.Contains(t, e.Error(), want.says)
	}
}

func TestOpenWithALibraryThatIsNoModule(t *testing.T) {
	var library string
	for _, pattern := range []string{"/lib/*/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			library = found[0]
		}
	}
	if library == "" {
		t.Skip("no shared C library where one is looked for")
	}
	cfg := token.Config{URI: token.URI{ModulePath: library}.String()}
	assert.Contains(t, requireRefused(t, cfg, token.ModuleUnusable, "").Error(), "not a PKCS#11 module")
}

func TestOpenWithABadURI(t *testing.T) {
	requireRefused(t, token.Config{URI: "kms"}, token.BadURI, "")
}

func TestNoSuchToken(t *testing.T) {
	cfg, tok := newConfig(t)
	other := softhsm.NewToken(t)
	f := newFaulty(&cfg)
	cfg.URI = token.URI{Token: "another", ModulePath: tok.Module, PINFile: tok.PINFile}.String()
	e := requireRefused(t, cfg, token.TokenMissing, tok.PIN())
	assert.Contains(t, e.Hint(), tok.Label, "the hint lists what is there")
	assert.Contains(t, e.Hint(), other.Serial)
	assert.Greater(t, f.count("C_Initialize"), 3, "the module was asked again, for the sake of SoftHSM's start-up")
	assert.Equal(t, f.count("C_Initialize"), f.count("C_Finalize"), "nothing stays initialised")
	assert.Zero(t, f.count("C_Login"))
}

// A card that is not recognised hides no other.
func TestBadCardBesideTheToken(t *testing.T) {
	cfg, _ := newConfig(t)
	other := softhsm.NewToken(t)
	slot := slotOf(t, pkcs11.New(open(t, cfg).Info().ModulePath), other.Label)
	newFaulty(&cfg).badSlots = map[uint]bool{slot: true}
	beside, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, beside.Close())
}

func TestNoSuchTokenWhileTheModuleIsInUse(t *testing.T) {
	cfg, tok := newConfig(t)
	user := open(t, cfg)
	f := newFaulty(&cfg)
	cfg.URI = token.URI{Token: "another", ModulePath: tok.Module, PINFile: tok.PINFile}.String()
	requireRefused(t, cfg, token.TokenMissing, tok.PIN())
	assert.Zero(t, f.count("C_Finalize"), "others use the module")
	assert.NoError(t, user.Healthy(t.Context()))
}

// addToken makes a second token of a label, which the provisioning package refuses to do.
func addToken(t *testing.T, tok softhsm.TestToken) {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", tok.ConfigFile)
	c := pkcs11.New(tok.Module)
	require.NoError(t, c.Initialize())
	defer func() { require.NoError(t, c.Finalize()) }()
	require.NoError(t, c.InitToken(slotOf(t, c, ""), "officer's PIN", tok.Label))
}

func TestTwoTokensOfOneLabel(t *testing.T) {
	cfg, tok := newConfig(t)
	addToken(t, tok)
	f := newFaulty(&cfg)
	cfg.URI = token.URI{Token: tok.Label, ModulePath: tok.Module, PINFile: tok.PINFile}.String()
	e := requireRefused(t, cfg, token.TokenAmbiguous, tok.PIN())
	assert.Contains(t, e.Error(), "2 tokens")
	assert.Contains(t, e.Hint(), tok.Serial)
	assert.Zero(t, f.count("C_Login"))
	cfg.URI = token.URI{Token: tok.Label, Serial: tok.Serial, ModulePath: tok.Module, PINFile: tok.PINFile}.String()
	assert.Equal(t, tok.Serial, open(t, cfg).Info().Serial)

	cfg.URI = token.URI{Token: tok.Label, ModulePath: tok.Module, PINFile: tok.PINFile}.String()
	cfg.Serial = tok.Serial
	assert.Equal(t, tok.Serial, open(t, cfg).Info().Serial, "the serial that is required tells which is meant")
}

func TestSerialIsChecked(t *testing.T) {
	cfg, tok := newConfig(t)
	f := newFaulty(&cfg)
	cfg.URI = token.URI{Token: tok.Label, ModulePath: tok.Module, PINFile: tok.PINFile}.String()
	cfg.Serial = "0123456789abcdef"
	e := requireRefused(t, cfg, token.SerialMismatch, tok.PIN())
	assert.Contains(t, e.Error(), tok.Serial)
	assert.Contains(t, e.Error(), cfg.Serial)
	assert.Zero(t, f.count("C_Login"))
	cfg.Serial = tok.Serial
	open(t, cfg)
}

func TestTokenWithoutInitialisation(t *testing.T) {
	for name, missing := range map[string]uint{
		"token": pkcs11.CKF_TOKEN_INITIALIZED, "user PIN": pkcs11.CKF_USER_PIN_INITIALIZED,
	} {
		cfg, tok := newConfig(t)
		f := newFaulty(&cfg)
		f.clear = missing
		cfg.URI = token.URI{Serial: tok.Serial, ModulePath: tok.Module, PINFile: tok.PINFile}.String()
		requireRefused(t, cfg, token.NotInitialized, tok.PIN())
		assert.Zero(t, f.count("C_Login"), name)
	}
}

func TestSecondSoftHSMConfiguration(t *testing.T) {
	cfg, tok := newConfig(t)
	open(t, cfg)
	second, err := softhsm.Setup(t.TempDir())
	require.NoError(t, err)
	other := cfg
	other.SoftHSMConf = second.File
	e := requireRefused(t, other, token.ConfigConflict, tok.PIN())
	assert.Contains(t, e.Error(), second.File)
	assert.Contains(t, e.Error(), cfg.SoftHSMConf)

	t.Setenv("SOFTHSM2_CONF", second.File)
	other.SoftHSMConf = ""
	requireRefused(t, other, token.ConfigConflict, tok.PIN())
	other.Wait = true
	requireRefused(t, other, token.ConfigConflict, tok.PIN())
	other.Wait = false

	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(cfg.SoftHSMConf, link))
	other.SoftHSMConf = link
	open(t, other)
}

func TestModuleThatDoesNotInitialise(t *testing.T) {
	cfg, tok := newConfig(t)
	f := newFaulty(&cfg)
	f.fail("C_Initialize", 1, pkcs11.CKR_GENERAL_ERROR)
	requireRefused(t, cfg, token.ModuleUnusable, tok.PIN())
	open(t, cfg)
}

func TestModuleThatDoesNotInitialiseAgain(t *testing.T) {
	cfg, tok := newConfig(t)
	f := newFaulty(&cfg)
	right := cfg.URI
	cfg.URI = token.URI{Token: "another", ModulePath: tok.Module, PINFile: tok.PINFile}.String()
	f.on("C_Initialize", func() error {
		if f.count("C_Initialize") > 1 {
			return pkcs11.Error(pkcs11.CKR_GENERAL_ERROR)
		}
		return nil
	})
	requireRefused(t, cfg, token.ModuleUnusable, tok.PIN())
	f.on("C_Initialize", nil)
	cfg.URI = right
	open(t, cfg)
}

func TestModuleWithoutTokens(t *testing.T) {
	cfg, tok := newConfig(t)
	f := newFaulty(&cfg)
	f.fail("C_GetSlotList", 100, pkcs11.CKR_DEVICE_ERROR)
	e := requireRefused(t, cfg, token.TokenMissing, tok.PIN())
	assert.Contains(t, e.Error(), "C_GetSlotList: CKR_DEVICE_ERROR")
	f.on("C_GetSlotList", nil)
	f.noSlots = true
	e = requireRefused(t, cfg, token.TokenMissing, tok.PIN())
	assert.Contains(t, e.Hint(), "no token at all")
}

// TestTokenThatComesLate is SoftHSM's start-up race, or a network module whose server is a moment late, made certain.
func TestTokenThatComesLate(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.noSlots = true
	f.on("C_Initialize", func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.noSlots = f.counts["C_Initialize"] < 3
		return nil
	})
	open(t, cfg)
	assert.Equal(t, 3, f.count("C_Initialize"))
	assert.Equal(t, 1, f.count("C_Login"))
}

// SoftHSM answers C_Login with CKR_GENERAL_ERROR while another process rewrites the token: that passes.
func TestLoginThatFailsForAMoment(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	f.fail("C_Login", 1, pkcs11.CKR_GENERAL_ERROR)
	require.NoError(t, open(t, cfg).Healthy(t.Context()))
	assert.Equal(t, 2, f.count("C_Login"))
}

func TestOpenEndsWithItsContext(t *testing.T) {
	cfg, _ := newConfig(t)
	f := newFaulty(&cfg)
	for _, function := range []string{"C_Initialize", "C_Login", "C_GenerateKey"} {
		reached, free := f.hang(function)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			_, err := token.Open(ctx, cfg)
			done <- err
		}()
		<-reached
		cancel()
		err := <-done
		require.ErrorIs(t, err, context.Canceled, function)
		var hung *token.HungError
		require.ErrorAs(t, err, &hung)

		waiting, stop := context.WithCancel(context.Background())
		stop()
		_, err = token.Open(waiting, cfg)
		require.ErrorIs(t, err, context.Canceled, "another does not wait for ever for the module")
		free()
		<-hung.Done()
	}
	assert.Equal(t, f.count("C_Initialize"), f.count("C_Finalize"), "what was opened too late is closed")
	open(t, cfg)
}

func TestOpenErrorIsReadable(t *testing.T) {
	assert.Equal(t, "PIN refused", token.PINRefused.String())
	assert.Equal(t, "Reason(99)", token.Reason(99).String())
	cause := errors.New("cause")
	_, err := token.Open(context.Background(), token.Config{URI: "kms"})
	assert.NotErrorIs(t, err, cause)
	assert.Nil(t, errors.Unwrap(err))
}

// An Open that fails gives its session back: while another Token keeps the module initialised, nothing else would end it.
func TestOpenThatFailsLeavesNoSession(t *testing.T) {
	cfg, _ := newConfig(t)
	open(t, cfg)
	for _, function := range []string{"C_GetSessionInfo", "C_GenerateRandom"} {
		t.Run(function, func(t *testing.T) {
			cfg := cfg
			f := newFaulty(&cfg)
			f.fail(function, 1, pkcs11.CKR_DEVICE_ERROR)
			_, err := token.Open(t.Context(), cfg)
			requireRV(t, err, function, pkcs11.CKR_DEVICE_ERROR)
			require.Positive(t, f.count("C_OpenSession"))
			require.Equal(t, f.count("C_OpenSession"), f.count("C_CloseSession"))
		})
	}
}
