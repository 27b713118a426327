package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The binaries under test are built once in a run: the real one, one that can be told by envCrashAt to kill itself at a
// step of CreateKey, and this test binary, whose roles can be told so too. All have the race detector, but for the one that
// is as users have it.
var (
	realBinary     = sync.OnceValues(func() (string, error) { return build("pkcs11kms", command, "build", "-race") })
	usersBinary    = sync.OnceValues(func() (string, error) { return build("pkcs11kms-users", command, "build") })
	crashingBinary = sync.OnceValues(func() (string, error) {
		return build("pkcs11kms-crashing", command, "build", "-race", "-tags", "crashtest")
	})
	crashingRoles = sync.OnceValues(func() (string, error) {
		return build("roles-crashing", "./test", "test", "-race", "-c", "-tags", "crashtest")
	})
)

const command = "./cmd/pkcs11kms"

// testRelease is the version that the binaries are built as, in the way of the Makefile.
const testRelease = "v0.0.0-test"

const envCrashAt = "PKCS11KMS_CRASH_AT"

// envBinaries names, for a run of these tests inside another, the directory where that one has built the binaries.
const envBinaries = "PKCS11KMS_TEST_BINARIES"

// binaryDir holds what build made. Only the builds, which may run at once, and the end of the run use it.
var binaryDir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "pkcs11kms-test-") })

var built bool // guarded by builds

var builds sync.Mutex

// build makes a file of a package by a verb of the go command.
func build(name, pkg, verb string, flags ...string) (string, error) {
	if dir := os.Getenv(envBinaries); dir != "" {
		return filepath.Join(dir, name), nil
	}
	builds.Lock()
	defer builds.Unlock()
	dir, err := binaryDir()
	if err != nil {
		return "", err
	}
	built = true
	file := filepath.Join(dir, name)
	args := append([]string{verb, "-buildvcs=false", "-ldflags", "-X main.release=" + testRelease, "-o", file}, flags...)
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return file, nil
}

func removeBinaries() error {
	builds.Lock()
	defer builds.Unlock()
	if !built {
		return nil
	}
	dir, err := binaryDir()
	return errors.Join(err, os.RemoveAll(dir))
}

// executable returns one of them.
func executable(t *testing.T, which func() (string, error)) string {
	t.Helper()
	tool(t, "go", "go")
	file, err := which()
	require.NoError(t, err)
	return file
}

// result is how a command ended.
type result struct {
	stdout, stderr []byte
	code           int  // -1 when a signal ended it
	killed         bool // by SIGKILL
}

// patience is for what ends soon unless something is broken.
const patience = 5 * time.Minute

// run runs a command to its end, however that is. It fails only where the command cannot be run at all, and may be called
// from any goroutine.
func run(cmd *exec.Cmd) (result, error) { return runFor(cmd, patience) }

// runFor is run for a command that is killed after a time.
func runFor(cmd *exec.Cmd, limit time.Duration) (result, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	kill := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() }) // fails when the process was faster
	err := cmd.Wait()
	kill.Stop()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		return result{}, err
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return result{
		stdout: stdout.Bytes(),
		stderr: stderr.Bytes(),
		code:   cmd.ProcessState.ExitCode(),
		killed: status.Signaled() && status.Signal() == syscall.SIGKILL,
	}, nil
}

// answered runs a command that must succeed and reads its JSON answer, unless answer is nil. It may be called from any
// goroutine.
func answered(cmd *exec.Cmd, answer any) error {
	r, err := run(cmd)
	if err != nil {
		return err
	}
	verb := cmd.Args[1]
	if r.code != 0 {
		return fmt.Errorf("%s ended with %d: %s", verb, r.code, r.stderr)
	}
	if len(r.stderr) > 0 {
		return fmt.Errorf("%s succeeded with a complaint: %s", verb, r.stderr)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(r.stdout, answer); err != nil {
		return fmt.Errorf("reading what %s printed: %w", verb, err)
	}
	return nil
}
