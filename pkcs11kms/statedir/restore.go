package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// Restore puts a backup in a state directory that has its config.yaml but no store. It never replaces one, nor
// does it touch a token. It tells what it changed of the backup (see sqlite.Restore): keys that were half made are not
// restored, and scheduled deletions are put off. Run doctor.Examine afterwards, which compares the store with the token.
func Restore(ctx context.Context, dir, backup string) (done []string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, configFile)); errors.Is(err, fs.ErrNotExist) {
		what := "has no " + configFile
		if _, err := os.Lstat(dir); err != nil {
			what = "does not exist"
		}
		return nil, setupError(fmt.Sprintf("state directory %q %s, and restore puts only the store in its place", dir, what),
			"make the directory with mode 0700, and put back what was backed up beside the store: config.yaml and,\n"+
				"for a SoftHSM token, softhsm2.conf, pin and tokens", nil)
	}
	cfg, err := Load(dir)
	if err != nil {
		return nil, err
	}
	end, err := cfg.Audited(ctx, "RestoreStore", map[string]any{"file": backup})
	if err != nil {
		return nil, err
	}
	restored, err := sqlite.Restore(ctx, backup, filepath.Join(dir, storeFile))
	if err = end(err); err != nil {
		return nil, err
	}
	for _, ref := range restored.Dropped {
		done = append(done, fmt.Sprintf("left the key %s out, which was half made or half deleted; "+
			"its object, if there is one, is unknown now", ref.ID))
	}
	for _, ref := range restored.Postponed {
		done = append(done, fmt.Sprintf("put the deletion of the key %s off by %d days: it may have been cancelled since the backup",
			ref.ID, int(sqlite.RestoreGrace/(24*time.Hour))))
	}
	if restored.Reseal {
		done = append(done, "the records are sealed: before the store is used, see what it holds, and have all of it sealed anew:\n  "+
			keyring.ResealCommand)
	}
	return append(done, cfg.forgetChains(ctx)...), nil
}
