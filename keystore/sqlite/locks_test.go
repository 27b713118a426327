package sqlite_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// creating is an unfinished record of an instance.
func creating(id, instance string) keystore.Key {
	k := key(id)
	k.State, k.Instance = keystore.Creating, instance
	return k
}

func locksOf(t *testing.T, path string) []string {
	t.Helper()
	return names(t, filepath.Join(filepath.Dir(path), "locks"))
}

// childHold leaves an unfinished record, says who it is and lives on until told to end.
func childHold(s *sqlite.Store) error {
	if _, err := s.Commit(context.Background(), creating("left by "+s.Instance(), s.Instance()).Put(0)); err != nil {
		return err
	}
	fmt.Println(s.Instance())
	return waitForParent()
}

func TestTakeOverOfProcesses(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	killed, ended := startChild(t, "hold", path), startChild(t, "hold", path)
	for c, end := range map[*child]func(*testing.T) []string{killed: killed.kill, ended: ended.finish} {
		instance := c.line(t)
		_, err := s.TakeOver(t.Context(), instance)
		require.ErrorIs(t, err, keystore.ErrAlive)
		end(t)
		release, err := s.TakeOver(t.Context(), instance)
		require.NoError(t, err)
		assert.Contains(t, locksOf(t, path), instance+".lock")
		rec, err := s.Get(t.Context(), key("left by "+instance).Ref())
		require.NoError(t, err)
		_, err = s.Commit(t.Context(), keystore.Change{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version})
		require.NoError(t, err)
		release(true)
		assert.NotContains(t, locksOf(t, path), instance+".lock")
	}
}

func TestChildrenDoNotKeepAnInstanceAlive(t *testing.T) {
	path := newPath(t)
	a, b := mustOpen(t, path), mustOpen(t, path)
	_, err := a.Commit(t.Context(), creating("left", a.Instance()).Put(0))
	require.NoError(t, err)
	startChild(t, "idle", path) // has inherited what is not close-on-exec
	require.NoError(t, a.Close())
	release, err := b.TakeOver(t.Context(), a.Instance())
	require.NoError(t, err)
	release(true)
}

func TestCloseKeepsLockFileForUnfinishedWork(t *testing.T) {
	path := newPath(t)
	idle, busy := mustOpen(t, path), mustOpen(t, path)
	version, err := busy.Commit(t.Context(), creating("left", busy.Instance()).Put(0))
	require.NoError(t, err)
	require.NoError(t, idle.Close())
	require.NoError(t, busy.Close())
	assert.Equal(t, []string{busy.Instance() + ".lock"}, locksOf(t, path))

	next := mustOpen(t, path)
	assert.Contains(t, locksOf(t, path), busy.Instance()+".lock", "opening removes no file with work left")
	_, err = next.Commit(t.Context(), keystore.Change{Op: keystore.Delete, Ref: key("left").Ref(), Expect: version})
	require.NoError(t, err)
	require.NoError(t, next.Close())

	last := mustOpen(t, path)
	assert.Equal(t, []string{last.Instance() + ".lock"}, locksOf(t, path), "the work is done: nothing to keep")
}

func TestOpenLeavesOtherFilesAmongLocksAlone(t *testing.T) {
	path := newPath(t)
	locks := filepath.Join(filepath.Dir(path), "locks")
	other := []string{"README", "audit.lock", "0123.lock", strings.Repeat("0123456789abcdeF", 3) + ".lock",
		strings.Repeat("audit.", 8) + ".lock"}
	for _, name := range other {
		require.NoError(t, os.WriteFile(filepath.Join(locks, name), nil, 0o600))
	}
	s := mustOpen(t, path)
	assert.ElementsMatch(t, append(other, s.Instance()+".lock"), locksOf(t, path))
	require.NoError(t, s.Close())
	assert.ElementsMatch(t, other, locksOf(t, path))
}

// An instance's id becomes the name of a file: what is none, such as a path, leads to no file at all.
func TestTakeOverRefusesMalformedInstances(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	for name, id := range map[string]string{
		"nothing":    "",
		"a few":      "0123",
		"first half": strings.Repeat("0123456789abcdef", 2),
		"too short":  s.Instance()[1:],
		"too long":   s.Instance() + "0",
		"upper case": strings.ToUpper(s.Instance()[:len(s.Instance())-1]) + "F",
		"other ones": strings.Repeat("0123456789abcdeg", 3),
		"a path":     "../" + strings.Repeat("./", 19) + "outside",
	} {
		if file := filepath.Join(filepath.Dir(path), "locks", id+".lock"); id != "" {
			require.NoError(t, os.WriteFile(file, nil, 0o600), name)
		}
		_, err := s.TakeOver(t.Context(), id)
		require.ErrorContains(t, err, "malformed instance id", name)
	}
}

// leaveWork returns an instance that is gone and has left a record half-made.
func leaveWork(t *testing.T, path string) string {
	s := mustOpen(t, path)
	_, err := s.Commit(t.Context(), creating("left", s.Instance()).Put(0))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	return s.Instance()
}

func TestTakeOverIsKeptAfterClose(t *testing.T) {
	path := newPath(t)
	gone := leaveWork(t, path)
	a, b := mustOpen(t, path), mustOpen(t, path)
	release, err := a.TakeOver(t.Context(), gone)
	require.NoError(t, err)
	require.NoError(t, a.Close())
	_, err = b.TakeOver(t.Context(), gone)
	require.ErrorIs(t, err, keystore.ErrAlive, "closing the store does not release what it has taken")
	release(true)
	release, err = b.TakeOver(t.Context(), gone)
	require.NoError(t, err, "not forgotten: a closed store cannot tell whether work is left")
	release(false)
}

// In a copy, or after the locks were lost, nothing proves that an instance is dead: the original may be at work.
func TestTakeOverInACopy(t *testing.T) {
	path := newPath(t)
	alive := mustOpen(t, path)
	_, err := alive.Commit(t.Context(), creating("in flight", alive.Instance()).Put(0))
	require.NoError(t, err)
	gone := leaveWork(t, path)

	copied := t.TempDir()
	require.NoError(t, os.Chmod(copied, 0o700))
	out, err := exec.Command("cp", "-a", filepath.Dir(path)+"/.", copied).CombinedOutput()
	require.NoError(t, err, "%s", out)
	s := mustOpen(t, filepath.Join(copied, filepath.Base(path)))
	assert.Contains(t, locksOf(t, filepath.Join(copied, "kms.db")), alive.Instance()+".lock", "the copy has the file")
	for _, instance := range []string{alive.Instance(), gone} {
		_, err := s.TakeOver(t.Context(), instance)
		require.ErrorIs(t, err, keystore.ErrUndecided)
	}

	require.NoError(t, os.Remove(filepath.Join(filepath.Dir(path), "locks", gone+".lock")))
	_, err = alive.TakeOver(t.Context(), gone)
	require.ErrorIs(t, err, keystore.ErrUndecided, "the proof is lost")
}

func TestLocksDirOption(t *testing.T) {
	path := newPath(t)
	dir := filepath.Join(t.TempDir(), "elsewhere")
	s, err := sqlite.Open(t.Context(), path, sqlite.Options{LocksDir: dir})
	require.NoError(t, err)
	assert.Equal(t, []string{s.Instance() + ".lock"}, names(t, dir))
	assert.Empty(t, locksOf(t, path))
	require.NoError(t, s.Close())
	assert.Empty(t, names(t, dir))
}
