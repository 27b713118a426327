package keyring

import (
	"context"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// grantBatch is how many records of grants go in one Commit, which is bound to the key's record.
const grantBatch = keystore.MaxChanges - 1

// removeGrants removes all grants on a key that is in Deleting, and what is counted of them. There may be very many: whoever comes to it
// after a process that died goes on where that one was.
func (r *Ring) removeGrants(ctx context.Context, record keystore.Key, version uint64) error {
	if record.Account == "" {
		return nil // nobody can name a service key
	}
	grants := func() ([]keystore.Record, error) {
		value := keystore.TargetValue(record.Region, record.Account, record.ID)
		return r.cfg.Store.Lookup(ctx, keystore.IndexGrantKey, value, keystore.Ref{}, grantBatch)
	}
	grantees := func() ([]keystore.Record, error) {
		prefix := keystore.GranteePrefix(record.ID)
		recs, err := r.cfg.Store.List(ctx, keystore.KindGrantee, record.Region, record.Account, prefix, grantBatch)
		for i, rec := range recs {
			if !strings.HasPrefix(rec.Ref.ID, prefix) {
				return recs[:i], err
			}
		}
		return recs, err
	}
	counter := func() ([]keystore.Record, error) {
		rec, err := r.cfg.Store.Get(ctx, keystore.CounterRef(record.Region, record.Account, keystore.CounterGrants+record.ID))
		if err != nil {
			return nil, records.IgnoreNotFound(err)
		}
		return []keystore.Record{rec}, nil
	}
	for _, read := range []func() ([]keystore.Record, error){grants, grantees, counter} {
		if err := r.removeAll(ctx, read, record, version); err != nil {
			return err
		}
	}
	return nil
}

// removeAll removes what read finds until it finds no more.
func (r *Ring) removeAll(ctx context.Context, read func() ([]keystore.Record, error), record keystore.Key, version uint64) error {
	for {
		recs, err := read()
		if err != nil || len(recs) == 0 {
			return err
		}
		changes := []keystore.Change{{Op: keystore.Check, Ref: record.Ref(), Expect: version}}
		for _, rec := range recs {
			changes = append(changes, keystore.Change{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version})
		}
		if err := r.removeBatch(ctx, record, changes); err != nil {
			return err
		}
		crash.At("grants-removed")
	}
}

// removeBatch commits a batch, and tells the audit log.
func (r *Ring) removeBatch(ctx context.Context, record keystore.Key, changes []keystore.Change) error {
	ended := func(error) error { return nil }
	if r.cfg.RemovingGrants != nil {
		var err error
		if ctx, ended, err = r.cfg.RemovingGrants(ctx, record); err != nil {
			return err
		}
	}
	_, err := r.cache.Commit(ctx, changes...)
	if failure := ended(err); failure != nil {
		r.cfg.Log.Error("the audit log did not take what became of grants that were to be removed", "key", record.ID, "error", failure)
	}
	return err
}
