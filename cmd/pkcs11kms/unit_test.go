package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

const unitFile = "../../docs/pkcs11kms.service"

// requireTool finds a program of the part named, or ends the test as missing does.
func requireTool(t *testing.T, part, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, part, name)
	}
	return path
}

// missing ends a test that lacks a part: with a failure where PKCS11KMS_REQUIRE asks for it.
func missing(t *testing.T, part, what string) {
	t.Helper()
	for required := range strings.SplitSeq(os.Getenv(softhsm.EnvRequire), ",") {
		if required = strings.TrimSpace(required); required == part || required == "all" {
			t.Fatalf("%s=%s: %s is missing", softhsm.EnvRequire, required, what)
		}
	}
	t.Skipf("%s is missing: it comes with %s", what, part)
}

// execStart returns the unit and the command line of its service.
func execStart(t *testing.T) (unit string, command []string) {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	require.NoError(t, err)
	match := regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindSubmatch(text)
	require.NotNil(t, match)
	return string(text), strings.Fields(string(match[1]))
}

// TestUnitIsValid has systemd read the unit, with this program in the place of the installed one, which must be there.
func TestUnitIsValid(t *testing.T) {
	analyze := requireTool(t, "systemd", "systemd-analyze")
	unit, command := execStart(t)
	program, err := os.Executable()
	require.NoError(t, err)
	verify := func(unit string) (string, error) {
		path := filepath.Join(t.TempDir(), "pkcs11kms.service")
		require.NoError(t, os.WriteFile(path, []byte(unit), 0o644))
		out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput()
		return string(out), err
	}
	unit = strings.ReplaceAll(unit, command[0], program)
	out, err := verify(unit)
	require.NoError(t, err, "%s", out)
	assert.Empty(t, out)
	out, err = verify(strings.Replace(unit, "ProtectHome=", "ProtectHoem=", 1))
	require.NoError(t, err)
	assert.Contains(t, out, "Unknown key", "a key that systemd would ignore passes")
}

// TestUnitStartsTheServer gives the server the arguments of the unit, which it must understand.
func TestUnitStartsTheServer(t *testing.T) {
	p := newProgram(t)
	unit, command := execStart(t)
	args := strings.Split(strings.ReplaceAll(strings.Join(command[1:], " "), "/var/lib/pkcs11kms", filepath.Join(p.dir, "kms")), " ")
	require.Equal(t, "serve", args[0])
	notices := listenForNotices(t) // Type=notify
	p.serve(append(args[1:], anyPort...)...)
	assert.Equal(t, "READY=1", notices.next())
	for _, line := range []string{"Type=notify", "Restart=on-failure", "RestartPreventExitStatus=2 3", "LimitCORE=0", "UMask=0077",
		"User=pkcs11kms", "ExecReload=/bin/kill -HUP $MAINPID", "ProtectSystem=strict", "NoNewPrivileges=yes", "PrivateTmp=yes"} {
		assert.Contains(t, unit, "\n"+line+"\n")
	}
}

// TestUnitDoesNotRestartInVain: the exit codes that the unit knows are those of what a restart does not mend.
func TestUnitDoesNotRestartInVain(t *testing.T) {
	requireSoftHSM(t)
	for want, args := range map[int][]string{
		exitUsage:       {"serve", "--log-format", "xml"},
		exitEnvironment: {"serve", "--state-dir", "missing"},
	} {
		cmd := exec.Command("pkcs11kms", args...)
		cmd.Dir = t.TempDir()
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		require.Error(t, cmd.Run())
		assert.Equal(t, want, cmd.ProcessState.ExitCode(), "%s", &stderr)
	}
}
