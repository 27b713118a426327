package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestAccessDocument runs what docs/access.md tells to run, beside the server that make run starts.
func TestAccessDocument(t *testing.T) {
	preferSystemPrograms(t)
	requireTool(t, "awscli", "aws")
	text, err := os.ReadFile("../../docs/access.md")
	require.NoError(t, err)
	var script strings.Builder
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(text, -1) {
		script.Write(block[1])
	}
	out, err := readmeServer(t)(script.String()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, 2, strings.Count(string(out), `"MacValid": true`), "of the own account, and of another")
	assert.Equal(t, 1, strings.Count(string(out), `"sub": "alice"`))
	assert.Equal(t, 2, strings.Count(string(out), "role/JwtConsumer is not authorized to perform: kms:GenerateMac"), "%s", out)
	for _, denied := range []string{"role/JwtConsumer is not authorized to perform: kms:GenerateMac",
		"role/JwtProducer is not authorized to perform: kms:VerifyMac",
		"role/JwtProducer is not authorized to perform: kms:ListKeys"} {
		assert.Contains(t, string(out), denied)
	}
	assert.Regexp(t, `(?s)"Decision": "implicitDeny".*"Decision": "allowed".*"Sid": "MakeTokens"`, string(out))
	assert.NotContains(t, string(out), "AWS_SECRET_ACCESS_KEY")
}

// TestAccessEndsInARunningServer: a policy, an access key and a role that are taken away by one process are refused by another
// soon after.
func TestAccessEndsInARunningServer(t *testing.T) {
	p := newProgram(t)
	server := p.serve(anyPort...)
	role := []string{"--role-name", "JwtProducer"}
	iam := func(verb string, args ...string) string {
		return p.must(append(append([]string{"iam", verb}, role...), args...)...)
	}
	allowed := func() {
		iam("put-role-policy", "--policy-name", "tokens", "--policy-document",
			`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:GenerateMac", "Resource": "*"}}`)
	}
	newKey := func() []string {
		return strings.Fields(iam("create-access-key", "--query", "AccessKey.[AccessKeyId,SecretAccessKey]", "--output", "text"))
	}
	iam("create-role")
	credentials := newKey()
	allowed()
	answers := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool {
			cmd := p.command("pkcs11kms", "generate-mac", "--endpoint-url", server.url, "--region", "us-east-1", "--key-id", p.key,
				"--mac-algorithm", "HMAC_SHA_256", "--message", "SGVsbG8=")
			cmd.Env = append(cmd.Env, "AWS_ACCESS_KEY_ID="+credentials[0], "AWS_SECRET_ACCESS_KEY="+credentials[1], "AWS_SESSION_TOKEN=",
				"PKCS11KMS_STATE_DIR=")
			out, _ := cmd.CombinedOutput() // what it says is what counts
			return strings.Contains(string(out), want)
		}, patience, 50*time.Millisecond, want)
	}
	answers(`"Mac":`)
	iam("delete-role-policy", "--policy-name", "tokens")
	answers("AccessDeniedException")
	allowed()
	answers(`"Mac":`)
	iam("delete-access-key", "--access-key-id", credentials[0])
	answers("UnrecognizedClientException")
	credentials = newKey()
	answers(`"Mac":`)
	iam("update-access-key", "--access-key-id", credentials[0], "--status", "Inactive")
	answers("UnrecognizedClientException")
}
