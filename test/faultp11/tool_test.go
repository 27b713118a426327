package faultp11_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/test/faultp11"
)

// tool runs pkcs11-tool with the module.
func tool(t *testing.T, h *host, args ...string) (output string, err error) {
	t.Helper()
	path, err := exec.LookPath("pkcs11-tool")
	if err != nil && required("pkcs11-tool") {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
	common := []string{"--module", h.m.Path, "--token-label", h.token.Label, "--login", "--pin", "env:TEST_PIN"}
	cmd := exec.Command(path, append(common, args...)...)
	cmd.Env = append(os.Environ(), append(h.token.Env(), "TEST_PIN="+h.token.PIN())...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func required(name string) bool {
	list := strings.Split(os.Getenv(faultp11.EnvRequire), ",")
	for _, part := range list {
		if part = strings.TrimSpace(part); part == name || part == "all" {
			return true
		}
	}
	return false
}

// TestToolThroughTheModule: an independent client works through it.
func TestToolThroughTheModule(t *testing.T) {
	h := newIdleHost(t)
	message := filepath.Join(t.TempDir(), "message")
	require.NoError(t, os.WriteFile(message, []byte("message"), 0o600))
	out, err := tool(t, h, "--keygen", "--key-type", "GENERIC:32", "--usage-sign", "--label", "key", "--id", "6b6579")
	require.NoError(t, err, out)
	mac := filepath.Join(t.TempDir(), "mac")
	out, err = tool(t, h, "--sign", "-m", "SHA256-HMAC", "--id", "6b6579", "--input-file", message, "--output-file", mac)
	require.NoError(t, err, out)

	h.initialize()
	s := h.login()
	got, err := os.ReadFile(mac)
	require.NoError(t, err)
	assert.Equal(t, h.mustMAC(s, h.find(s, "key")[0], "message"), string(got))

	h.m.AtStart("on C_SignInit fail CKR_DEVICE_MEMORY")
	out, err = tool(t, h, "--sign", "-m", "SHA256-HMAC", "--id", "6b6579", "--input-file", message, "--output-file", mac)
	require.Error(t, err)
	assert.Contains(t, out, "CKR_DEVICE_MEMORY", "a process begins with what AtStart says")
	h.mustMAC(s, h.find(s, "key")[0], "message")
}

// TestAnotherProcess: a test changes what a module does in another process while that one runs.
func TestAnotherProcess(t *testing.T) {
	h := newIdleHost(t)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+h.m.Path)
	cmd.Env = append(cmd.Env, h.token.Env()...)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	p := h.m.In(cmd.Process.Pid)
	p.AwaitLoaded()
	p.Await("C_GetInfo", func(n faultp11.Counters) bool { return n.Calls > 0 })
	p.Fail("C_GetInfo", 0x30)
	p.Await("C_GetInfo", func(n faultp11.Counters) bool { return n.Faults > 0 })
	require.NoError(t, stdin.Close())
	require.NoError(t, cmd.Wait(), out.String())
	assert.Equal(t, "pkcs11: 0x30: CKR_DEVICE_ERROR\n", out.String())
}

// TestEnvironment: a copy without a .conf file beside it is told by the environment what it wraps.
func TestEnvironment(t *testing.T) {
	h := newIdleHost(t)
	require.NoError(t, os.Remove(h.m.Path+".conf"))
	out, err := tool(t, h, "--list-objects")
	require.Error(t, err)
	assert.Contains(t, out, "FAULTP11_MODULE names no module")
	t.Setenv("FAULTP11_MODULE", h.token.Module)
	out, err = tool(t, h, "--list-objects")
	require.NoError(t, err, out)
	control := t.TempDir()
	require.NoError(t, os.WriteFile(control+"/start", []byte("# a comment\n\non C_Login fail CKR_PIN_LOCKED\n"), 0o600))
	t.Setenv("FAULTP11_CONTROL", control)
	out, err = tool(t, h, "--list-objects")
	require.Error(t, err)
	assert.Contains(t, out, "error: ") // the tool has been seen to end before it had named the value
}

// TestToolTestsTheModule: the tool's own tests of digests, signatures, wrapping and decryption say the same of the module as of what it
// wraps, so that each function gets its arguments.
func TestToolTestsTheModule(t *testing.T) {
	h := newIdleHost(t)
	out, err := tool(t, h, "--keypairgen", "--key-type", "RSA:2048", "--label", "pair", "--id", "01", "--usage-sign", "--usage-decrypt")
	require.NoError(t, err, out)
	got, gotErr := tool(t, h, "--test")
	h.m.Path = h.token.Module
	want, wantErr := tool(t, h, "--test")
	assert.Equal(t, wantErr == nil, gotErr == nil)
	assert.Equal(t, want, got)
	assert.Contains(t, got, "RSA-PKCS: OK")
}
