package softhsm_test

import (
	"crypto/subtle"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/softhsm"
)

// tokenWithKey makes a configuration, a token whose PIN is in a file, and a key in it, and returns the key's MAC.
func tokenWithKey(t *testing.T) (c *softhsm.Config, tok softhsm.Token, pinFile string, tag []byte) {
	t.Helper()
	c = setup(t)
	pin := softhsm.RandomPIN()
	tok, err := c.CreateToken("heals", softhsm.RandomPIN(), pin)
	require.NoError(t, err)
	pinFile = filepath.Join(c.Dir, "pin")
	require.NoError(t, os.WriteFile(pinFile, []byte(pin), 0o600))
	tag, err = sign(tok.Module, tok.Serial, pin, true)
	require.NoError(t, err)
	return c, tok, pinFile, tag
}

// requireSigns holds that the token opens and that its key makes the same MAC as ever. It asks a process of its own, in
// which nothing of the token is remembered.
func requireSigns(t *testing.T, tok softhsm.Token, pinFile string, tag []byte) {
	t.Helper()
	got := child(t, tok.Env(), "sign", tok.Module, tok.Serial, pinFile)
	require.True(t, subtle.ConstantTimeCompare([]byte(got), fmt.Appendf(nil, "%x", tag)) == 1, "the MAC differs")
}

// fileOf returns the file that a login rewrites, of the only token of a configuration.
func fileOf(t *testing.T, c *softhsm.Config) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.TokenDir, "*", "token.object"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	return files[0]
}

func TestSetupRestoresAnEmptiedToken(t *testing.T) {
	c, tok, pinFile, tag := tokenWithKey(t)
	file := fileOf(t, c)
	require.NoError(t, os.Truncate(file, 0))
	healed, err := softhsm.Setup(c.Dir)
	require.NoError(t, err)
	assert.Equal(t, []string{tok.Serial}, healed.Restored)
	assert.Equal(t, os.FileMode(0o600), mode(t, file))
	requireSigns(t, tok, pinFile, tag)

	again, err := softhsm.Setup(c.Dir)
	require.NoError(t, err)
	assert.Empty(t, again.Restored)
	entries, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	for _, e := range entries {
		assert.NotContains(t, e.Name(), "tmp", "no temporary file stays")
	}
}

func TestCopiesAreTheOwnersOnlyAndGoWithTheirToken(t *testing.T) {
	c := setup(t)
	create(t, c, "kept")
	saved := filepath.Join(c.Dir, "tokens.saved")
	assert.Equal(t, os.FileMode(0o700), mode(t, saved))
	before, err := os.ReadDir(saved)
	require.NoError(t, err)
	require.Len(t, before, 1)
	name := before[0].Name()
	assert.Equal(t, os.FileMode(0o600), mode(t, filepath.Join(saved, name)))
	assert.Equal(t, filepath.Base(filepath.Dir(fileOf(t, c))), name)

	child(t, nil, "create-without-space", c.Dir, "full")
	after, err := os.ReadDir(saved)
	require.NoError(t, err)
	require.Len(t, after, 1, "a token that could not be finished has no copy")
	assert.Equal(t, name, after[0].Name())
}

func TestMovedDirectoryRestoresItsTokens(t *testing.T) {
	c, tok, pinFile, tag := tokenWithKey(t)
	require.NoError(t, os.Truncate(fileOf(t, c), 0))
	moved := filepath.Join(t.TempDir(), "moved")
	require.NoError(t, os.Rename(c.Dir, moved))
	healed, err := softhsm.Setup(moved)
	require.NoError(t, err)
	assert.Equal(t, []string{tok.Serial}, healed.Restored)
	tok.ConfigFile = healed.File
	requireSigns(t, tok, filepath.Join(moved, filepath.Base(pinFile)), tag)
}

func TestTokenWithoutACopyIsLeftAlone(t *testing.T) {
	c, _, _, _ := tokenWithKey(t)
	require.NoError(t, os.RemoveAll(filepath.Join(c.Dir, "tokens.saved")))
	require.NoError(t, os.Truncate(fileOf(t, c), 0))
	left, err := softhsm.Setup(c.Dir)
	require.NoError(t, err)
	assert.Empty(t, left.Restored)
	assert.True(t, emptied(t, fileOf(t, c)))
}

// TestTokenThatAnotherProcessIsWritingIsLeftAlone writes the file after a healer has begun, which cannot go on before that.
func TestTokenThatAnotherProcessIsWritingIsLeftAlone(t *testing.T) {
	c, _, _, _ := tokenWithKey(t)
	file := fileOf(t, c)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	text = append(text, "written late"...)
	require.NoError(t, os.Truncate(file, 0))
	require.NoError(t, os.Remove(c.File)) // comes back when the healer has begun
	dir, err := os.Open(c.TokenDir)
	require.NoError(t, err)
	require.NoError(t, syscall.Flock(int(dir.Fd()), syscall.LOCK_EX))
	type result struct {
		c   *softhsm.Config
		err error
	}
	ended := make(chan result, 1)
	go func() {
		c, err := softhsm.Setup(c.Dir)
		ended <- result{c, err}
	}()
	require.Eventually(t, func() bool {
		_, err := os.Stat(c.File)
		return err == nil
	}, time.Minute, time.Millisecond)
	require.NoError(t, os.WriteFile(file, text, 0o600))
	require.NoError(t, dir.Close())
	healer := <-ended
	require.NoError(t, healer.err)
	assert.Empty(t, healer.c.Restored)
	now, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.True(t, string(text) == string(now), "the file is not what was written")
}

func TestManyHealersAtOnce(t *testing.T) {
	c, tok, pinFile, tag := tokenWithKey(t)
	require.NoError(t, os.Truncate(fileOf(t, c), 0))
	var healers sync.WaitGroup
	restored := make(chan []string, 8)
	for range cap(restored) {
		healers.Go(func() {
			healed, err := softhsm.Setup(c.Dir)
			if assert.NoError(t, err) {
				restored <- healed.Restored
			}
		})
	}
	healers.Wait()
	close(restored)
	var all []string
	for r := range restored {
		all = append(all, r...)
	}
	assert.Equal(t, []string{tok.Serial}, all, "one heals")
	requireSigns(t, tok, pinFile, tag)
}

func emptied(t *testing.T, file string) bool {
	t.Helper()
	info, err := os.Stat(file)
	require.NoError(t, err)
	return info.Size() == 0
}

// TestTokenSurvivesKilledLogins kills processes that log in again and again.
func TestTokenSurvivesKilledLogins(t *testing.T) {
	if testing.Short() {
		t.Skip("takes several seconds")
	}
	c, tok, pinFile, tag := tokenWithKey(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	kills, hits := 30, 0
	for range kills {
		cmd := childCommand(t, tok.Env(), "login", tok.Module, pinFile)
		var out strings.Builder
		cmd.Stderr = &out
		_, err := cmd.StdinPipe() // which lasts until the process ends
		require.NoError(t, err)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		_, err = io.ReadFull(stdout, make([]byte, 1)) // it has logged in once
		require.NoError(t, err, "%s", &out)
		kill := time.NewTimer(time.Duration(random.Int64N(int64(10 * time.Millisecond))))
		<-kill.C
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait(), "it was killed: %s", &out)
		was := emptied(t, fileOf(t, c))
		healed, err := softhsm.Setup(c.Dir)
		require.NoError(t, err)
		require.Equal(t, was, len(healed.Restored) == 1, "seed %d", seed)
		if was {
			hits++
			requireSigns(t, tok, pinFile, tag)
		}
		require.False(t, emptied(t, fileOf(t, c)))
	}
	requireSigns(t, tok, pinFile, tag)
	t.Logf("seed %d: %d of %d kills emptied the token's file", seed, hits, kills)
}
