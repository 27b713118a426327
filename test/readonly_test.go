package test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/test/disk"
)

// A state directory with a SoftHSM token on a file system that turned read-only: nothing is done that cannot be recorded. Without an audit
// log, what reads and signs goes on, in processes that are started then, and what changes is refused with a hint.
func TestAReadOnlyStateDirectory(t *testing.T) {
	d, ok := disk.New(t, "8m")
	if !ok {
		t.Skip("a file system cannot be mounted here")
	}
	binary := executable(t, realBinary)
	command := func(args ...string) *exec.Cmd {
		return exec.Command(binary, append(args, "--state-dir", filepath.Join(d.Dir, "kms"))...)
	}
	create := []string{"create-key", "--key-spec", "HMAC_256", "--key-usage", "GENERATE_VERIFY_MAC"}
	out, err := command("init", "--softhsm").CombinedOutput()
	require.NoError(t, err, "%s", out)
	again := d.ReadOnly()
	out, err = command("list-keys").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "the audit log cannot be written")
	require.Contains(t, string(out), "hint: The file system is mounted read-only")
	again()
	config, err := os.OpenFile(filepath.Join(d.Dir, "kms", "config.yaml"), os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = config.WriteString("audit: {file: off}\n")
	require.NoError(t, errors.Join(err, config.Close()))

	again = d.ReadOnly()
	require.NoError(t, answered(command("list-keys"), nil), "whose token cannot be bound yet")
	again()
	var made struct{ KeyMetadata struct{ KeyId string } }
	require.NoError(t, answered(command(create...), &made))
	mac := []string{"generate-mac", "--key-id", made.KeyMetadata.KeyId, "--mac-algorithm", "HMAC_SHA_256", "--message", "aGk="}
	var before, after struct{ Mac string }
	require.NoError(t, answered(command(mac...), &before))

	again = d.ReadOnly()
	var listed struct{ Keys []struct{ KeyId string } }
	require.NoError(t, answered(command("list-keys"), &listed))
	require.Equal(t, made.KeyMetadata.KeyId, listed.Keys[0].KeyId)
	require.NoError(t, answered(command(mac...), &after))
	require.True(t, before == after, "another MAC")
	for _, args := range [][]string{create, {"doctor"}} {
		out, err = command(args...).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "hint: The file system is mounted read-only")
		require.NotContains(t, string(out), "chmod")
	}
	again()
	require.NoError(t, answered(command(create...), &made))
}
