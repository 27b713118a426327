package statedir

import (
	"context"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// Backup writes one moment of the store of a Bridge to a new file, mode 0600, while this and other processes go on: every
// change that was acknowledged before is in it. The file is verified and durable when Backup returns, and never replaces
// another. It holds no keys: those are the token's, and must be backed up by its means. A store that is no keystore.Backuper is
// refused with a *pkcs11kms.RefusedError.
func Backup(ctx context.Context, b *pkcs11kms.Bridge, path string) error {
	store, ok := b.Core().Store.Below().(keystore.Backuper)
	if !ok {
		return &pkcs11kms.RefusedError{Problem: "this store does not write backups", Advice: "back it up by the means of its own server"}
	}
	return store.Backup(ctx, path)
}
