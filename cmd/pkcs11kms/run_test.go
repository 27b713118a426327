package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what must happen; nothing is measured by it.
const patience = 5 * time.Minute

// program is the command in a state directory of its own.
type program struct {
	t   *testing.T
	dir string // where it runs
	key string // an HMAC_256 key
}

func newProgram(t *testing.T) *program {
	t.Helper()
	requireSoftHSM(t)
	p := &program{t: t, dir: t.TempDir()}
	p.must("init", "--softhsm")
	p.key = strings.TrimSpace(p.must("create-key", "--key-spec", "HMAC_256", "--key-usage", "GENERATE_VERIFY_MAC",
		"--query", "KeyMetadata.KeyId", "--output", "text"))
	return p
}

func (p *program) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "PKCS11KMS_STATE_DIR="+filepath.Join(p.dir, "kms"))
	return cmd
}

func (p *program) must(args ...string) string {
	p.t.Helper()
	cmd := p.command("pkcs11kms", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(p.t, err, "%s", stderr.String())
	return string(out)
}

// verbs walks all commands that a user can see.
func verbs(t *testing.T) []*cobra.Command {
	t.Helper()
	a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
	var list []*cobra.Command
	var walk func(*cobra.Command)
	walk = func(parent *cobra.Command) {
		for _, cmd := range parent.Commands() {
			if !cmd.Hidden {
				list = append(list, cmd)
				walk(cmd)
			}
		}
	}
	walk(a.rootCommand())
	require.NotEmpty(t, list)
	return list
}

func TestEveryVerbExplainsItself(t *testing.T) {
	for _, cmd := range verbs(t) {
		assert.NotEmpty(t, cmd.Short, cmd.Name())
		assert.Greater(t, len(cmd.Long), len(cmd.Short), cmd.Name())
		assert.NotEmpty(t, cmd.Example, cmd.Name())
		assert.NotEmpty(t, cmd.GroupID, cmd.Name())
	}
}

func TestHelpNamesTheVariablesThatAreRead(t *testing.T) {
	var out bytes.Buffer
	require.Zero(t, run(t.Context(), []string{"--help"}, strings.NewReader(""), &out, io.Discard))
	for _, v := range allVariables {
		assert.Contains(t, out.String(), "  "+v.name+" ")
	}
	// And no other is: the environment is read in one file only, by the same table.
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	reads := regexp.MustCompile(`os\.(Getenv|LookupEnv|Environ|ExpandEnv)\(`)
	for _, file := range files {
		if file == "environment.go" || strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.False(t, reads.Match(source), "%s reads the environment", file)
	}
}

func TestChildGetsNoSecrets(t *testing.T) {
	secrets := []string{"PKCS11KMS_PIN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
	for _, name := range secrets {
		t.Setenv(name, "1234")
	}
	t.Setenv("PKCS11KMS_OTHER", "kept")
	env := childEnvironment("MORE=yes")
	assert.Contains(t, env, "PKCS11KMS_OTHER=kept")
	assert.Contains(t, env, "MORE=yes")
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		assert.NotContains(t, secrets, name)
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	for _, cmd := range verbs(t) {
		for line := range strings.SplitSeq(cmd.Long, "\n") {
			assert.LessOrEqual(t, len(line), 112, "%s: %s", cmd.Name(), line)
		}
	}
}

// TestInterruptedMAC ends a mac that waits for its input by the signal of Ctrl-C.
func TestInterruptedMAC(t *testing.T) {
	p := newProgram(t)
	// The child must be reading when the signal comes: it has taken the bytes from the pipe then.
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	defer write.Close()
	var stdout, stderr bytes.Buffer
	cmd := p.command("pkcs11kms", "mac", "--key-id", p.key, "--mac-algorithm", "HMAC_SHA_256")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = read, &stdout, &stderr
	require.NoError(t, cmd.Start())
	_, err = write.Write([]byte("data"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return unread(t, read) == 0 }, patience, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Error(t, cmd.Wait())
	assert.Equal(t, 130, cmd.ProcessState.ExitCode())
	assert.Empty(t, stdout.String())
	assert.Equal(t, "pkcs11kms: interrupted\n", stderr.String())
}

// TestReaderThatStops closes the pipe at once: no message, and the exit code of SIGPIPE.
func TestReaderThatStops(t *testing.T) {
	p := newProgram(t)
	read, write, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, read.Close())
	defer write.Close()
	var stderr bytes.Buffer
	cmd := p.command("pkcs11kms", "list-keys")
	cmd.Stdout, cmd.Stderr = write, &stderr
	require.Error(t, cmd.Run())
	assert.Equal(t, 141, cmd.ProcessState.ExitCode())
	assert.Empty(t, stderr.String())
}

func TestReadEndsWithItsContext(t *testing.T) {
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	defer write.Close()
	ctx, cancel := context.WithCancel(t.Context())
	r := interruptible(ctx, read)
	_, err = write.Write([]byte("abc"))
	require.NoError(t, err)
	buf := make([]byte, 8)
	n, err := r.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "abc", string(buf[:n]))

	ended := make(chan error, 1)
	go func() {
		_, err := r.Read(buf)
		ended <- err
	}()
	cancel()
	select {
	case err := <-ended:
		assert.ErrorIs(t, err, context.Canceled)
	case <-time.After(patience):
		t.Fatal("the read goes on")
	}
}

func TestReadSeesTheEnd(t *testing.T) {
	read, write, err := os.Pipe()
	require.NoError(t, err)
	defer read.Close()
	require.NoError(t, write.Close())
	_, err = interruptible(t.Context(), read).Read(make([]byte, 8))
	assert.Equal(t, io.EOF, err)
}
