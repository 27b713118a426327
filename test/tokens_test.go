package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

// tokenSetup is a token that a script of the folder tokens makes: NAME.sh.
type tokenSetup struct {
	name  string
	title string   // in docs/tokens.md
	needs []string // commands that belong to it
}

var tokenSetups = []tokenSetup{
	{name: "softhsm", title: "SoftHSM", needs: []string{"softhsm2-util"}},
	{name: "p11kit", title: "SoftHSM behind `p11-kit server`", needs: []string{"softhsm2-util", "p11-kit"}},
	{name: "opencryptoki", title: "opencryptoki", needs: []string{"pkcsslotd"}},
	{name: "nss", title: "NSS", needs: []string{"certutil", "p11-kit"}},
	{name: "nssfips", title: "NSS in FIPS mode", needs: []string{"certutil", "modutil", "cc"}},
	{name: "tpm2", title: "TPM by tpm2-pkcs11", needs: []string{"swtpm", "dbus-daemon", "tpm2-abrmd", "tpm2_ptool"}},
}

// envToken names, in the process that a script has started, the token that is there.
const envToken = "PKCS11KMS_TEST_TOKEN"

// findings is what the suite found out about a token, in the order in which it tried.
type findings struct {
	Version  string    // the Debian package
	Findings []finding // of every feature
}

// finding is one line of docs/tokens.md.
type finding struct {
	Feature string
	Answer  string // "yes", "yes, without ...", or "no: " with what the caller is told
}

// file holds what was found the last time that something changed.
func (s tokenSetup) file() string { return filepath.Join("tokens", s.name+".json") }

// TestTokens runs the suite (tokensuite_test.go) on each token, in namespaces where its script has made it, and compares what the
// token can do with what is on record. When that differs, the record is written anew, and the test fails so that somebody looks at it.
// What is wrong whatever a token can do fails in the suite itself.
func TestTokens(t *testing.T) {
	if name := os.Getenv(envToken); name != "" {
		runTokenSuite(t)
		return
	}
	long(t)
	for _, s := range tokenSetups {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for _, command := range s.needs {
				tool(t, s.name, command)
			}
			s.compare(t, s.run(t))
		})
	}
}

// run makes the token and runs the suite on it.
func (s tokenSetup) run(t *testing.T) (found findings) {
	t.Helper()
	binaries := filepath.Dir(executable(t, realBinary))
	executable(t, usersBinary)
	executable(t, crashingBinary)
	softHSM, err := softhsm.Find()
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	cmd := inNamespaces(t, "sh", filepath.Join("tokens", s.name+".sh"), dir, self, "-test.run", "^TestTokens$", "-test.v")
	cmd.Env = append(os.Environ(), envToken+"="+s.name, envBinaries+"="+binaries, softhsm.EnvModule+"="+softHSM)
	r, err := run(cmd)
	require.NoError(t, err)
	require.Zero(t, r.code, "%s%s", r.stdout, r.stderr)
	text, err := os.ReadFile(filepath.Join(dir, "findings"))
	require.NoError(t, err, "%s%s", r.stdout, r.stderr)
	require.NoError(t, json.Unmarshal(text, &found))
	return found
}

// inNamespaces prepares a command that has the mounts, the shared memory and the processes of the machine to itself: all processes
// that it starts end with it. Where that is not allowed the test is skipped.
func inNamespaces(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	namespaces := []string{"--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"}
	if os.Getuid() != 0 || exec.Command("unshare", append(namespaces, "true")...).Run() != nil {
		t.Skip("namespaces cannot be made here, and without them a token would change the configuration of the machine")
	}
	return exec.Command("unshare", append(namespaces, args...)...)
}

// compare holds what was found against the record. Another version of the token may do other things.
func (s tokenSetup) compare(t *testing.T, found findings) {
	t.Helper()
	known := s.record(t)
	if slices.Equal(known.Findings, found.Findings) && known.Version == found.Version {
		return
	}
	if known.Version != "" && known.Version != found.Version {
		t.Logf("the record is of %s and this is %s: not compared, %v", known.Version, found.Version, found.Findings)
		return
	}
	text, err := json.MarshalIndent(found, "", "  ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.file(), append(text, '\n'), 0o644))
	assert.Equal(t, known, found, "%s is written anew: look at what has changed and commit it", s.file())
}

// record is what is known of the token.
func (s tokenSetup) record(t *testing.T) (known findings) {
	t.Helper()
	text, err := os.ReadFile(s.file())
	if os.IsNotExist(err) {
		return known
	}
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &known))
	return known
}
