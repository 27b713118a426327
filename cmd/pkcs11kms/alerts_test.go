package main

import (
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The rules for Prometheus are such, on metrics that the manual knows.
func TestAlerts(t *testing.T) {
	const rules = "../../docs/alerts.yml"
	text, err := os.ReadFile(rules)
	require.NoError(t, err)
	manual, err := os.ReadFile("../../docs/server.md")
	require.NoError(t, err)
	metrics := regexp.MustCompile(`pkcs11kms_\w+`)
	known := map[string]bool{}
	for _, name := range metrics.FindAllString(string(manual), -1) {
		known[name] = true
	}
	used := metrics.FindAllString(string(text), -1)
	require.NotEmpty(t, used)
	for _, name := range used {
		assert.True(t, known[name], name)
	}
	out, err := exec.Command(requireTool(t, "prometheus", "promtool"), "check", "rules", rules).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
