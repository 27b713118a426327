package clients

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func newBoto3(t *testing.T) client {
	driver, err := filepath.Abs("driver.py")
	require.NoError(t, err)
	call := converse[command, answer](t, boto3.find(t), driver)
	return client{generic: "ClientError", call: call, model: modelOf(call)}
}

func newJavaScript(t *testing.T) client {
	call := converse[command, answer](t, node.find(t), javaScript(t, "driver.mjs"))
	return client{generic: "KMSServiceException", followsClock: true, call: call, model: modelOf(call)}
}

// javaScript puts a program beside the packages that it imports.
func javaScript(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	source, err := os.ReadFile(filepath.Join("js", name))
	require.NoError(t, err)
	program := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(program, source, 0o600))
	require.NoError(t, os.Symlink(nodeModules(t), filepath.Join(dir, "node_modules")))
	return program
}

// modelOf asks a driver for the operations that its SDK has.
func modelOf(call func(command) (answer, error)) func(*testing.T, target) []string {
	return func(t *testing.T, to target) (operations []string) {
		t.Helper()
		got, err := call(command{Target: to})
		require.NoError(t, err)
		require.NoError(t, translate(got.Output["Operations"], &operations))
		return operations
	}
}

// nodeModules returns a directory with the packages of js/package-lock.json. It is filled once and kept in the user's
// cache, so that the tests need the network only when the lock file has changed.
func nodeModules(t *testing.T) string {
	t.Helper()
	lock, err := os.ReadFile(filepath.Join("js", "package-lock.json"))
	require.NoError(t, err)
	cache, err := os.UserCacheDir()
	if err == nil {
		cache = filepath.Join(cache, "pkcs11kms-test")
		err = os.MkdirAll(cache, 0o700)
	}
	if err != nil {
		cache = t.TempDir() // for users without a home
	}
	dir := filepath.Join(cache, fmt.Sprintf("js-%x", sha256.Sum256(lock)))
	installing.Lock()
	defer installing.Unlock()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		install(t, dir)
	}
	return filepath.Join(dir, "node_modules")
}

var installing sync.Mutex

// install fills a directory beside dir and gives it its name when it is complete.
func install(t *testing.T, dir string) {
	t.Helper()
	partial, err := os.MkdirTemp(filepath.Dir(dir), "partial-")
	require.NoError(t, err)
	defer os.RemoveAll(partial)
	for _, name := range []string{"package.json", "package-lock.json"} {
		data, err := os.ReadFile(filepath.Join("js", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(partial, name), data, 0o600))
	}
	// With the developer's own environment: npm's cache, registry and proxy are set there.
	cmd := process(t, os.Environ(), npm.find(t), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
	cmd.Dir = partial
	if out, err := cmd.CombinedOutput(); err != nil {
		missing(t, "js", fmt.Sprintf("npm cannot install the packages: %v\n%s", err, out))
	}
	if err := os.Rename(partial, dir); err != nil {
		require.DirExists(t, dir, "made by another process meanwhile, or: %v", err)
	}
}

// converse starts a driver and returns the function that gives it a command and reads the answer. It is for the use of
// one goroutine. The driver ends with the test.
func converse[In, Out any](t *testing.T, interpreter, driver string) func(In) (Out, error) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := process(t, environment(t), interpreter, driver)
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close() // the sign to end
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", filepath.Base(driver), err, stderr.Bytes())
		}
	})
	commands, answers := json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))
	return func(c In) (Out, error) {
		var got Out
		if err := commands.Encode(c); err != nil {
			return got, err
		}
		return got, answers.Decode(&got)
	}
}
