package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

// Restore puts a backup in a state directory that has its config.yaml but no store. It never replaces one.
// It tells what it changed of the backup (see sqlite.Restore): keys that were half made are not restored, and scheduled deletions are put
// off. Where the records are sealed, the token tells whether the backup is as it was written, and then all is sealed anew; else no token is
// touched. Run doctor.Examine afterwards, which compares the store with the token.
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
	ready, err := cfg.WithDefaults()
	if err != nil {
		return nil, err
	}
	end, err := cfg.Audited(ctx, "RestoreStore", map[string]any{"file": backup})
	if err != nil {
		return nil, err
	}
	seals := &backupSeals{cfg: cfg, keyring: ready.Keyring()}
	restored, err := sqlite.Restore(ctx, backup, filepath.Join(dir, storeFile), seals.look)
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
		done = append(done, seals.anew(ctx))
	}
	return append(done, cfg.forgetChains(ctx)...), nil
}

// backupSeals seals a store that was restored anew, if the backup was as it was written: who can edit a backup must not decide who may use
// which key.
type backupSeals struct {
	cfg     Config
	keyring keyring.Config
	faults  []string // records that are not as they were written
	unknown error    // why nobody knows
}

func (b *backupSeals) look(ctx context.Context, store keystore.Store) error {
	var faultOf func(keystore.Record) error
	faultOf, b.unknown = keyring.SealFaults(ctx, b.keyring, store)
	if faultOf == nil {
		return ctx.Err()
	}
	return sealed.Each(ctx, store, func(recs []keystore.Record) error {
		for _, rec := range recs {
			if err := faultOf(rec); err != nil {
				b.faults = append(b.faults, err.Error())
			}
		}
		return nil
	})
}

// anew seals the store, and tells what it did or what is left to do.
func (b *backupSeals) anew(ctx context.Context) string {
	epoch, err := uint32(0), b.unknown
	if err == nil && len(b.faults) == 0 {
		epoch, err = b.seal(ctx)
	}
	then := "; nobody uses the store until somebody has looked at what it holds, and has all of it sealed anew: " + keyring.ResealCommand
	switch {
	case err != nil:
		return "the seals of the records could not be checked: " + err.Error() + then
	case len(b.faults) > 0:
		return fmt.Sprintf("%d records of the backup are not as they were written, such as this: %s", len(b.faults), b.faults[0]) + then
	}
	return fmt.Sprintf("every record of the backup is as it was written; all are sealed anew, in the epoch %d: none of before can be put in "+
		"their place", epoch)
}

func (b *backupSeals) seal(ctx context.Context) (epoch uint32, err error) {
	store, err := b.cfg.OpenStore(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return keyring.SealStore(ctx, b.keyring, store, func(int) {})
}
