package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

// nobody is the user that tests run as where root would be let through.
const nobody = 65534

// raceOptions keep every child of a test with the race detector from sleeping for a second before it ends.
const raceOptions = "atexit_sleep_ms=10"

func TestMain(m *testing.M) {
	if os.Getenv("GORACE") == "" {
		_ = os.Setenv("GORACE", raceOptions) // for the children; slow where it fails
	}
	if apart, err := time.ParseDuration(os.Getenv(envLooksApart)); err == nil {
		looksApart = apart
	}
	testscript.Main(m, map[string]func(){"pkcs11kms": main})
}

// envLooksApart shortens the time between two looks for half-made objects.
const envLooksApart = "PKCS11KMS_TEST_LOOKS_APART"

// TestScripts runs the program as its users do, each script of testdata in a directory of its own.
func TestScripts(t *testing.T) {
	module := requireSoftHSM(t)
	// Others than the owner must be able to reach a script's directory when root tests what another user may not do.
	root, shared := t.TempDir(), t.TempDir()
	for _, dir := range []string{filepath.Dir(root), root, shared} {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	binary, err := exec.LookPath("pkcs11kms")
	require.NoError(t, err)
	require.NoError(t, copyFile(filepath.Join(shared, "pkcs11kms"), binary))
	shim := sync.OnceValues(func() (string, error) { return buildShim(shared) })

	testscript.Run(t, testscript.Params{
		Dir:         "testdata",
		WorkdirRoot: root,
		Condition:   func(name string) (bool, error) { return condition(name) },
		Setup: func(env *testscript.Env) error {
			newServers(env)
			env.Setenv("PKCS11KMS_STATE_DIR", filepath.Join(env.WorkDir, "kms"))
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Setenv("MODULE", module)
			env.Setenv("SHARED", shared)
			env.Setenv("README_KEY", "1234abcd-12ab-34cd-56ef-1234567890ab")
			return os.Chmod(env.WorkDir, 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":        exits,
			"capture":      capture,
			"same":         same,
			"unprivileged": unprivileged,
			"give":         give,
			"count":        count,
			"serve":        serve,
			"terminate":    terminate,
			"refused":      refused,
			"certificate":  certificate,
			"access-key":   accessKeyFor,
			"miscount":     miscount,
			"half-make":    halfMake,
			"shim": func(ts *testscript.TestScript, _ bool, _ []string) {
				path, err := shim()
				ts.Check(err)
				ts.Setenv("SHIM", path)
				ts.Setenv("SHIM_MODULE", module)
			},
		},
	})
}

// requireSoftHSM returns the module, or ends the test: with a failure where PKCS11KMS_REQUIRE asks for it.
func requireSoftHSM(t *testing.T) string {
	t.Helper()
	module, err := softhsm.Find()
	if err == nil {
		return module
	}
	for part := range strings.SplitSeq(os.Getenv(softhsm.EnvRequire), ",") {
		if part = strings.TrimSpace(part); part == "softhsm" || part == "all" {
			t.Fatalf("%s=%s: %v\n%s", softhsm.EnvRequire, part, err, hintOf(err))
		}
	}
	t.Skipf("%v\n%s", err, hintOf(err))
	return ""
}

func copyFile(to, from string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Chmod(0o755), target.Close()) // whatever the umask
}

// buildShim compiles testdata/shim.c with the compiler that cgo needs anyway.
func buildShim(dir string) (string, error) {
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "cc"
	}
	path := filepath.Join(dir, "shim.so")
	out, err := exec.Command(compiler, "-shared", "-fPIC", "-o", path, "testdata/shim.c", "-ldl").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("compiling the shim: %w\n%s", err, out)
	}
	return path, nil
}

func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Geteuid() == 0, nil
	case "full":
		_, err := os.Stat("/dev/full")
		return err == nil, nil
	case "openssl":
		return haveTool("openssl", "openssl")
	case "awscli":
		return haveTool("awscli", "aws")
	case "opensc":
		return haveTool("opensc", "pkcs11-tool")
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// exits runs a command and checks its exit code: exits CODE COMMAND...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	checkExit(ts, want, ts.Exec(args[1], args[2:]...))
}

func checkExit(ts *testscript.TestScript, want int, err error) {
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d in place of %d", got, want)
	}
}

// capture runs a command and keeps its output in a variable, without the line end and without a trace in the log, where
// neither a PIN nor a MAC belongs: capture NAME COMMAND...
func capture(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = scriptEnvironment(ts)
	out, err := cmd.Output()
	checkExit(ts, 0, err)
	ts.Setenv(args[0], strings.TrimSuffix(string(out), "\n"))
}

// scriptEnvironment is the environment for commands that testscript does not run itself.
func scriptEnvironment(ts *testscript.TestScript) []string {
	env := os.Environ()
	for _, name := range []string{"PKCS11KMS_STATE_DIR", "PKCS11KMS_PIN", softhsm.EnvConfig, "TZ", "SHIM_MODULE", "SHIM_LOG", "SHIM_FLAGS",
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_CA_BUNDLE", "GODEBUG"} {
		if value := ts.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// same compares the last output with a text in which $NAME and ${NAME} stand for variables: same stdout|stderr FILE
func same(ts *testscript.TestScript, _ bool, args []string) {
	want := os.Expand(ts.ReadFile(args[1]), func(name string) string {
		if name == "$" {
			return "$" // $$
		}
		return ts.Getenv(name)
	})
	if got := ts.ReadFile(args[0]); got != want {
		ts.Fatalf("%s is\n%s\nwant\n%s", args[0], got, want)
	}
}

// give hands files to the user that unprivileged runs as, root only: give PATH...
func give(ts *testscript.TestScript, _ bool, args []string) {
	if os.Geteuid() != 0 {
		return
	}
	for _, path := range args {
		ts.Check(filepath.WalkDir(ts.MkAbs(path), func(path string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, nobody, nobody))
		}))
	}
}

// unprivileged runs the program as somebody whom file modes bind and checks its exit code; its output goes to the files
// stdout.txt and stderr.txt: unprivileged CODE ARGUMENT...
func unprivileged(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	cmd := exec.Command(filepath.Join(ts.Getenv("SHARED"), "pkcs11kms"), args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = scriptEnvironment(ts)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	ts.Check(os.WriteFile(ts.MkAbs("stdout.txt"), stdout.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("stderr.txt"), stderr.Bytes(), 0o600))
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("running as another user: %v", err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("exit code %d in place of %d\n%s%s", got, want, stdout.String(), stderr.String())
	}
}

// count checks how many lines of a file, or of the last output, hold a text; a missing file has none: count N FILE TEXT
func count(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	text := ""
	if args[1] == "stdout" || args[1] == "stderr" {
		text = ts.ReadFile(args[1])
	} else if content, err := os.ReadFile(ts.MkAbs(args[1])); err == nil {
		text = string(content)
	}
	lines := slices.Collect(strings.Lines(text))
	lines = slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, args[2]) })
	if len(lines) != want {
		ts.Fatalf("%s: %q in %d lines in place of %d:\n%s", args[1], args[2], len(lines), want, text)
	}
}
