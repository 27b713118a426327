package softhsm_test

import (
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

// tool finds a program that belongs to the optional part named, or skips the test.
func tool(t *testing.T, part, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	for required := range strings.SplitSeq(os.Getenv(softhsm.EnvRequire), ",") {
		if required == part || required == "all" {
			t.Fatalf("%s is required and missing", name)
		}
	}
	t.Skipf("%s is missing", name)
	return ""
}

// sign makes the MAC of a fixed message with the one HMAC key of a token, through crypto11.
func sign(module, serial, pin string, makeKey bool) ([]byte, error) {
	ctx, err := crypto11.Configure(&crypto11.Config{Path: module, TokenSerial: serial, Pin: pin})
	if err != nil {
		return nil, err
	}
	defer func() { _ = ctx.Close() }()
	id := []byte("shared key")
	if makeKey {
		if _, err := ctx.GenerateSecretKey(id, 256, crypto11.CipherGeneric); err != nil {
			return nil, err
		}
	}
	key, err := ctx.FindKey(id, nil)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, fmt.Errorf("finding key in token %q: none", serial)
	}
	mac, err := key.NewHMAC(pkcs11.CKM_SHA256_HMAC, 0)
	if err != nil {
		return nil, err
	}
	if _, err := mac.Write([]byte("message")); err != nil {
		return nil, err
	}
	return mac.Sum(nil), nil
}

func signRole(args []string) error {
	pin, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	tag, err := sign(args[0], args[1], strings.TrimSpace(string(pin)), false)
	fmt.Print(hex.EncodeToString(tag))
	return err
}

// loginRole logs in again and again until its standard input ends. It prints a byte after each time.
func loginRole(args []string) error {
	pin, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	ended := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		ended <- err
	}()
	ctx := pkcs11.New(args[0])
	for {
		select {
		case err := <-ended:
			return err
		default:
		}
		if err := loginOnce(ctx, strings.TrimSpace(string(pin))); err != nil {
			return err
		}
		fmt.Print(".")
	}
}

// loginOnce logs in to every token that it sees, which may be none for a moment.
func loginOnce(ctx *pkcs11.Ctx, pin string) error {
	if err := ctx.Initialize(); err != nil {
		return err
	}
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return err
	}
	for _, id := range slots {
		info, err := ctx.GetTokenInfo(id)
		if err != nil || info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		session, err := ctx.OpenSession(id, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			continue
		}
		// Two of these disturb one another: SoftHSM then answers that there is no user PIN. What counts is the writing.
		_ = ctx.Login(session, pkcs11.CKU_USER, pin)
	}
	return ctx.Finalize()
}

func TestTakenLabelWhileOthersLogIn(t *testing.T) {
	tok := softhsm.NewToken(t)
	c, err := softhsm.Setup(filepath.Dir(tok.ConfigFile))
	require.NoError(t, err)
	for range 2 {
		cmd := childCommand(t, tok.Env(), "login", tok.Module, tok.PINFile)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		defer func() {
			require.NoError(t, stdin.Close())
			assert.NoError(t, cmd.Wait(), "%s", &out)
		}()
	}
	for range 50 {
		_, err := c.CreateToken(tok.Label, softhsm.RandomPIN(), softhsm.RandomPIN())
		require.ErrorIs(t, err, softhsm.ErrTokenExists)
	}
}

func TestAnotherProcessSeesTheToken(t *testing.T) {
	tok := softhsm.NewToken(t)
	tag, err := sign(tok.Module, tok.Serial, tok.PIN(), true)
	require.NoError(t, err)
	got := child(t, tok.Env(), "sign", tok.Module, tok.Serial, tok.PINFile)
	assert.True(t, hex.EncodeToString(tag) == got, "the child's MAC differs")
}

func TestAnotherClientLogsIn(t *testing.T) {
	tok := softhsm.NewToken(t)
	pkcs11tool := tool(t, "opensc", "pkcs11-tool")
	run := func(args ...string) string {
		cmd := exec.Command(pkcs11tool, append([]string{"--module", tok.Module}, args...)...)
		cmd.Env = append(append(os.Environ(), tok.Env()...), "TEST_PIN="+tok.PIN())
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	assert.Contains(t, run("--list-token-slots"), tok.Serial)
	run("--token-label", tok.Label, "--login", "--pin", "env:TEST_PIN", "--keygen", "--key-type", "GENERIC:32", "--label", "other")
	listed := run("--token-label", tok.Label, "--login", "--pin", "env:TEST_PIN", "--list-objects", "--type", "secrkey")
	assert.Regexp(t, `label: +other`, listed)
}

func TestOneLabelInManyProcesses(t *testing.T) {
	c := setup(t)
	const processes = 6
	cmds, outs := make([]*exec.Cmd, processes), make([]strings.Builder, processes)
	for i := range cmds {
		cmds[i] = childCommand(t, nil, "create", c.Dir, "one label")
		cmds[i].Stdout, cmds[i].Stderr = &outs[i], &outs[i]
		require.NoError(t, cmds[i].Start())
	}
	var made []string
	for i := range cmds {
		require.NoError(t, cmds[i].Wait(), "%s", &outs[i])
		if out := outs[i].String(); out != "exists" {
			made = append(made, out)
		}
	}
	require.Len(t, made, 1)
	require.NoError(t, c.Use())
	assert.Equal(t, map[string]string{"one label": made[0]}, labels(t, initialize(t)))
}

func TestNoSpaceForTheToken(t *testing.T) {
	c := setup(t)
	keep := create(t, c, "keep")
	child(t, nil, "create-without-space", c.Dir, "full")
	tok := create(t, c, "full")
	assert.Equal(t, map[string]string{"keep": keep.Serial, "full": tok.Serial}, labels(t, initialize(t)))
}
