package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
)

// TakeBack undoes Make of a key that nobody was told of: its record goes back to Creating, and then the way of every key that could not be
// created. Whoever dies on it leaves something that the janitor finishes. The audit log is not asked: it has the intent of who made the
// key, and cannot be written to. A key that somebody has found and changed meanwhile stays.
func (r *Ring) TakeBack(ctx context.Context, k *Key) error {
	record := k.Record
	record.State, record.Instance, record.PublicKey, record.Proof = keystore.Creating, r.cfg.Store.Instance(), nil, nil
	defer r.inProgress.add(record.Ref())()
	version, err := r.cache.Commit(ctx, record.Put(k.Version))
	if errors.Is(err, keystore.ErrConflict) {
		var now uint64
		if now, err = r.unchanged(ctx, k); err == nil {
			version, err = r.cache.Commit(ctx, record.Put(now))
		}
	}
	if err == nil {
		err = r.remove(ctx, record, version, false)
	}
	if err != nil {
		return fmt.Errorf("taking back the key %s: %w", record.ID, err)
	}
	r.cfg.Log.Warn("took back a key that was created, since the audit log did not take the record of it", "key", record.ID)
	return nil
}

// unchanged returns the version of a key's record that was only sealed anew.
func (r *Ring) unchanged(ctx context.Context, k *Key) (uint64, error) {
	rec, err := r.cfg.Store.Get(ctx, k.Record.Ref())
	if err == nil && !bytes.Equal(rec.Value, k.Record.Put(0).Value) {
		err = keystore.ErrConflict
	}
	return rec.Version, err
}
