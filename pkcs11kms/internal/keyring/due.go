package keyring

import (
	"context"
	"errors"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// A key that is scheduled for deletion stays as it is, unusable, until its date. Then the janitor of a long-lived process
// destroys it in four steps, of which whoever comes later can finish what is left:
//
//  1. one Commit takes the record to Deleting and removes the aliases and what is noted of the last use; from here on there is no way back;
//  2. its grants go, in batches: nobody can use them, or make more, since step 1;
//  3. the object in the token is destroyed (unless the key was adopted to be kept);
//  4. the record goes.
//
// CancelKeyDeletion changes the same record as step 1, so one of the two wins.

// deletionUptime is how long a process must have lived before it destroys keys whose date has come: time for an operator
// to notice a clock that is wrong.
const deletionUptime = 10 * time.Minute

// DestroyDue begins the deletion of keys whose date has come. The rest is remove's.
func (r *Ring) DestroyDue(ctx context.Context) error {
	ctx, cancel := r.outlast(ctx)
	defer cancel()
	now := r.cfg.Now()
	if r.cfg.ShortLived || now.Sub(r.opened) < deletionUptime {
		return nil
	}
	if err := r.checkClock(ctx, now); err != nil {
		return err
	}
	var problems []error
	var after keystore.Ref
	for {
		recs, err := r.cfg.Store.Lookup(ctx, keystore.IndexPendingDeletion, "", after, keystore.MaxPage)
		if err != nil {
			return errors.Join(append(problems, err)...)
		}
		for _, rec := range recs {
			after = rec.Ref
			record, err := keystore.DecodeKey(rec)
			if err == nil && !record.DeletionDate.After(now) {
				err = r.destroyKey(ctx, record, rec.Version)
			}
			problems = append(problems, err)
		}
		if len(recs) < keystore.MaxPage {
			return errors.Join(problems...)
		}
	}
}

// destroyKey begins with the commit after which there is no way back. That the key was cancelled or taken by another
// process at the last moment is no error.
func (r *Ring) destroyKey(ctx context.Context, record keystore.Key, version uint64) error {
	if _, ok := r.regions[record.Region]; !ok {
		return nil // another process has its token
	}
	defer r.inProgress.add(record.Ref())()
	err := r.telling(ctx, record, func(ctx context.Context) error { return r.destroyTold(ctx, record, version) })
	return ignoreConflict(err)
}

func (r *Ring) destroyTold(ctx context.Context, record keystore.Key, version uint64) error {
	value := keystore.TargetValue(record.Region, record.Account, record.ID)
	aliases, err := r.cfg.Store.Lookup(ctx, keystore.IndexAliasTarget, value, keystore.Ref{}, keystore.MaxChanges-2)
	if err != nil {
		return err
	}
	use, err := r.removeUse(ctx, record)
	if err != nil {
		return err
	}
	record.State, record.Instance, record.Aliases = keystore.Deleting, r.cfg.Store.Instance(), 0
	record.DeletionDate = time.Time{}
	crash.At("deleting-begins")
	changes := append([]keystore.Change{record.Put(version)}, use...)
	for _, alias := range aliases {
		changes = append(changes, keystore.Change{Op: keystore.Delete, Ref: alias.Ref, Expect: alias.Version})
	}
	version, err = r.cache.Commit(ctx, changes...)
	if err != nil {
		return err
	}
	crash.At("deleting-written")
	r.cfg.Log.Warn("destroying a key whose deletion date has come", "key", record.ID, "cka_id", record.CKAID.String())
	return r.remove(ctx, record, version, false)
}

// removeUse returns what removes what is noted of the last use of a key, if there is anything. Once the key is in Deleting nothing is noted
// anew.
func (r *Ring) removeUse(ctx context.Context, record keystore.Key) ([]keystore.Change, error) {
	rec, err := r.cfg.Store.Get(ctx, keystore.KeyUseRef(record.Region, record.Account, record.ID))
	if err != nil {
		return nil, records.IgnoreNotFound(err)
	}
	return []keystore.Change{{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version}}, nil
}
