package softhsm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.Mode().Perm()
}

func TestSetupWritesConfiguration(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	c, err := softhsm.Setup(dir)
	require.NoError(t, err)
	assert.Equal(t, softhsm.Config{Dir: dir, File: filepath.Join(dir, "softhsm2.conf"), TokenDir: filepath.Join(dir, "tokens")}, *c)
	assert.Equal(t, os.FileMode(0o700), mode(t, dir))
	assert.Equal(t, os.FileMode(0o700), mode(t, c.TokenDir))
	assert.Equal(t, os.FileMode(0o600), mode(t, c.File))
	text, err := os.ReadFile(c.File)
	require.NoError(t, err)
	for _, line := range []string{"directories.tokendir = " + c.TokenDir, "objectstore.backend = file", "log.level = ERROR",
		"slots.removable = false"} {
		assert.Contains(t, strings.Split(string(text), "\n"), line)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 2, "no temporary file stays")
}

func TestSetupTakesRelativePath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c, err := softhsm.Setup("hsm")
	require.NoError(t, err)
	assert.True(t, filepath.IsAbs(c.Dir))
	assert.FileExists(t, filepath.Join(dir, "hsm", "softhsm2.conf"))
}

func TestSetupMendsModes(t *testing.T) {
	c, err := softhsm.Setup(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.Chmod(c.TokenDir, 0o755))
	require.NoError(t, os.Chmod(c.File, 0o644))
	_, err = softhsm.Setup(c.Dir)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), mode(t, c.TokenDir))
	assert.Equal(t, os.FileMode(0o600), mode(t, c.File))
}

func TestSetupKeepsOrRewritesFile(t *testing.T) {
	dir := t.TempDir()
	own := "directories.tokendir=" + dir + "/tokens # here\nlog.level = DEBUG\n"
	for _, c := range []struct {
		name, text string
		kept       bool
	}{
		{"own settings", own, true},
		{"last directory counts", "directories.tokendir = /elsewhere\n" + own, true},
		{"other directory", "directories.tokendir = /elsewhere\n", false},
		{"other directory last", own + "directories.tokendir = /elsewhere\n", false},
		{"directory in a comment", "# " + own, false},
		{"cut", own[:len(own)-len("okens # here\nlog.level = DEBUG\n")], false},
		{"empty", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(dir, "softhsm2.conf")
			require.NoError(t, os.WriteFile(file, []byte(c.text), 0o600))
			_, err := softhsm.Setup(dir)
			require.NoError(t, err)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			if c.kept {
				assert.Equal(t, c.text, string(text))
				return
			}
			assert.Contains(t, string(text), "directories.tokendir = "+dir+"/tokens\n")
			assert.NotContains(t, string(text), "/elsewhere")
		})
	}
}

func TestSetupRefusesPathsThatSoftHSMCuts(t *testing.T) {
	base := t.TempDir()
	for _, name := range []string{"a#b", "a=b", "a\nb", "a\rb", "a\x00b", strings.Repeat("long/", 220)} {
		dir := filepath.Join(base, name)
		_, err := softhsm.Setup(dir)
		require.Error(t, err, "%q", name)
		assert.NotEmpty(t, hint(t, err))
		assert.NoDirExists(t, dir)
	}
}

func TestTokensInPathsThatLookOdd(t *testing.T) {
	base := setup(t).Dir
	for _, name := range []string{" blanks ", "per%20cent", "sémi;colon", `quote"s'`, "[a]*?", strings.Repeat("d/", 100)} {
		t.Run(name, func(t *testing.T) {
			c, err := softhsm.Setup(filepath.Join(base, name))
			require.NoError(t, err)
			tok := create(t, c, "odd")
			assert.Equal(t, map[string]string{"odd": tok.Serial}, labels(t, initialize(t)))
		})
	}
}

func TestSetupReportsWhatIsInTheWay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	touch(t, file)
	_, err := softhsm.Setup(file)
	require.ErrorContains(t, err, file)
	_, err = softhsm.Setup(filepath.Join(file, "below"))
	require.ErrorContains(t, err, file)

	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "softhsm2.conf"), 0o700))
	_, err = softhsm.Setup(dir)
	require.ErrorContains(t, err, dir)
}

func TestMovedDirectoryKeepsItsTokens(t *testing.T) {
	c := setup(t)
	old := filepath.Join(c.Dir, "old")
	before, err := softhsm.Setup(old)
	require.NoError(t, err)
	tok := create(t, before, "mover")

	moved := filepath.Join(c.Dir, "new")
	require.NoError(t, os.Rename(old, moved))
	after, err := softhsm.Setup(moved)
	require.NoError(t, err)
	require.NoError(t, after.Use())
	assert.Equal(t, map[string]string{"mover": tok.Serial}, labels(t, initialize(t)))
	assert.NoDirExists(t, old)
}

func TestUseRefusesSecondConfiguration(t *testing.T) {
	first := setup(t)
	second, err := softhsm.Setup(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, first.Use())
	initialize(t)

	require.NoError(t, first.Use(), "the one in use is no conflict")
	err = second.Use()
	require.ErrorIs(t, err, softhsm.ErrOtherConfiguration)
	assert.Contains(t, err.Error(), first.File)
	assert.Contains(t, hint(t, err), "process of its own")
	assert.Equal(t, first.File, os.Getenv(softhsm.EnvConfig))

	_, err = second.CreateToken("label", softhsm.RandomPIN(), softhsm.RandomPIN())
	require.ErrorIs(t, err, softhsm.ErrOtherConfiguration)
}

func TestEnvironmentChangedBehindTheModule(t *testing.T) {
	first := setup(t)
	second, err := softhsm.Setup(t.TempDir())
	require.NoError(t, err)
	t.Setenv(softhsm.EnvConfig, first.File)
	ctx := initialize(t)
	require.NoError(t, os.Setenv(softhsm.EnvConfig, second.File))

	_, err = second.CreateToken("astray", softhsm.RandomPIN(), softhsm.RandomPIN())
	require.ErrorIs(t, err, softhsm.ErrOtherConfiguration)
	_, err = second.CreateToken("another", softhsm.RandomPIN(), softhsm.RandomPIN())
	require.ErrorIs(t, err, softhsm.ErrOtherConfiguration)
	assert.NotContains(t, labels(t, ctx), "another", "a visible foreign token is noticed before anything is made")
}

func TestOtherClientsReadTheConfiguration(t *testing.T) {
	c := setup(t)
	tok := create(t, c, "seen outside")
	cmd := exec.Command(tool(t, "softhsm", "softhsm2-util"), "--show-slots")
	cmd.Env = append(os.Environ(), tok.Env()...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Regexp(t, `Label: +seen outside\s`, string(out))
	assert.Contains(t, string(out), tok.Serial)
	assert.Contains(t, string(out), "User PIN init.:   yes")
}

// Two paths of one directory must not rewrite each other's configuration: whoever reads it meanwhile would find it gone.
func TestSetupThroughALinkChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "real")
	made, err := softhsm.Setup(dir)
	require.NoError(t, err)
	before, err := os.ReadFile(made.File)
	require.NoError(t, err)
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))
	_, err = softhsm.Setup(link)
	require.NoError(t, err)
	after, err := os.ReadFile(made.File)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
}
