package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestExamplesWork runs every line of every example. What the examples name is put in place: the keys, the files. The
// one thing that a test machine lacks is the module of a hardware vendor.
func TestExamplesWork(t *testing.T) {
	p := newProgram(t)
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o600))
	}
	write("msg", "Hello")
	write("a.iso", "image")
	p.certificate("server", 1)
	require.NoError(t, os.Mkdir(filepath.Join(p.dir, "dir"), 0o700))
	mac := p.command("sh", "-c", "pkcs11kms generate-mac --key-id "+p.key+
		" --mac-algorithm HMAC_SHA_256 --message fileb://msg --query Mac --output text | base64 -d > msg.mac")
	require.NoError(t, mac.Run())

	for _, cmd := range verbs(t) {
		dir := "kms"
		if cmd.Name() == "init" {
			dir = "fresh"
		}
		accessKey := ""
		if strings.Contains(cmd.Example, "AKIAIOSFODNN7EXAMPLE") {
			accessKey = strings.TrimSpace(p.must("iam", "create-access-key", "--query", "AccessKey.AccessKeyId", "--output", "text"))
		}
		for line := range strings.SplitSeq(strings.ReplaceAll(cmd.Example, "\\\n", ""), "\n") {
			line = strings.ReplaceAll(line, "1234abcd-12ab-34cd-56ef-1234567890ab", p.key)
			line = strings.ReplaceAll(line, "AKIAIOSFODNN7EXAMPLE", accessKey)
			line = strings.ReplaceAll(line, "--state-dir ./kms", "--state-dir ./"+dir)
			line = strings.ReplaceAll(line, "/var/lib/pkcs11kms", "./vendor")
			p.tryExample(cmd.Name(), strings.TrimSpace(line))
		}
	}
}

// tryExample runs one line, a server until it is ready.
func (p *program) tryExample(verb, line string) {
	p.t.Helper()
	if verb == "serve" {
		server, err := launch(p.command("sh", "-c", "exec "+line+" "+strings.Join(anyPort, " ")))
		require.NoError(p.t, err, line)
		code, err := server.stop(syscall.SIGTERM)
		require.NoError(p.t, err, line)
		assert.Zero(p.t, code, line)
		return
	}
	out, err := p.command("sh", "-c", "("+line+"\n) > output").CombinedOutput()
	if strings.Contains(line, "libCryptoki2.so") {
		require.ErrorContains(p.t, err, "exit status 3")
		assert.Contains(p.t, string(out), `"/usr/lib/libCryptoki2.so" does not exist`)
		return
	}
	assert.NoError(p.t, err, "%s\n%s", line, out)
}
