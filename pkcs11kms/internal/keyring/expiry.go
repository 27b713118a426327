package keyring

import (
	"context"
	"errors"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// Imported material expires by the later of the clock and the latest time that was seen, by this process or, as far as the store tells, by
// others: what has expired stays so when a clock goes back. Whoever uses a key compares; the janitor only tidies.

// Later is the time by which material expires.
func (r *Ring) Later() time.Time {
	now := r.cfg.Now()
	if seen := r.latest.Load(); seen > now.UnixNano() {
		return time.Unix(0, seen)
	}
	return now
}

// see notes a time that was reached.
func (r *Ring) see(at time.Time) {
	for {
		seen := r.latest.Load()
		if at.UnixNano() <= seen || r.latest.CompareAndSwap(seen, at.UnixNano()) {
			return
		}
	}
}

// seeStored notes the latest time in the store.
func (r *Ring) seeStored(ctx context.Context) error {
	latest, version, err := records.ReadCounter(ctx, r.cfg.Store, "", "", ClockCounter)
	if err == nil && version > 0 {
		r.see(time.Unix(int64(latest.N), 0))
	}
	return err
}

// State is the key's state as the API has it: that of a key whose material has expired is PendingImport, whatever its record says, unless
// it is pending deletion.
func (k *Key) State() keystore.KeyState {
	if k.Record.Import == nil || k.Record.Import.ValidTo.IsZero() || k.Record.State == keystore.PendingDeletion ||
		k.Record.State == keystore.PendingImport {
		return k.Record.State
	}
	if later := k.ring.Later(); !later.Before(k.Record.Import.ValidTo) {
		k.ring.noteExpired(later)
		return keystore.PendingImport
	}
	return k.Record.State
}

// noteExpired has the janitor write down soon what was found at a use.
func (r *Ring) noteExpired(at time.Time) {
	r.see(at)
	select {
	case r.expired <- struct{}{}:
	default:
	}
}

// Expire takes the material away that has expired: first, whoever does it, by the record, from where on nothing brings it back; then, by
// the rules of DestroyDue, the object.
func (r *Ring) Expire(ctx context.Context) error {
	ctx, cancel := r.outlast(ctx)
	defer cancel()
	if err := r.seeStored(ctx); err != nil {
		return err
	}
	later := r.Later()
	destroy := !r.cfg.ShortLived && r.cfg.Now().Sub(r.opened) >= deletionUptime && r.checkClock(ctx, r.cfg.Now()) == nil
	var problems []error
	var after keystore.Ref
	for {
		recs, err := r.cfg.Store.Lookup(ctx, keystore.IndexValidTo, "", after, keystore.MaxPage)
		if err != nil {
			return errors.Join(append(problems, err)...)
		}
		for _, rec := range recs {
			after = rec.Ref
			problems = append(problems, r.expire(ctx, rec, later, destroy))
		}
		if len(recs) < keystore.MaxPage {
			return errors.Join(problems...)
		}
	}
}

func (r *Ring) expire(ctx context.Context, rec keystore.Record, later time.Time, destroy bool) error {
	record, err := keystore.DecodeKey(rec)
	if err != nil || record.Import == nil || later.Before(record.Import.ValidTo) || r.regions[record.Region] == nil {
		return err
	}
	if record.State == keystore.Enabled || record.State == keystore.Disabled {
		err = r.tellingMaterial(ctx, record, true, func(ctx context.Context) error {
			expired, kept := record, *record.Import
			kept.Removed++
			expired.State, expired.Import = keystore.PendingImport, &kept
			rec.Version, err = r.cache.Commit(ctx, expired.Put(rec.Version))
			record = expired
			return err
		})
		if err != nil {
			return ignoreConflict(err)
		}
		r.cfg.Log.Info("imported key material has expired", "key", record.ID)
	}
	if !destroy {
		return nil
	}
	defer r.inProgress.add(record.Ref())()
	return ignoreConflict(r.tellingMaterial(ctx, record, false, func(ctx context.Context) error {
		if _, err := r.cache.Commit(ctx, r.withoutMaterial(record).Put(rec.Version)); err != nil {
			return err
		}
		return r.endMaterial(ctx, record.Ref(), false)
	}))
}

// finishMaterial ends what an instance has begun that is dead, or that is this one and has stopped.
func (r *Ring) finishMaterial(ctx context.Context, record keystore.Key, version uint64) (done bool, err error) {
	defer r.inProgress.add(record.Ref())()
	err = r.tellingMaterial(ctx, record, false, func(ctx context.Context) error {
		if record.Instance != r.cfg.Store.Instance() {
			record.Instance = r.cfg.Store.Instance()
			if _, err := r.cache.Commit(ctx, record.Put(version)); err != nil {
				return err
			}
		}
		return r.endMaterial(ctx, record.Ref(), false)
	})
	if err != nil {
		return false, ignoreConflict(err)
	}
	r.cfg.Log.Info("ended an import or a deletion of key material that was cut off", "key", record.ID)
	return false, nil
}

// tellingMaterial tells the audit log of material that expires, or is destroyed, before and after.
func (r *Ring) tellingMaterial(ctx context.Context, record keystore.Key, expires bool, do func(context.Context) error) error {
	if r.cfg.EndingMaterial == nil {
		return do(ctx)
	}
	noting, ended, err := r.cfg.EndingMaterial(ctx, record, expires)
	if err != nil {
		return err
	}
	err = do(noting)
	if failure := ended(err); failure != nil {
		r.cfg.Log.Error("the audit log did not take what became of the material of a key", "key", record.ID, "error", failure)
	}
	return err
}
