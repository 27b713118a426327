// Package test holds the product to what its parts promise together: real tokens, the built binary, other PKCS#11 clients
// on the same objects, many processes at once, and processes that are killed.
package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

// envRole makes the test binary a child process that plays one part instead of running the tests. The first line of its
// standard input is the job, so that a PIN is never in arguments or environment; the end of the input ends long jobs.
const envRole = "PKCS11KMS_TEST_ROLE"

var roles = map[string]func(job []byte, rest io.Reader, answer *json.Encoder) error{
	"raw":       playRaw,
	"crypto11":  playCrypto11,
	"worker":    playWorker,
	"watcher":   playWatcher,
	"peer":      playPeer,
	"contender": playContender,
	"destroyer": playDestroyer,
}

// childEnvironment is what every child process finds. What a developer has set for the product must not change a test, and
// without the last entry a process with the race detector takes a second to end.
var childEnvironment = map[string]string{
	"PKCS11KMS_STATE_DIR": "",
	"PKCS11KMS_PIN":       "",
	envCrashAt:            "",
	"GORACE":              strings.TrimSpace(os.Getenv("GORACE") + " atexit_sleep_ms=0"),
}

func TestMain(m *testing.M) {
	if role := os.Getenv(envRole); role != "" {
		os.Exit(play(role))
	}
	for name, value := range childEnvironment {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if err := removeBinaries(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func play(role string) (code int) {
	in := bufio.NewReader(os.Stdin)
	job, err := in.ReadBytes('\n')
	if err == nil {
		err = roles[role](job, in, json.NewEncoder(os.Stdout))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, withHint(err))
		return 1
	}
	return 0
}

// withHint shows what a person would see.
func withHint(err error) error {
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return fmt.Errorf("%w\n%s", err, h.Hint())
	}
	return err
}

// process is a child of this test binary. It is for the use of one goroutine.
type process struct {
	t      *testing.T
	role   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *json.Decoder
	stderr *bytes.Buffer
	over   bool
}

// start starts a child. It is ended with the test, or with its patience, at the latest.
func start(t *testing.T, env []string, role string, job any) *process {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	return startOf(t, exe, env, role, job)
}

// startOf is start for another build of this test binary.
func startOf(t *testing.T, exe string, env []string, role string, job any) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	p := &process{t: t, role: role, cmd: exec.CommandContext(ctx, exe), stderr: &bytes.Buffer{}}
	p.cmd.Env = append(append(os.Environ(), env...), envRole+"="+role)
	p.cmd.Stderr = p.stderr
	var err error
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.out = json.NewDecoder(out)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		cancel()
		if !p.over {
			_ = p.cmd.Wait() // the test failed before it ended the child
		}
	})
	p.tell(job)
	return p
}

// tell writes one line to the child's input.
func (p *process) tell(what any) {
	p.t.Helper()
	line, err := json.Marshal(what)
	require.NoError(p.t, err)
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		p.finish() // says why it ended
		p.t.Fatalf("%s does not read what it is told: %v", p.role, err)
	}
}

// read reads the next answer; false when the child has ended.
func (p *process) read(answer any) bool {
	p.t.Helper()
	err := p.out.Decode(answer)
	if errors.Is(err, io.EOF) {
		return false
	}
	require.NoError(p.t, err)
	return true
}

// next reads an answer that must come.
func (p *process) next(answer any) {
	p.t.Helper()
	if !p.read(answer) {
		p.finish()
		p.t.Fatalf("%s ended without an answer", p.role)
	}
}

// end closes the child's input, which is the sign to come to an end.
func (p *process) end() { assert.NoError(p.t, p.in.Close()) }

// finish waits for the child, which must have succeeded.
func (p *process) finish() {
	p.t.Helper()
	p.over = true
	require.NoErrorf(p.t, p.cmd.Wait(), "%s: %s", p.role, p.stderr)
}

// killed waits for the child, and tells whether SIGKILL ended it.
func (p *process) killed() bool {
	p.t.Helper()
	p.over = true
	exit, failed := errors.AsType[*exec.ExitError](p.cmd.Wait())
	if !failed {
		return false
	}
	status := exit.Sys().(syscall.WaitStatus)
	return status.Signaled() && status.Signal() == syscall.SIGKILL
}

// ask runs a child that gives one answer.
func ask(t *testing.T, env []string, role string, job, answer any) {
	t.Helper()
	p := start(t, env, role, job)
	p.next(answer)
	p.end()
	p.finish()
}

// tool finds a program that belongs to the part named, or skips the test; it fails where the part is required.
func tool(t testing.TB, part, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	for required := range strings.SplitSeq(os.Getenv(softhsm.EnvRequire), ",") {
		if required = strings.TrimSpace(required); required == part || required == "all" {
			t.Fatalf("%s=%s: %s is missing", softhsm.EnvRequire, os.Getenv(softhsm.EnvRequire), name)
		}
	}
	t.Skipf("%s is missing", name)
	return ""
}

// long skips a test where short ones are asked for.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes several seconds")
	}
}
