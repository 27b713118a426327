package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

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
	assert.Equal(t, 1, strings.Count(string(out), `"MacValid": true`))
	assert.Equal(t, 1, strings.Count(string(out), `"sub": "alice"`))
	assert.Equal(t, 2, strings.Count(string(out), "role/JwtConsumer is not authorized to perform: kms:GenerateMac"), "%s", out)
	for _, denied := range []string{"role/JwtConsumer is not authorized to perform: kms:GenerateMac", "role/JwtProducer is not authorized to perform: kms:VerifyMac",
		"role/JwtProducer is not authorized to perform: kms:ListKeys"} {
		assert.Contains(t, string(out), denied)
	}
	assert.Regexp(t, `(?s)"Decision": "implicitDeny".*"Decision": "allowed".*"Sid": "MakeTokens"`, string(out))
	assert.NotContains(t, string(out), "AWS_SECRET_ACCESS_KEY")
}
