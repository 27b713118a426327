package softhsm_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
	"github.com/pkcs11kms/bridge/test/disk"
)

// On a file system that is mounted read-only a configuration is used as it is. What would have to be written there is an
// error that says so.
func TestSetupOnAReadOnlyFileSystem(t *testing.T) {
	d, ok := disk.New(t, "1m")
	if !ok {
		t.Skip("a file system cannot be mounted here")
	}
	dir, open, moved := filepath.Join(d.Dir, "kms"), filepath.Join(d.Dir, "open"), filepath.Join(d.Dir, "moved")
	for _, made := range []string{dir, open, moved} {
		_, err := softhsm.Setup(made)
		require.NoError(t, err)
	}
	require.NoError(t, os.Chmod(filepath.Join(open, "tokens"), 0o755))
	require.NoError(t, os.Rename(moved, moved+"2"))
	again := d.ReadOnly()
	c, err := softhsm.Setup(dir)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, "softhsm2.conf"), c.File)
	for _, refused := range []string{open, moved + "2", filepath.Join(d.Dir, "new")} {
		_, err = softhsm.Setup(refused)
		require.ErrorContains(t, err, "read-only file system")
		var hinted interface{ Hint() string }
		require.ErrorAs(t, err, &hinted)
		assert.Contains(t, hinted.Hint(), "mount it read-write")
	}
	again()
	_, err = softhsm.Setup(open)
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(open, "tokens"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), info.Mode().Perm(), "others are kept out")
	free := d.Fill()
	_, err = softhsm.Setup(filepath.Join(d.Dir, "full"))
	if err == nil {
		_, err = softhsm.Setup(moved + "2")
	}
	var hinted interface{ Hint() string }
	require.ErrorAs(t, err, &hinted)
	assert.Contains(t, hinted.Hint(), "free space")
	free()
}
