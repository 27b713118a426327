package main

import (
	"bufio"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who does not wait for the second look interrupts: nothing is destroyed, and the command ends at once.
func TestDestroyHalfMadeIsInterrupted(t *testing.T) {
	p := newProgram(t)
	require.NoError(t, leaveHalfMade(filepath.Join(p.dir, "kms")))
	cmd := p.command("pkcs11kms", "doctor", "--destroy-half-made", "--yes")
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var told []string
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		told = append(told, lines.Text())
		if strings.HasPrefix(lines.Text(), "looking again in ") {
			require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		}
	}
	require.Error(t, cmd.Wait())
	require.Equal(t, []string{"found 1 half-made object (CKO_SECRET_KEY)", "looking again in 1m0s", "pkcs11kms: interrupted"}, told)
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
	require.Contains(t, p.must("doctor"), "1 half-made object ")
}
