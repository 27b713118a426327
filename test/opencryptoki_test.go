package test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// opencryptoki gives the handle of an object that another client has destroyed to another object, so that a handle kept from before is
// another key's. A server that uses one answers KeyUnavailableException, and never with the other key's MAC.
func TestReusedHandlesOfOpencryptoki(t *testing.T) {
	tool(t, "opencryptoki", "pkcsslotd")
	tool(t, "opensc", "pkcs11-tool")
	namespaces := []string{"--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"}
	if os.Getuid() != 0 || exec.Command("unshare", append(namespaces, "true")...).Run() != nil {
		t.Skip("namespaces cannot be made here: opencryptoki has one configuration for a machine, which is left alone")
	}
	cmd := exec.Command("unshare", append(namespaces, "sh", "opencryptoki.sh", executable(t, usersBinary), t.TempDir())...)
	out, err := run(cmd)
	require.NoError(t, err, "%s", out.stderr)
	require.Equal(t, "wrong MACs: 0, KeyUnavailableException: 6, otherwise: 0\n", string(out.stdout), "%s", out.stderr)
}
