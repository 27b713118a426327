package softhsm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// EnvRequire names the environment variable that lists what tests may not skip, separated by commas: with "softhsm" or
// "all" in it, [NewToken] fails instead of skipping when SoftHSM is missing.
const EnvRequire = "PKCS11KMS_REQUIRE"

// TB is the part of [testing.TB] that this package needs. It is an interface of its own so that no program links package
// testing.
type TB interface {
	Helper()
	Cleanup(func())
	Logf(format string, args ...any)
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// TestToken is a token for one test. It is safe for concurrent use.
type TestToken struct {
	Token
	PINFile string // holds the user PIN, mode 0600

	pin func() string // a function, so that an assertion that prints the struct shows no PIN
}

// PIN returns the user PIN.
func (t TestToken) PIN() string { return t.pin() }

// kit is the configuration that all tests of this process share: SoftHSM reads SOFTHSM2_CONF once, so a test cannot have
// one of its own.
var kit struct {
	sync.Mutex         // guards what follows
	config     *Config // nil until a test asks for a token
	tokens     int     // tokens handed out and not yet removed
}

// NewToken makes a token with a random label and PIN for one test and removes it when the test ends. All tests of a
// process share one configuration in a temporary directory, made when a test asks for a token and removed with the last
// token. Without SoftHSM the test is skipped with the reason, or fails when [EnvRequire] asks for it. NewToken is safe for
// concurrent use, so parallel tests may call it.
func NewToken(tb TB) TestToken {
	tb.Helper()
	module, err := Find()
	if err != nil {
		missing(tb, err)
		return TestToken{} // for a TB that comes back
	}
	t, err := newToken(module)
	if err != nil {
		tb.Fatalf("%s", withHint(err))
		return TestToken{}
	}
	tb.Cleanup(func() {
		if err := releaseToken(t); err != nil {
			tb.Logf("removing token %q: %v", t.Label, err)
		}
	})
	return t
}

func missing(tb TB, err error) {
	tb.Helper()
	for part := range strings.SplitSeq(os.Getenv(EnvRequire), ",") {
		if part = strings.TrimSpace(part); part == "softhsm" || part == "all" {
			tb.Fatalf("%s=%s: %s", EnvRequire, os.Getenv(EnvRequire), withHint(err))
			return
		}
	}
	tb.Skipf("%s", withHint(err))
}

func withHint(err error) string {
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return err.Error() + "\n" + h.Hint()
	}
	return err.Error()
}

func newToken(module string) (t TestToken, err error) {
	kit.Lock()
	defer kit.Unlock()
	if err := setupKit(module); err != nil {
		return TestToken{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeIdleKit())
		}
	}()
	label, pin := "test-"+RandomPIN()[:16], RandomPIN()
	pinFile := filepath.Join(kit.config.Dir, label+".pin")
	if err := os.WriteFile(pinFile, []byte(pin+"\n"), 0o600); err != nil {
		return TestToken{}, err
	}
	token, err := kit.config.CreateToken(label, RandomPIN(), pin)
	if err != nil {
		return TestToken{}, err
	}
	kit.tokens++
	return TestToken{Token: token, PINFile: pinFile, pin: func() string { return pin }}, nil
}

// setupKit makes the shared configuration or makes it again. It keeps its path for as long as the process lives, for the
// sake of a module that is still initialised with it.
func setupKit(module string) error {
	dir := ""
	if kit.config != nil {
		dir = kit.config.Dir
		if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
			// Not MkdirAll: a directory that another user put there meanwhile is not ours.
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
		}
	} else {
		var err error
		if dir, err = os.MkdirTemp("", "softhsm-"); err != nil {
			return err
		}
	}
	c, err := Setup(dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	c.Module = module
	kit.config = c
	return nil
}

func releaseToken(t TestToken) error {
	kit.Lock()
	defer kit.Unlock()
	kit.tokens--
	err := errors.Join(kit.config.removeToken(t.Serial), os.Remove(t.PINFile))
	return errors.Join(err, removeIdleKit())
}

// removeIdleKit removes the shared configuration's files when no test has a token in it: a test process has no other
// moment at which it could.
func removeIdleKit() error {
	if kit.tokens > 0 {
		return nil
	}
	return os.RemoveAll(kit.config.Dir)
}
