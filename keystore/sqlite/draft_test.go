package sqlite_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// childVariableFile tells a child where to write to.
const childVariableFile = "PKCS11KMS_SQLITE_TEST_FILE"

func childBackup(s *sqlite.Store) error {
	return s.Backup(context.Background(), os.Getenv(childVariableFile))
}

func childRestore(backup string) error {
	_, err := sqlite.Restore(context.Background(), backup, os.Getenv(childVariableFile), nil)
	return err
}

// killedOver kills a child as soon as a draft of the file is there, until one was killed before it could remove that.
func killedOver(t *testing.T, name, path, file string) (draft string) {
	t.Helper()
	drafts := filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".new-*")
	pattern := regexp.MustCompile(`\.new-[0-9a-f]{32}$`)
	left := func() string {
		found, err := filepath.Glob(drafts)
		require.NoError(t, err)
		for _, path := range found {
			if pattern.MatchString(path) {
				return path
			}
		}
		return ""
	}
	t.Setenv(childVariableFile, file)
	for range 100 {
		c := startChild(t, name, path)
		ended := make(chan error, 1)
		go func() { ended <- c.cmd.Wait() }()
		require.Eventually(t, func() bool { return left() != "" || len(ended) > 0 }, time.Minute, 100*time.Microsecond)
		_ = c.cmd.Process.Kill() // fails when it has ended
		<-ended
		if draft := left(); draft != "" {
			return draft
		}
		require.NoError(t, os.RemoveAll(file)) // it was faster
	}
	t.Fatal("the child is always faster")
	return ""
}

// TestKilledBackupsAreNamedAndRemoved: what killed backups leave is named, in whatever directory, and the next backup removes it; but
// never what a living one works on, and nothing by the word of a copy.
func TestKilledBackupsAreNamedAndRemoved(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	fill(t, s, 3000)
	elsewhere := t.TempDir()
	draft := killedOver(t, "backup", path, filepath.Join(elsewhere, "monday.db"))
	dead, err := sqlite.DeadDrafts(path)
	require.NoError(t, err)
	require.Contains(t, dead, draft)
	same, err := s.DeadDrafts()
	require.NoError(t, err)
	require.Equal(t, dead, same)

	// The state directory is copied; the original's drafts are none of the copy's business.
	copied := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.CopyFS(copied, os.DirFS(filepath.Dir(path))))
	require.NoError(t, os.Chmod(copied, 0o700))
	of, err := sqlite.DeadDrafts(filepath.Join(copied, "kms.db"))
	require.NoError(t, err)
	assert.Empty(t, of)

	require.NoError(t, s.Backup(t.Context(), filepath.Join(t.TempDir(), "tuesday.db")))
	assert.Empty(t, names(t, elsewhere))
	dead, err = sqlite.DeadDrafts(path)
	require.NoError(t, err)
	assert.Empty(t, dead)
	notes, err := filepath.Glob(filepath.Join(filepath.Dir(path), "locks", "*.draft"))
	require.NoError(t, err)
	assert.Empty(t, notes)
}

// TestKilledRestoresAreNamedAndRemoved: a restore that is run again is not in the way of what was left, and a backup removes it.
func TestKilledRestoresAreNamedAndRemoved(t *testing.T) {
	s := mustOpen(t, newPath(t))
	fill(t, s, 3000)
	backup := backedUp(t, s)
	path := filepath.Join(t.TempDir(), "kms.db")
	draft := killedOver(t, "restore", backup, path)
	dead, err := sqlite.DeadDrafts(path)
	require.NoError(t, err)
	require.Contains(t, dead, draft)
	_, err = sqlite.Restore(t.Context(), backup, path, nil)
	require.NoError(t, err)
	require.NoError(t, mustOpen(t, path).Backup(t.Context(), filepath.Join(t.TempDir(), "b.db")))
	assert.Equal(t, []string{"kms.db", "kms.db-shm", "kms.db-wal", "locks"}, names(t, filepath.Dir(path)))
}

// TestDraftsOfTheLivingAreLeftAlone looks at every moment of backups whether one of them counts as dead.
func TestDraftsOfTheLivingAreLeftAlone(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path)
	fill(t, s, 1000)
	ended := make(chan error, 1)
	dir := t.TempDir()
	go func() {
		for i := range 5 {
			if err := s.Backup(context.Background(), filepath.Join(dir, string(rune('a'+i)))); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	for {
		dead, err := sqlite.DeadDrafts(path)
		require.NoError(t, err)
		require.Empty(t, dead)
		select {
		case err := <-ended:
			require.NoError(t, err)
			return
		default:
		}
	}
}
