package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// waiting starts a command that reads from a pipe, waits until it does, and returns its directory in /proc.
func waiting(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	read, write, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdin, cmd.Stdout = read, io.Discard
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		assert.NoError(t, write.Close())
		assert.NoError(t, cmd.Wait())
		assert.NoError(t, read.Close())
	})
	_, err = write.Write([]byte("data"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return unread(t, read) == 0 }, patience, time.Millisecond)
	return filepath.Join("/proc", itoa(cmd.Process.Pid))
}

func (p *program) macOfInput() *exec.Cmd {
	return p.command("pkcs11kms", "mac", "--key-id", p.key, "--mac-algorithm", "HMAC_SHA_256")
}

func TestCoreDumpsAreOff(t *testing.T) {
	limits, err := os.ReadFile(filepath.Join(waiting(t, newProgram(t).macOfInput()), "limits"))
	require.NoError(t, err)
	assert.Regexp(t, `Max core file size +0 +0 `, string(limits))
}

// TestOtherProcessesCannotReadTheMemory: neither can another process of the same user attach, nor one of root that has not the
// capability to attach to any. For a process that has not asked for this, both can.
func TestOtherProcessesCannotReadTheMemory(t *testing.T) {
	p := newProgram(t)
	// The thread ends with the goroutine of this test, and all that is started here has lost the capability as well.
	runtime.LockOSThread()
	if os.Geteuid() == 0 {
		require.NoError(t, unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_PTRACE, 0, 0, 0))
	}
	// The kernel asks before this what it asks before a look at the memory (ptrace(2), "Ptrace access mode checking").
	attach := func(proc string) error { return exec.Command("readlink", filepath.Join(proc, "exe")).Run() }
	require.NoError(t, attach(waiting(t, exec.Command("cat"))), "a process that is open to others")
	assert.Error(t, attach(waiting(t, p.macOfInput())), "others can attach")
}
