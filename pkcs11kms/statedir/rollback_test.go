package statedir

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

// use opens a state directory as a program that seals does, and closes it.
func use(t *testing.T, cfg Config) error {
	t.Helper()
	c, err := New(t.Context(), cfg)
	if err != nil {
		return err
	}
	_, err = c.ListKeys(t.Context(), &kms.ListKeysInput{})
	return errors.Join(err, c.Close())
}

// keep keeps files of a state directory as they are, and returns what puts them back. None has the directory open.
func keep(t *testing.T, dir string, names ...string) (put func()) {
	t.Helper()
	kept := t.TempDir()
	for _, name := range names {
		require.NoError(t, copyTree(filepath.Join(dir, name), filepath.Join(kept, name)))
	}
	return func() {
		for _, name := range names {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, name)))
			require.NoError(t, copyTree(filepath.Join(kept, name), filepath.Join(dir, name)))
		}
	}
}

// copyTree copies a file, or a directory with its modes.
func copyTree(from, to string) error { return exec.Command("cp", "-a", from, to).Run() }

// Whatever was put back to an earlier time, log or store or both, is not used by who seals, and is by commands. A copy of the latest time
// is good.
func TestWhatWasPutBackIsRefused(t *testing.T) {
	dir, _ := initDir(t)
	require.NoError(t, use(t, load(t, dir)))
	both, store, log := keep(t, dir, storeFile, auditDir), keep(t, dir, storeFile), keep(t, dir, auditDir)
	require.NoError(t, use(t, load(t, dir)))
	latest := keep(t, dir, storeFile, auditDir)
	for said, put := range map[string]func(){
		"of the log ends with record ": both,
		"of the log ends with record":  log,
		"as sealed up to record":       store,
		"the log has no chain":         func() { require.NoError(t, os.RemoveAll(AuditDir(dir))) },
	} {
		put()
		for range 2 {
			err := use(t, load(t, dir))
			require.ErrorIs(t, err, ErrRolledBack, said)
			require.ErrorContains(t, err, said)
		}
		command := load(t, dir)
		command.ShortLived = true
		require.NoError(t, use(t, command))
		_, err := load(t, dir).StoredRecords(t.Context())
		require.ErrorIs(t, err, ErrRolledBack)
		latest()
		require.NoError(t, use(t, load(t, dir)), said)
		latest = keep(t, dir, storeFile, auditDir)
	}
}

// Without the token's seal nothing is compared, and nothing is written.
func TestTokenSealThatIsOff(t *testing.T) {
	dir, _ := initDir(t)
	off := func() Config {
		cfg := load(t, dir)
		cfg.AuditOptions.NoTokenSeal = true
		return cfg
	}
	require.NoError(t, use(t, off()))
	put := keep(t, dir, storeFile, auditDir)
	require.NoError(t, use(t, off()))
	put()
	require.NoError(t, use(t, load(t, dir)), "the token knows of nothing")
	require.NoError(t, use(t, load(t, dir)))
	put()
	require.NoError(t, use(t, off()))
	require.ErrorIs(t, use(t, load(t, dir)), ErrRolledBack)
	unsynced := load(t, dir)
	unsynced.AuditOptions.Fsync = audit.FsyncOff
	require.NoError(t, use(t, unsynced), "a power cut may have taken what the token knows")
}

// A restore, also of a backup of long ago and once more, begins an epoch that the token has not known, and ends all before it.
func TestRestoresTellTheToken(t *testing.T) {
	dir, _ := initDir(t)
	path := backUp(t, load(t, dir))
	require.NoError(t, use(t, load(t, dir)))
	before := keep(t, dir, storeFile, auditDir)
	for epoch := range 3 {
		loseStore(t, dir)
		_, err := Restore(t.Context(), dir, path)
		require.NoError(t, err)
		restored := keep(t, dir, storeFile, auditDir)
		before()
		require.ErrorContains(t, use(t, load(t, dir)), "and was in the epoch")
		restored()
		require.NoError(t, use(t, load(t, dir)))
		stored, err := load(t, dir).StoredRecords(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, epoch+2, stored.Epoch)
		before = keep(t, dir, storeFile, auditDir)
	}
}
