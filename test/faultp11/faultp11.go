// Package faultp11 builds a PKCS #11 module that stands in front of another one and injects faults: delays, hangs, errors, lost replies,
// lost sessions and devices, wrong results, and what other makers' tokens do otherwise. The module is the C code in the folder module;
// README.md tells its language, and how to use it without Go.
//
// A test makes a Module of its own, names Module.Path as the token's module, and changes what it does while it is in use:
//
//	m := faultp11.New(t, "/usr/lib/softhsm/libsofthsm2.so")
//	...open m.Path...
//	m.Fail("C_Sign", pkcs11.CKR_DEVICE_ERROR, "times=1")
//	hang := m.Rule("C_GenerateKey hang")
//	m.Await("C_GenerateKey", func(n faultp11.Counters) bool { return n.Hanging == 1 })
//	hang.Remove()
package faultp11

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// EnvRequire names the environment variable that lists what tests may not skip, separated by commas: with "gcc" or "all" in it, New fails
// instead of skipping when there is no C compiler.
const EnvRequire = "PKCS11KMS_REQUIRE"

// TB is the part of testing.TB that this package needs; Fatalf and Skipf do not return.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Module is a copy of the module in front of a copy of another one, so that both are instances of their own, whatever else the process
// has loaded. Its methods speak to the instance in this process.
type Module struct {
	Process
	Path string // the file of the module
}

// New makes a Module in front of the PKCS #11 module in a file. It is removed when the test ends: close what uses it before, and call Clear
// first if calls hang.
func New(tb TB, wrapped string) *Module {
	tb.Helper()
	built, err := build()
	if errors.Is(err, exec.ErrNotFound) && !required() {
		tb.Skipf("building the module: %v", err)
	}
	if err != nil {
		tb.Fatalf("building the module: %v", err)
	}
	// Not tb.TempDir: a path of a socket has at most 107 bytes.
	dir, err := os.MkdirTemp("", "faultp11-")
	if err != nil {
		tb.Fatalf("%v", err)
	}
	m := &Module{Path: filepath.Join(dir, filepath.Base(wrapped))} // what is known of a module by its name holds for this one
	m.Process = Process{tb: tb, dir: dir, pid: os.Getpid()}
	tb.Cleanup(func() {
		m.quit()
		_ = os.RemoveAll(dir)
	})
	original, err := os.ReadFile(wrapped)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	wrappedCopy := filepath.Join(dir, "wrapped-"+filepath.Base(wrapped))
	for name, content := range map[string][]byte{
		m.Path: built, wrappedCopy: original,
		m.Path + ".conf": fmt.Appendf(nil, "module %s\ncontrol %s\n", wrappedCopy, dir),
	} {
		if err := os.WriteFile(name, content, 0o700); err != nil {
			tb.Fatalf("%v", err)
		}
	}
	return m
}

// In returns what speaks to the instance that another process has loaded.
func (m *Module) In(pid int) *Process { return &Process{tb: m.tb, dir: m.dir, pid: pid} }

// AtStart adds a command that every process runs when it loads the module. It says nothing to those that have loaded it.
func (m *Module) AtStart(command string) {
	m.tb.Helper()
	if err := appendLine(filepath.Join(m.dir, "start"), command); err != nil {
		m.tb.Fatalf("%v", err)
	}
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

func required() bool {
	for part := range strings.SplitSeq(os.Getenv(EnvRequire), ",") {
		if part = strings.TrimSpace(part); part == "gcc" || part == "all" {
			return true
		}
	}
	return false
}

//go:embed module
var sources embed.FS

// build compiles the module, once in a process, and returns the file.
var build = sync.OnceValues(func() (module []byte, err error) {
	dir, err := os.MkdirTemp("", "faultp11-build-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.CopyFS(dir, sources); err != nil {
		return nil, err
	}
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "gcc"
	}
	files, err := fs.Glob(sources, "module/*.c")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(compiler, append(files, strings.Fields(flags)...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", compiler, err, out)
	}
	return os.ReadFile(filepath.Join(dir, "faultp11.so"))
})

// flags are those of the Makefile, and warnings are errors.
const flags = "-std=gnu11 -O1 -g -Wall -Wextra -Wno-unused-parameter -Werror -fPIC -shared -Wl,-z,nodelete -fvisibility=hidden " +
	"-o faultp11.so -ldl -pthread"
