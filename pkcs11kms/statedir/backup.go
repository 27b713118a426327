package statedir

import (
	"context"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// Backup writes one moment of the store of a Bridge to a new file, mode 0600, while this and other processes go on: every
// change that was acknowledged before is in it. The file is verified and durable when Backup returns, and never replaces
// another. It holds no keys: those are the token's, and must be backed up by its means. A store that is no keystore.Backuper is
// refused with a *pkcs11kms.RefusedError. The audit log has a record of it, in the name of the account's root.
func Backup(ctx context.Context, b *pkcs11kms.Bridge, path string) error {
	store, ok := b.Core().Store.Below().(keystore.Backuper)
	if !ok {
		return &pkcs11kms.RefusedError{Problem: "this store does not write backups", Advice: "back it up by the means of its own server"}
	}
	c, err := b.Client(b.Regions()[0])
	if err != nil {
		return err
	}
	return pkcs11kms.Administer(ctx, c.As(b.Root()), ops.BackupStore, map[string]any{"file": path},
		func(ctx context.Context, _ *core.Core, _ []keystore.Change) error { return store.Backup(ctx, path) })
}
