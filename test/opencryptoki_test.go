package test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// opencryptoki gives the handle of an object that another client has destroyed to another object, so that a handle kept from before is
// another key's. A server that uses one answers KeyUnavailableException, and never with the other key's MAC.
func TestReusedHandlesOfOpencryptoki(t *testing.T) {
	tool(t, "opencryptoki", "pkcsslotd")
	tool(t, "opensc", "pkcs11-tool")
	dir := t.TempDir()
	out, err := run(inNamespaces(t, "sh", filepath.Join("tokens", "opencryptoki.sh"), dir, "sh", "opencryptoki.sh",
		executable(t, usersBinary), dir))
	require.NoError(t, err, "%s", out.stderr)
	require.Equal(t, "wrong MACs: 0, KeyUnavailableException: 6, otherwise: 0\n", string(out.stdout), "%s", out.stderr)
}
