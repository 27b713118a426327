package pkcs11kms

import (
	"context"

	"github.com/pkcs11kms/bridge/keystore"
)

// Backup writes one moment of the store to a new file, mode 0600, while this and other processes go on: every change that
// was acknowledged before is in it. The file is verified and durable when Backup returns, and never replaces another. It
// holds no keys: those are the token's, and must be backed up by its means.
func (b *Bridge) Backup(ctx context.Context, path string) error {
	store, ok := b.store.(keystore.Backuper)
	if !ok {
		return &RefusedError{Problem: "this store does not write backups", Advice: "back it up by the means of its own server"}
	}
	return store.Backup(ctx, path)
}
