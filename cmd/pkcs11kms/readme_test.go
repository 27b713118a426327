package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// readmeBlock returns the code block of the README in a language that holds a text.
func readmeBlock(t *testing.T, language, text string) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	for _, match := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllSubmatch(readme, -1) {
		if strings.Contains(string(match[1]), text) {
			return string(match[1])
		}
	}
	t.Fatalf("no %s block of the README has %q", language, text)
	return ""
}

// readmeServer starts what make run ends with, and returns a shell's command in the terminal beside it.
func readmeServer(t *testing.T) func(script string) *exec.Cmd {
	t.Helper()
	t.Setenv("HOME", t.TempDir()) // no configuration of the developer's clients
	p := newProgram(t)
	require.NoError(t, os.Rename(filepath.Join(p.dir, "kms"), filepath.Join(p.dir, ".pkcs11kms-dev")))
	d := p.serve(append(anyPort, "--dev", "--state-dir", ".pkcs11kms-dev")...)
	return func(script string) *exec.Cmd {
		script = strings.ReplaceAll(script, "http://127.0.0.1:4599", d.url)
		return p.command("sh", "-c", "set -e; . ./.pkcs11kms-dev/dev-credentials.env\n"+script)
	}
}

// preferSystemPrograms puts the clients that the distribution has before others.
func preferSystemPrograms(t *testing.T) {
	t.Setenv("PATH", "/usr/bin:"+os.Getenv("PATH"))
}

func TestREADMEWithTheAWSCLI(t *testing.T) {
	preferSystemPrograms(t)
	requireTool(t, "awscli", "aws")
	shell := readmeServer(t)
	out, err := shell(readmeBlock(t, "sh", "aws --endpoint-url")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), `"KeySpec": "HMAC_384"`)
	assert.Equal(t, 2, strings.Count(string(out), `"KeyArn"`), "the key of make run and the new one")
}

func TestREADMEWithBoto3(t *testing.T) {
	preferSystemPrograms(t)
	python := requireTool(t, "boto3", "python3")
	if err := exec.Command(python, "-c", "import boto3").Run(); err != nil {
		missing(t, "boto3", "boto3 for "+python)
	}
	shell := readmeServer(t)
	// The last line of the block raises an exception for any other message.
	script := readmeBlock(t, "python", "boto3") +
		"\ntry:\n    kms.verify_mac(KeyId=key, MacAlgorithm='HMAC_SHA_256', Message=b'Hallo', Mac=mac)\n" +
		"except kms.exceptions.KMSInvalidMacException:\n    print('refused')\n"
	cmd := shell("exec " + python + " -")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "refused\n", string(out))
}

// TestREADMEWithOurVerbs runs the line that ends the list of clients.
func TestREADMEWithOurVerbs(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	match := regexp.MustCompile("`bin/(pkcs11kms list-keys --endpoint-url [^`]*)`").FindSubmatch(readme)
	require.NotNil(t, match)
	out, err := readmeServer(t)(string(match[1])).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), `"KeyArn"`)
}

// TestJWTDocument runs every command of docs/jwt.md in turn, as somebody who pastes them.
func TestJWTDocument(t *testing.T) {
	document, err := os.ReadFile("../../docs/jwt.md")
	require.NoError(t, err)
	script := ""
	for _, match := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(document, -1) {
		script += string(match[1])
	}
	out, err := readmeServer(t)(script).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for text, times := range map[string]int{"sub": 2, "\"alice\"": 4, "\"bob\"": 1, "\"api\"": 1} {
		assert.Equal(t, times, strings.Count(string(out), text), "%s in\n%s", text, out)
	}
}

// TestBackupDocument runs the commands by which docs/backup.md backs a SoftHSM state directory up and puts it in place again, under
// the usual umask: nobody else may read what holds the PIN and the keys.
func TestBackupDocument(t *testing.T) {
	document, err := os.ReadFile("../../docs/backup.md")
	require.NoError(t, err)
	find := func(pattern string) string {
		match := regexp.MustCompile(pattern).FindSubmatch(document)
		require.NotNil(t, match, pattern)
		return string(match[1])
	}
	pack, unpack := find(`(?m)^    (\(umask .*tar .*\))$`), find("`(\\(umask [^`]*tar [^`]*-x[^`]*\\))`")
	p := newProgram(t)
	script := "set -e\numask 022\nmkdir backup\npkcs11kms backup backup/kms.db\n" +
		strings.NewReplacer("STATE_DIR", "kms", "/backup/state-2026-11-23.tar", "backup/state.tar").Replace(pack) +
		"\nmv kms lost\n" + strings.NewReplacer("STATE_DIR", "kms", "FILE", "backup/state.tar").Replace(unpack) +
		"\npkcs11kms restore backup/kms.db\npkcs11kms doctor\n"
	out, err := p.command("sh", "-c", script).CombinedOutput()
	require.NoError(t, err, "%s", out)
	info, err := os.Stat(filepath.Join(p.dir, "backup", "state.tar"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())
	p.must("describe-key", "--key-id", p.key)
}
