package test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

// quickstartCommand is the script with a binary on a state directory.
func quickstartCommand(t *testing.T, binary, dir string, serveFlags ...string) *exec.Cmd {
	t.Helper()
	script, err := filepath.Abs("quickstart.sh")
	require.NoError(t, err)
	cmd := exec.Command(tool(t, "sh", "sh"), append([]string{script, binary, dir}, serveFlags...)...)
	cmd.Dir = t.TempDir()
	return cmd
}

// quickstart runs the script up to the server.
func quickstart(t *testing.T, binary, dir string) result {
	t.Helper()
	cmd := quickstartCommand(t, binary, dir)
	cmd.Env = append(os.Environ(), "QUICKSTART_SERVE=0")
	r, err := run(cmd)
	require.NoError(t, err)
	return r
}

// commands returns the lines of the script's output that are commands, and those in between, which they printed.
func commands(r result) (typed, printed []string) {
	for line := range strings.Lines(string(r.stdout)) {
		line = strings.TrimSuffix(line, "\n")
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			typed = append(typed, command)
		} else {
			printed = append(printed, line)
		}
	}
	return typed, printed
}

// TestQuickstart runs what make run shows a newcomer, then pastes what it has printed. The directory has a name that a
// shell would take apart.
func TestQuickstart(t *testing.T) {
	softhsm.NewToken(t) // skips without SoftHSM; the script makes a token of its own
	binary, dir := executable(t, realBinary), filepath.Join(t.TempDir(), "a newcomer's")
	first := quickstart(t, binary, dir)
	require.Zero(t, first.code, "%s", first.stderr)
	assert.Contains(t, string(first.stdout), "KMSInvalidMacException")
	typed, printed := commands(first)
	verbs, codes := []string{}, []int{}
	for _, command := range typed {
		verbs = append(verbs, strings.Fields(strings.TrimPrefix(command, binary))[0])
	}
	require.Equal(t, []string{"export", "init", "create-key", "generate-mac", "verify-mac", "verify-mac",
		"jwt", "jwt", "create-key", "jwt", "jwt", "jwt"}, verbs)
	assert.Contains(t, string(first.stdout), "The foreign signature was refused")
	for _, command := range typed[1:] {
		r, err := run(exec.Command("sh", "-c", typed[0]+"\n"+command))
		require.NoError(t, err)
		codes = append(codes, r.code)
		if strings.Contains(command, "generate-mac") {
			assert.True(t, slices.Contains(printed, strings.TrimSpace(string(r.stdout))), "generate-mac makes another MAC when it is pasted")
		}
	}
	assert.Equal(t, []int{3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1}, codes,
		"init refuses to make a directory twice, and the changed message and the foreign signature are refused")

	second := quickstart(t, binary, dir)
	require.Zero(t, second.code, "%s", second.stderr)
	typed, _ = commands(second)
	assert.Len(t, typed, 11, "the directory is kept")
}

// TestREADMEFromTheFirstLine pastes what the README begins with: make run, here its script with a binary that is built already
// and without the server in its end, and then the commands for the other terminal.
func TestREADMEFromTheFirstLine(t *testing.T) {
	softhsm.NewToken(t)
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```\\w+\n(.*?)```").FindAllSubmatch(readme, 2)
	require.Len(t, blocks, 2)
	require.Regexp(t, `^make run +#[^\n]*\n$`, string(blocks[0][1]))

	makefile, err := os.ReadFile("../Makefile")
	require.NoError(t, err)
	require.Contains(t, string(makefile), "sh test/quickstart.sh bin/pkcs11kms $(STATE_DIR)\n")
	stateDir := regexp.MustCompile(`(?m)^STATE_DIR \?= (\S+)$`).FindSubmatch(makefile)
	require.NotNil(t, stateDir)
	dir, script := t.TempDir(), "set -e\nunset PKCS11KMS_STATE_DIR\n"
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bin"), 0o700))
	require.NoError(t, os.Link(executable(t, realBinary), filepath.Join(dir, "bin", "pkcs11kms")))
	quickstart, err := filepath.Abs("quickstart.sh")
	require.NoError(t, err)
	script += "sh '" + quickstart + "' bin/pkcs11kms " + string(stateDir[1]) + "\necho THE OTHER TERMINAL\n" + string(blocks[1][1])

	cmd := exec.Command(tool(t, "sh", "sh"), "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "QUICKSTART_SERVE=0", "PATH=/usr/bin:/bin")
	r, err := run(cmd)
	require.NoError(t, err)
	require.Zero(t, r.code, "%s\n%s", r.stdout, r.stderr)
	_, mac, _ := strings.Cut(string(r.stdout), "THE OTHER TERMINAL\n")
	assert.Regexp(t, `^[A-Za-z0-9+/]{43}=\n$`, mac)
}

// TestMakeNotesTheVersion: in a checkout whose commit has a tag, the build that make prints notes the tag, and what is noted so
// is what version prints.
func TestMakeNotesTheVersion(t *testing.T) {
	tool(t, "git", "git")
	dir := t.TempDir()
	makefile, err := filepath.Abs("../Makefile")
	require.NoError(t, err)
	script := `git init -q . && git -c user.name=test -c user.email=test@example.com commit -q --allow-empty -m test && ` +
		`git tag "$2" && make -n -f "$1" build`
	cmd := exec.Command(tool(t, "make", "make"), "--version")
	require.NoError(t, cmd.Run())
	cmd = exec.Command(tool(t, "sh", "sh"), "-c", script, "sh", makefile, "v9.8.7")
	cmd.Dir = dir
	r, err := run(cmd)
	require.NoError(t, err)
	require.Zero(t, r.code, "%s", r.stderr)
	require.Contains(t, string(r.stdout), "-ldflags '-X main.release=v9.8.7'")

	r, err = run(exec.Command(executable(t, realBinary), "version"))
	require.NoError(t, err)
	assert.Regexp(t, `^pkcs11kms version `+testRelease+` \(go\S+ \w+/\w+\)\n$`, string(r.stdout))
}

// TestQuickstartServes runs the script to its end, which is a server, follows what that prints, and stops it as Ctrl-C does.
func TestQuickstartServes(t *testing.T) {
	softhsm.NewToken(t)
	binary, dir := executable(t, realBinary), filepath.Join(t.TempDir(), "a newcomer's")
	cmd := quickstartCommand(t, binary, dir, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "QUICKSTART_SERVE=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }) // fails when the process was faster
	defer kill.Stop()

	lines := bufio.NewScanner(stdout)
	endpoint, paste := "", []string{}
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Ctrl-C") {
		if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == "ready" {
			endpoint = words[1]
		}
		if line, ok := strings.CutPrefix(lines.Text(), "  "); ok && endpoint != "" {
			paste = append(paste, line)
		}
	}
	var asked []result
	for _, line := range paste {
		if verb, ok := strings.CutPrefix(line, "aws --endpoint-url "+endpoint+" kms "); ok {
			// Our own verbs are those of the aws CLI.
			r, err := run(exec.Command("sh", "-c", paste[0]+"\nexec '"+binary+"' --endpoint-url "+endpoint+" "+verb))
			assert.NoError(t, err)
			asked = append(asked, r)
		}
	}
	assert.NoError(t, cmd.Process.Signal(os.Interrupt))
	_, _ = io.Copy(io.Discard, stdout) // to its end, as Wait wants it
	require.NoError(t, cmd.Wait(), "%s", &stderr)
	assert.Contains(t, stderr.String(), "NOT FOR PRODUCTION")
	require.Len(t, asked, 2)
	assert.Zero(t, asked[0].code, "%s", asked[0].stderr)
	assert.Contains(t, string(asked[0].stdout), `"KeySpec": "HMAC_256"`)
	assert.Equal(t, 3, strings.Count(string(asked[1].stdout), `"KeyId"`),
		"the keys of the quick start and the one that was made by the server")
}

// TestQuickstartNoticesAWrongAnswer: it would be no demonstration if it passed with a binary that accepts everything.
func TestQuickstartNoticesAWrongAnswer(t *testing.T) {
	softhsm.NewToken(t)
	for credulity, told := range map[string]string{
		`case $1 in verify-mac) exit 0 ;; esac`:              "the changed message was not refused",
		`case "$1 $2" in "jwt verify") exit 0 ;; esac`:       "the foreign signature was not refused",
		`case "$1 $2 $6" in "jwt verify "?*) exit 1 ;; esac`: "the foreign signature was not refused",
	} {
		credulous := filepath.Join(t.TempDir(), "pkcs11kms")
		text := fmt.Sprintf("#!/bin/sh\n%s\nexec '%s' \"$@\"\n", credulity, executable(t, realBinary))
		require.NoError(t, os.WriteFile(credulous, []byte(text), 0o700))
		r := quickstart(t, credulous, filepath.Join(t.TempDir(), "state"))
		assert.Equal(t, 1, r.code)
		assert.Contains(t, string(r.stderr), told)
	}
}
