package sqlite_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// names lists what is in a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// requireHint makes sure that err is one line with a hint and contains the text.
func requireHint(t *testing.T, err error, text string) {
	t.Helper()
	require.ErrorContains(t, err, text)
	var hinted interface{ Hint() string }
	require.ErrorAs(t, err, &hinted)
	assert.NotEmpty(t, hinted.Hint())
	assert.NotContains(t, err.Error(), "\n")
	assert.False(t, strings.HasSuffix(err.Error(), "."), err.Error())
}

func TestCreateMakesAPrivateCompleteFile(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "kms.db")
	require.NoError(t, sqlite.Create(path))

	assert.Equal(t, []string{"kms.db", "locks"}, names(t, dir), "no journal and no draft is left")
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())
	locks, err := os.Stat(filepath.Join(dir, "locks"))
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o700)|fs.ModeDir, locks.Mode())

	// The header as the SQLite file format has it: a reader who knows nothing of the journal can tell what this is.
	header, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "SQLite format 3\x00", string(header[:16]))
	assert.Equal(t, []byte{2, 2}, header[18:20], "write-ahead log")
	assert.Equal(t, uint32(8), binary.BigEndian.Uint32(header[60:]), "user_version")
	assert.Equal(t, "pkKS", string(header[68:72]), "application_id is frozen")
}

func TestCreateTakesAnyName(t *testing.T) {
	for _, name := range []string{"with space", "?mode=memory", "#x", "100%41.db", ":memory:", "a&b", "é"} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		require.NoError(t, sqlite.Create(path))
		require.NoError(t, mustOpen(t, path).Close())
		assert.ElementsMatch(t, []string{name, "locks"}, names(t, dir))
	}
}

func TestCreateRefusesWhatIsThere(t *testing.T) {
	for name, inTheWay := range map[string]string{"file": "kms.db", "journal": "kms.db-wal", "old journal": "kms.db-journal"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, inTheWay), []byte("precious"), 0o600))
			requireHint(t, sqlite.Create(filepath.Join(dir, "kms.db")), "create store")
			assert.Equal(t, []string{inTheWay}, names(t, dir))
			content, err := os.ReadFile(filepath.Join(dir, inTheWay))
			require.NoError(t, err)
			assert.Equal(t, "precious", string(content))
		})
	}
	t.Run("link to nowhere", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.Symlink(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "kms.db")))
		requireHint(t, sqlite.Create(filepath.Join(dir, "kms.db")), "exists")
		assert.Equal(t, []string{"kms.db"}, names(t, dir))
	})
}

func TestCreateNeedsADirectory(t *testing.T) {
	err := sqlite.Create(filepath.Join(t.TempDir(), "missing", "kms.db"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestCreateHasOneWinner(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kms.db")
	results := make([]error, 4)
	var group errgroup.Group
	for i := range results {
		group.Go(func() error { results[i] = sqlite.Create(path); return nil })
	}
	require.NoError(t, group.Wait())
	won := 0
	for _, err := range results {
		if err == nil {
			won++
			continue
		}
		assert.ErrorContains(t, err, "exists already")
	}
	assert.Equal(t, 1, won)
	assert.Equal(t, []string{"kms.db", "locks"}, names(t, dir))
	require.NoError(t, mustOpen(t, path).Verify(t.Context()))
}

func TestOpenNeverCreates(t *testing.T) {
	dir := t.TempDir()
	_, err := sqlite.Open(t.Context(), filepath.Join(dir, "kms.db"), sqlite.Options{})
	requireHint(t, err, "no such file")
	var e *sqlite.Error
	require.ErrorAs(t, err, &e)
	assert.Contains(t, e.Hint(), "pkcs11kms init")
	assert.Empty(t, names(t, dir))
}

func TestOpenHonoursContext(t *testing.T) {
	path := newPath(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := sqlite.Open(ctx, path, sqlite.Options{})
	require.True(t, errors.Is(err, context.Canceled), "%v", err)
	assert.Empty(t, names(t, filepath.Join(filepath.Dir(path), "locks")), "the lock is given back")
}

func TestOpenThroughLink(t *testing.T) {
	path := newPath(t)
	link := filepath.Join(t.TempDir(), "link.db")
	require.NoError(t, os.Symlink(path, link))
	direct, linked := mustOpen(t, path), mustOpen(t, link)
	// Both ways lead to the same locks; otherwise each would take the other for dead.
	assert.ElementsMatch(t, []string{direct.Instance() + ".lock", linked.Instance() + ".lock"},
		names(t, filepath.Join(filepath.Dir(path), "locks")))
	assert.Equal(t, []string{"link.db"}, names(t, filepath.Dir(link)))
}
