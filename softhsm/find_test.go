package softhsm_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

func touch(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, nil, 0o600))
}

func TestFindKnowsEachSystem(t *testing.T) {
	for _, c := range []struct{ system, goarch, path string }{
		{"Debian amd64", "amd64", "usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"},
		{"Debian arm64", "arm64", "usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"},
		{"Debian armhf", "arm", "usr/lib/arm-linux-gnueabihf/softhsm/libsofthsm2.so"},
		{"Debian link", "amd64", "usr/lib/softhsm/libsofthsm2.so"},
		{"Alpine, Arch", "arm64", "usr/lib/softhsm/libsofthsm2.so"},
		{"Fedora", "amd64", "usr/lib64/pkcs11/libsofthsm2.so"},
		{"RHEL", "s390x", "usr/lib64/softhsm/libsofthsm2.so"},
		{"Fedora's library folder", "ppc64le", "usr/lib64/libsofthsm2.so"},
		{"Homebrew arm64", "arm64", "opt/homebrew/lib/softhsm/libsofthsm2.so"},
		{"Homebrew arm64 dylib", "arm64", "opt/homebrew/lib/softhsm/libsofthsm2.dylib"},
		{"Homebrew amd64", "amd64", "usr/local/lib/softhsm/libsofthsm2.so"},
		{"Homebrew amd64 dylib", "amd64", "usr/local/lib/softhsm/libsofthsm2.dylib"},
		{"unknown architecture", "mips", "usr/lib/softhsm/libsofthsm2.so"},
	} {
		t.Run(c.system, func(t *testing.T) {
			root := t.TempDir()
			want := filepath.Join(root, c.path)
			touch(t, want)
			got, err := softhsm.FirstFile(softhsm.Places(root, c.goarch))
			require.NoError(t, err)
			assert.Equal(t, want, got)
		})
	}
}

func TestFindIgnoresForeignArchitecture(t *testing.T) {
	root := t.TempDir()
	touch(t, filepath.Join(root, "usr/lib/i386-linux-gnu/softhsm/libsofthsm2.so"))
	_, err := softhsm.FirstFile(softhsm.Places(root, "amd64"))
	assert.Error(t, err)
}

func TestFindListsWhereItLooked(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "usr/lib/softhsm/libsofthsm2.so"), 0o700), "a directory is no module")
	places := softhsm.Places(root, runtime.GOARCH)
	_, err := softhsm.FirstFile(places)
	var missing *softhsm.NotFoundError
	require.ErrorAs(t, err, &missing)
	assert.Equal(t, places, missing.Places)
	for _, place := range places {
		assert.Contains(t, err.Error(), place)
	}
	for _, command := range []string{"apt-get install softhsm2", "dnf install softhsm", "apk add softhsm",
		"pacman -S softhsm", "brew install softhsm", softhsm.EnvModule} {
		assert.Contains(t, hint(t, err), command)
	}
}

func TestFindObeysEnvironment(t *testing.T) {
	module := filepath.Join(t.TempDir(), "my-softhsm.so")
	t.Setenv(softhsm.EnvModule, module)
	_, err := softhsm.Find()
	var missing *softhsm.NotFoundError
	require.ErrorAs(t, err, &missing, "it must not fall back on the usual places")
	assert.Equal(t, []string{module}, missing.Places)

	touch(t, module)
	got, err := softhsm.Find()
	require.NoError(t, err)
	assert.Equal(t, module, got)
}

func TestInstallScriptLooksAtTheSamePlaces(t *testing.T) {
	script, err := os.ReadFile("install.sh")
	require.NoError(t, err)
	for _, place := range softhsm.Places("/", "amd64") {
		assert.Contains(t, string(script), strings.Replace(place, "x86_64-linux-gnu", "*-linux-gnu*", 1))
	}
}

func TestBrokenModule(t *testing.T) {
	c, err := softhsm.Setup(t.TempDir())
	require.NoError(t, err)
	c.Module = filepath.Join(t.TempDir(), "libsofthsm2.so")
	require.NoError(t, os.WriteFile(c.Module, []byte("no library"), 0o600))
	_, err = c.CreateToken("label", softhsm.RandomPIN(), softhsm.RandomPIN())
	require.ErrorContains(t, err, c.Module)
	assert.Contains(t, hint(t, err), softhsm.EnvModule)
}
