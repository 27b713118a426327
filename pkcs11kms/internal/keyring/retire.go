package keyring

import (
	"context"
	"errors"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
)

// ErrPresent says that there is no such key that was followed by another one.
var ErrPresent = errors.New("no service key that was followed has this number")

// RetireService destroys a service key that was followed by another one, and that nothing needs any more: free is asked before, and once
// more when nobody who has read the record until then can still use the key for something new, since its version is another.
func (r *Ring) RetireService(ctx context.Context, purpose string, epoch uint32, free func(context.Context) error) error {
	all, err := r.Epochs(ctx, purpose)
	if err != nil {
		return err
	}
	var e EpochRecord
	for _, one := range all[:max(0, len(all)-1)] {
		if one.Epoch == epoch {
			e = one
		}
	}
	if e.Epoch == 0 {
		return ErrPresent
	}
	if err := free(ctx); err != nil {
		return err
	}
	defer r.inProgress.add(e.Record.Ref())()
	version, err := r.cache.Commit(ctx, e.Record.Put(e.Version))
	if err != nil {
		return err
	}
	if err := free(ctx); err != nil {
		return err
	}
	record := e.Record
	record.State, record.Instance = keystore.Deleting, r.cfg.Store.Instance()
	if version, err = r.cache.Commit(ctx, record.Put(version)); err != nil {
		return err
	}
	crash.At("retiring")
	_, err = r.Finish(ctx, record, version)
	return err
}
