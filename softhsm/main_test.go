package softhsm_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

// envRole makes the test binary a child process that does one job instead of the tests.
const envRole = "SOFTHSM_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(envRole); role != "" {
		flag.Parse()
		if err := roles[role](flag.Args()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if _, err := softhsm.Find(); err != nil && os.Getenv(softhsm.EnvRequire) == "" {
		// Examples cannot skip themselves, and their output is a promise that needs SoftHSM.
		_ = flag.Set("test.skip", "^Example")
	}
	os.Exit(m.Run())
}

var roles = map[string]func(args []string) error{
	"create": func(args []string) error {
		c, err := softhsm.Setup(args[0])
		if err != nil {
			return err
		}
		t, err := c.CreateToken(args[1], softhsm.RandomPIN(), softhsm.RandomPIN())
		if errors.Is(err, softhsm.ErrTokenExists) {
			fmt.Print("exists")
			return nil
		}
		fmt.Print(t.Serial)
		return err
	},
	"create-without-space": func(args []string) error {
		c, err := softhsm.Setup(args[0])
		if err != nil {
			return err
		}
		signal.Ignore(syscall.SIGXFSZ)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{}); err != nil {
			return err
		}
		if _, err = c.CreateToken(args[1], softhsm.RandomPIN(), softhsm.RandomPIN()); err == nil {
			return errors.New("creating a token without space for it succeeded")
		}
		return nil
	},
	"sign":  signRole,
	"login": loginRole,
}

// child runs a role in a process of its own and returns what it printed.
func child(t *testing.T, env []string, role string, args ...string) string {
	t.Helper()
	cmd := childCommand(t, env, role, args...)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("role %s: %v\n%s", role, err, exit.Stderr)
	}
	require.NoError(t, err)
	return string(out)
}

func childCommand(t *testing.T, env []string, role string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, append([]string{"--"}, args...)...)
	// A process with the race detector waits a second before it ends, unless told not to.
	cmd.Env = append(append(os.Environ(), env...), envRole+"="+role, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// setup makes a configuration for one test, or skips as NewToken does.
func setup(t *testing.T) *softhsm.Config {
	t.Helper()
	softhsm.NewToken(t) // its rules for a missing SoftHSM are the ones wanted here
	c, err := softhsm.Setup(t.TempDir())
	require.NoError(t, err)
	return c
}

func create(t *testing.T, c *softhsm.Config, label string) softhsm.Token {
	t.Helper()
	tok, err := c.CreateToken(label, softhsm.RandomPIN(), softhsm.RandomPIN())
	require.NoError(t, err)
	return tok
}

// initialize makes the test the module's owner until it ends.
func initialize(t *testing.T) *pkcs11.Ctx {
	t.Helper()
	path, err := softhsm.Find()
	require.NoError(t, err)
	ctx := pkcs11.New(path)
	require.NotNil(t, ctx)
	require.NoError(t, ctx.Initialize())
	t.Cleanup(func() { require.NoError(t, ctx.Finalize()) })
	return ctx
}

// labels lists the initialised tokens that the module shows: label to serial.
func labels(t *testing.T, ctx *pkcs11.Ctx) map[string]string {
	t.Helper()
	slots, err := ctx.GetSlotList(true)
	require.NoError(t, err)
	found := map[string]string{}
	for _, id := range slots {
		info, err := ctx.GetTokenInfo(id)
		if err == nil && info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 {
			require.NotContains(t, found, info.Label, "two tokens of one label")
			found[info.Label] = info.SerialNumber
		}
	}
	return found
}

func hint(t *testing.T, err error) string {
	t.Helper()
	h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err)
	require.True(t, ok, "no hint in: %v", err)
	return h.Hint()
}
