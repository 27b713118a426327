package token_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// withPINFile names another PIN file in the URI.
func withPINFile(cfg token.Config, tok softhsm.TestToken, path string) token.Config {
	cfg.URI = tok.URI(path)
	return cfg
}

func writePIN(t *testing.T, pin string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pin")
	require.NoError(t, os.WriteFile(path, []byte(pin), 0o600))
	require.NoError(t, os.Chmod(path, mode))
	return path
}

func TestPINFileThatIsTaken(t *testing.T) {
	cfg, tok := newConfig(t)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(tok.PINFile, link))
	for _, path := range []string{
		writePIN(t, tok.PIN(), 0o600), writePIN(t, tok.PIN()+"\n", 0o400), writePIN(t, tok.PIN()+"\r\n", 0o640), link,
	} {
		open(t, withPINFile(cfg, tok, path))
	}
}

func TestPINFileThatIsRefused(t *testing.T) {
	cfg, tok := newConfig(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	f := newFaulty(&cfg)
	for path, says := range map[string]string{
		filepath.Join(t.TempDir(), "none"):            "does not exist",
		writePIN(t, tok.PIN(), 0o604):                 "open to other users",
		writePIN(t, tok.PIN(), 0o602):                 "open to other users",
		writePIN(t, tok.PIN(), 0o601):                 "open to other users",
		writePIN(t, tok.PIN(), 0o620):                 "written by its group",
		t.TempDir():                                   "not a regular file",
		pipe:                                          "not a regular file",
		writePIN(t, "", 0o600):                        "is empty",
		writePIN(t, "\n", 0o600):                      "is empty",
		writePIN(t, strings.Repeat("x", 4096), 0o600): "too large",
	} {
		e := requireRefused(t, withPINFile(cfg, tok, path), token.PINSource, tok.PIN())
		assert.Contains(t, e.Error(), says)
	}
	if os.Geteuid() != 0 {
		e := requireRefused(t, withPINFile(cfg, tok, writePIN(t, tok.PIN(), 0)), token.PINSource, tok.PIN())
		assert.ErrorIs(t, e, os.ErrPermission)
	}
	if os.Geteuid() == 0 {
		path := writePIN(t, tok.PIN(), 0o600)
		require.NoError(t, os.Chown(path, 12345, -1))
		e := requireRefused(t, withPINFile(cfg, tok, path), token.PINSource, tok.PIN())
		assert.Contains(t, e.Error(), "belongs to the user with the id 12345")
	}
	requireRefused(t, withPINFile(cfg, tok, ""), token.PINSource, tok.PIN())
	assert.Zero(t, f.count("C_Login"))
}

func TestPINCallback(t *testing.T) {
	cfg, tok := newConfig(t)
	cfg.URI = tok.URI("")
	asked := 0
	cfg.PIN = func(context.Context) (string, error) {
		asked++
		return tok.PIN(), nil
	}
	open(t, cfg)
	assert.Equal(t, 1, asked)
	open(t, cfg)
	assert.Equal(t, 1, asked, "the process is logged in already")
}

func TestPINCallbackFails(t *testing.T) {
	cfg, tok := newConfig(t)
	f := newFaulty(&cfg)
	cause := errors.New("nobody at the keyboard")
	cfg.PIN = func(context.Context) (string, error) { return "", cause }
	assert.ErrorIs(t, requireRefused(t, cfg, token.PINSource, tok.PIN()), cause)
	cfg.PIN = func(context.Context) (string, error) { return "", nil }
	requireRefused(t, cfg, token.PINSource, tok.PIN())
	assert.Zero(t, f.count("C_Login"))
}

func TestPINFlagsForbidAnAttempt(t *testing.T) {
	for flag, want := range map[uint]token.Reason{
		pkcs11.CKF_USER_PIN_LOCKED:    token.PINLocked,
		pkcs11.CKF_USER_PIN_FINAL_TRY: token.PINAttemptUnsafe,
		pkcs11.CKF_USER_PIN_COUNT_LOW: token.PINAttemptUnsafe,
	} {
		cfg, tok := newConfig(t)
		f := newFaulty(&cfg)
		f.flags = flag
		requireRefused(t, cfg, want, tok.PIN())
		assert.Zero(t, f.count("C_Login"))

		cfg.TryLowPIN = true
		if flag == pkcs11.CKF_USER_PIN_COUNT_LOW {
			open(t, cfg)
			assert.Equal(t, 1, f.count("C_Login"))
			continue
		}
		requireRefused(t, cfg, want, tok.PIN())
		assert.Zero(t, f.count("C_Login"), "TryLowPIN allows no more than it says")
	}
}

func TestWrongPINIsTriedOnce(t *testing.T) {
	cfg, tok := newConfig(t)
	const wrong = "not the PIN at all"
	path := writePIN(t, wrong, 0o600)
	cfg = withPINFile(cfg, tok, path)
	f := newFaulty(&cfg)
	e := requireRefused(t, cfg, token.PINRefused, wrong)
	assert.Equal(t, 1, f.count("C_Login"))
	var rv *token.Error
	require.ErrorAs(t, e, &rv)
	assert.Equal(t, "C_Login: CKR_PIN_INCORRECT", rv.Error())

	requireRefused(t, cfg, token.PINAttemptUnsafe, wrong)
	f.clear = pkcs11.CKF_USER_PIN_COUNT_LOW // as on a token that does not report it
	requireRefused(t, cfg, token.PINAttemptUnsafe, wrong)
	assert.Equal(t, 1, f.count("C_Login"), "the same PIN is not tried again")

	mended := writePIN(t, tok.PIN(), 0o600)
	require.NoError(t, os.Rename(mended, path))
	open(t, cfg)
	assert.Equal(t, 2, f.count("C_Login"))
}

func TestTryLowPIN(t *testing.T) {
	cfg, tok := newConfig(t)
	right, wrong := cfg, withPINFile(cfg, tok, writePIN(t, "wrong PIN", 0o600))
	requireRefused(t, wrong, token.PINRefused, "wrong PIN")
	requireRefused(t, right, token.PINAttemptUnsafe, tok.PIN())
	for _, try := range []bool{true, false} { // each logs in anew: the good PIN of the first ends the refusal
		right.TryLowPIN = try
		opened, err := token.Open(t.Context(), right)
		require.NoError(t, err)
		require.NoError(t, opened.Close())
	}
}

// A good PIN ends what is remembered of a bad one from the same source.
func TestGoodPINEndsTheRefusal(t *testing.T) {
	cfg, made := newConfig(t)
	pin := "wrong PIN"
	cfg.PIN = func(context.Context) (string, error) { return pin, nil }
	requireRefused(t, cfg, token.PINRefused, pin)
	pin = made.PIN()
	requireRefused(t, cfg, token.PINAttemptUnsafe, pin)
	for _, try := range []bool{true, false} {
		cfg.TryLowPIN = try
		tok, err := token.Open(t.Context(), cfg)
		require.NoError(t, err)
		require.NoError(t, tok.Close())
	}
}

// What one token has refused says nothing of another of the same module, and what the other takes nothing of the first.
func TestARefusalIsOfOneToken(t *testing.T) {
	cfg, _ := newConfig(t)
	other, theirs := newConfig(t)
	const wrong = "wrong PIN"
	cfg.PIN = func(context.Context) (string, error) { return wrong, nil }
	other.PIN = func(context.Context) (string, error) { return theirs.PIN(), nil }
	requireRefused(t, cfg, token.PINRefused, wrong)
	open(t, other)
	f := newFaulty(&cfg)
	f.clear = pkcs11.CKF_USER_PIN_COUNT_LOW // which would be another reason to refuse it
	requireRefused(t, cfg, token.PINAttemptUnsafe, wrong)
	require.Zero(t, f.count("C_Login"))
}

func TestLogHoldsNoSecrets(t *testing.T) {
	cfg, tok := newConfig(t)
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	const wrong, message = "a PIN that is wrong", "a message of value"
	requireRefused(t, withPINFile(cfg, tok, writePIN(t, wrong, 0o600)), token.PINRefused, wrong)
	cfg.TryLowPIN = true
	f := newFaulty(&cfg)
	opened, err := token.Open(t.Context(), cfg)
	require.NoError(t, err)
	key := newKey(t, opened)
	for _, rv := range lostValues {
		f.fail("C_Sign", 1, rv)
		_, err := opened.MAC(t.Context(), key, []byte(message))
		require.NoError(t, err)
	}
	require.NoError(t, opened.Close())
	assert.Contains(t, log.String(), "a session of the token failed")
	for _, secret := range []string{wrong, message, tok.PIN()} {
		assert.False(t, containsSecret(log.String(), secret))
	}
}

func TestAnswersOfLogin(t *testing.T) {
	for rv, want := range map[uint]token.Reason{
		pkcs11.CKR_PIN_LOCKED: token.PINLocked, pkcs11.CKR_PIN_EXPIRED: token.PINRefused,
		pkcs11.CKR_PIN_LEN_RANGE: token.PINRefused, pkcs11.CKR_PIN_INVALID: token.PINRefused,
	} {
		cfg, tok := newConfig(t)
		f := newFaulty(&cfg)
		f.fail("C_Login", 1, rv)
		requireRefused(t, cfg, want, tok.PIN())
		assert.Equal(t, 1, f.count("C_Login"))
	}
	tok, f := openFaulty(t, func(c *token.Config) {})
	assert.Equal(t, 1, f.count("C_Login"))
	assert.NoError(t, tok.Healthy(t.Context()))
}

func TestAlreadyLoggedInIsSuccess(t *testing.T) {
	cfg, _ := newConfig(t)
	first := open(t, cfg)
	f := newFaulty(&cfg)
	// The login shows only in C_Login, as on a module whose C_GetSessionInfo is behind.
	f.on("C_GetSessionInfo", nil)
	f.fail("C_Login", 1, pkcs11.CKR_USER_ALREADY_LOGGED_IN)
	second := open(t, cfg)
	assert.NoError(t, first.Healthy(t.Context()))
	assert.NoError(t, second.Healthy(t.Context()))
}

// TestWrongPINAtTheToken lets an independent observer between us and SoftHSM count the attempts.
func TestWrongPINAtTheToken(t *testing.T) {
	spy := findSpy(t)
	cfg, tok := newConfig(t)
	uri := token.URI{Token: tok.Label, ModulePath: spy, PINFile: writePIN(t, "wrong PIN", 0o600)}
	cfg.URI = uri.String()
	log := filepath.Join(t.TempDir(), "spy.log")
	for range 2 {
		cmd := child(t, "openclose", cfg, "PKCS11SPY="+tok.Module, "PKCS11SPY_OUTPUT="+log)
		var exit *exec.ExitError
		require.ErrorAs(t, cmd.Run(), &exit)
	}
	calls, err := os.ReadFile(log)
	require.NoError(t, err)
	assert.Equal(t, 1, strings.Count(string(calls), "C_Login"), "one attempt in two runs: the first has set CKF_USER_PIN_COUNT_LOW")
	assert.Zero(t, strings.Count(string(calls), "C_Logout"))
}

func findSpy(t *testing.T) string {
	t.Helper()
	return find(t, "opensc", "pkcs11-spy.so", "/usr/lib/*/pkcs11-spy.so", "/usr/lib/*/pkcs11/pkcs11-spy.so", "/usr/lib*/pkcs11-spy.so",
		"/usr/lib*/pkcs11/pkcs11-spy.so")
}

// find returns the module of a package, and skips without it, or fails where the package is required.
func find(t *testing.T, pkg, module string, patterns ...string) string {
	t.Helper()
	for _, pattern := range patterns {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	for part := range strings.SplitSeq(os.Getenv(softhsm.EnvRequire), ",") {
		if part == pkg || part == "all" {
			require.Fail(t, module+" is required and missing (apt-get install "+pkg+")")
		}
	}
	t.Skip(module + " is missing (apt-get install " + pkg + ")")
	return ""
}
