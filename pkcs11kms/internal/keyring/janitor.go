package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

const (
	janitorInterval = 30 * time.Second
	janitorTimeout  = time.Minute // for one pass
)

// InProgress keeps the janitor of this instance away from a key that is half made or half deleted, until done is called.
func (r *Ring) InProgress(ref keystore.Ref) (done func()) { return r.inProgress.add(ref) }

// Settled is closed after the janitor's first pass.
func (r *Ring) Settled() <-chan struct{} { return r.settled }

// Run runs the janitor until ctx ends: once at the start, then every janitorInterval. A pass that began is finished,
// so that a short-lived process does its share.
func (r *Ring) Run(ctx context.Context) {
	tick := time.NewTicker(janitorInterval)
	defer tick.Stop()
	for first := true; ; first = false {
		r.meetLate(ctx)
		_, _ = r.Tidy(ctx) // logs what fails
		if err := r.DestroyDue(ctx); err != nil {
			r.cfg.Log.Error("keys whose deletion date has come are not destroyed", "error", err)
		}
		if err := r.Expire(ctx); err != nil && !r.locked() {
			r.cfg.Log.Error("imported key material that has expired is not taken away", "error", err)
		}
		if first {
			close(r.settled)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.expired:
		}
		if ctx.Err() != nil {
			return // both were ready
		}
	}
}

// Tidy finishes the records in Creating and Deleting of instances that are dead, and those of this instance that
// nobody works on. It destroys only objects that such a record names. It returns the ids of the keys that are gone now.
// What fails is logged and tried again later; the error is for those who asked for the pass.
func (r *Ring) Tidy(ctx context.Context) (finished []string, err error) {
	return r.tidy(ctx, &pass{owners: map[string]func(forget bool){}})
}

// TidyUndecided is Tidy, and finishes the records of instances as well of which nobody can say whether they are dead. In a copy of a
// store it destroys the objects of keys that are whole in the original: only a person can know that there is none.
func (r *Ring) TidyUndecided(ctx context.Context) (finished []string, err error) {
	return r.tidy(ctx, &pass{owners: map[string]func(forget bool){}, undecided: true})
}

// pass is one of the janitor's.
type pass struct {
	owners    map[string]func(forget bool) // what ends the taking over of an instance; nil where that was not possible
	undecided bool                         // see TidyUndecided
}

func (r *Ring) tidy(ctx context.Context, p *pass) (finished []string, err error) {
	ctx, cancel := r.outlast(ctx)
	defer cancel()
	defer func() {
		for _, free := range p.owners {
			if free != nil {
				free(true)
			}
		}
	}()
	var problems []error
	var after keystore.Ref
	for {
		recs, err := r.cfg.Store.Lookup(ctx, keystore.IndexUnfinished, "", after, keystore.MaxPage)
		if err != nil {
			r.cfg.Log.Warn("janitor cannot read the store", "error", err)
			return finished, errors.Join(append(problems, err)...)
		}
		for _, rec := range recs {
			after = rec.Ref
			done, err := r.tidyRecord(ctx, rec, p)
			if err != nil {
				r.cfg.Log.Warn("janitor cannot remove a key that was left half made", "key", rec.Ref.ID, "error", err)
				problems = append(problems, fmt.Errorf("removing the half-made key %s: %w", rec.Ref.ID, err))
			}
			if done {
				finished = append(finished, rec.Ref.ID)
			}
		}
		if len(recs) < keystore.MaxPage {
			return finished, errors.Join(problems...)
		}
	}
}

// outlast returns a context that ends one call timeout after ctx does: what began is finished, so that a short-lived
// process does its share, and Close does not wait for long.
func (r *Ring) outlast(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithTimeout(context.WithoutCancel(ctx), janitorTimeout)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(r.cfg.CallTimeout, cancel) })
	return longer, func() { stop(); cancel() }
}

// tidyRecord finishes one record unless somebody else is at it, and tells whether it did.
func (r *Ring) tidyRecord(ctx context.Context, rec keystore.Record, p *pass) (done bool, err error) {
	record, err := keystore.DecodeKey(rec)
	if err != nil {
		return false, err
	}
	if _, ok := r.regions[record.Region]; !ok {
		return false, nil // only a process that has the region's token can finish it
	}
	finish := r.Finish
	if !record.State.Unfinished() {
		finish = r.finishMaterial
	}
	if record.Instance == r.cfg.Store.Instance() {
		if r.inProgress.has(rec.Ref) {
			return false, nil
		}
		return finish(ctx, record, rec.Version)
	}
	free, err := r.ownerOf(ctx, record.Instance, p)
	if err != nil || free == nil {
		return false, err
	}
	// The version makes this safe even if the record was read before its owner finished it and ended.
	return finish(ctx, record, rec.Version)
}

// ownerOf takes an instance over, once in a pass, and returns what ends that. Nil when the instance is alive, or when
// nothing proves that it is dead: then this may be a copy of the store, and the original may have finished the key.
func (r *Ring) ownerOf(ctx context.Context, instance string, p *pass) (func(forget bool), error) {
	if free, ok := p.owners[instance]; ok {
		return free, nil
	}
	free, err := r.cfg.Store.TakeOver(ctx, instance)
	if err != nil && !errors.Is(err, keystore.ErrAlive) && !errors.Is(err, keystore.ErrUndecided) {
		return nil, err
	}
	if p.undecided && errors.Is(err, keystore.ErrUndecided) {
		free = func(bool) {}
	}
	p.owners[instance] = free
	return free, nil
}

// Finish removes a key that is in Creating or Deleting: first the record goes to Deleting in our own name, so that a
// creator that is still alive cannot flip it any more, and a janitor that has read it before cannot go on; then the grants and the
// object go; then the record. It tells whether it did so: that somebody else was faster is no error.
func (r *Ring) Finish(ctx context.Context, record keystore.Key, version uint64) (removed bool, err error) {
	return r.finish(ctx, record, version, false)
}

// finish is Finish. With mustFind a record is kept whose object was not found.
func (r *Ring) finish(ctx context.Context, record keystore.Key, version uint64, mustFind bool) (removed bool, err error) {
	defer r.inProgress.add(record.Ref())()
	err = r.telling(ctx, record, func(ctx context.Context) error { return r.remove(ctx, record, version, mustFind) })
	if err != nil {
		return false, ignoreConflict(err)
	}
	r.cfg.Log.Info("removed a key that was half made or half deleted", "key", record.ID)
	return true, nil
}

func ignoreConflict(err error) error {
	if errors.Is(err, keystore.ErrConflict) {
		return nil
	}
	return err
}

// errNotFound says that the object was not found which a record names that is to be kept then.
var errNotFound = errors.New("the token has not shown the object, and may have made it all the same")

// telling removes a key, and tells the audit log before and after.
func (r *Ring) telling(ctx context.Context, record keystore.Key, remove func(context.Context) error) error {
	if r.cfg.Removing == nil {
		return remove(ctx)
	}
	noting, ended, err := r.cfg.Removing(ctx, record)
	if err != nil {
		return err
	}
	err = remove(noting)
	if failure := ended(err); failure != nil {
		r.cfg.Log.Error("the audit log did not take what became of a key that was to be removed", "key", record.ID, "error", failure)
	}
	return err
}

// remove removes a key's object and record.
func (r *Ring) remove(ctx context.Context, record keystore.Key, version uint64, mustFind bool) error {
	var err error
	if record.State != keystore.Deleting || record.Instance != r.cfg.Store.Instance() {
		record.State, record.Instance = keystore.Deleting, r.cfg.Store.Instance()
		if version, err = r.cache.Commit(ctx, record.Put(version)); err != nil {
			return err
		}
	}
	if err := r.removeGrants(ctx, record, version); err != nil {
		return err
	}
	if err := r.destroyMaterial(ctx, record, mustFind); err != nil {
		return err
	}
	crash.At("object-destroyed")
	if _, err = r.commitCounted(ctx, record, -1, keystore.Change{Op: keystore.Delete, Ref: record.Ref(), Expect: version}); err != nil {
		return err
	}
	crash.At("record-removed")
	return nil
}

// destroyMaterial is destroyObject, and forgets the object's handle. With mustFind it is an error that there was none.
func (r *Ring) destroyMaterial(ctx context.Context, record keystore.Key, mustFind bool) error {
	found, err := r.destroyObject(ctx, record)
	switch {
	case err != nil:
		return err
	case mustFind && !found:
		return errNotFound
	}
	r.regions[record.Region].handles.Delete(record.CKAID.String())
	return nil
}

// destroyObject destroys the object of a key that is being removed, if it is there and is ours to destroy. It tells whether there is one.
func (r *Ring) destroyObject(ctx context.Context, record keystore.Key) (found bool, err error) {
	t := r.regions[record.Region].Token
	label, describe, destroy := record.ID, t.Describe, t.DestroyKey
	if SpecIn(SignSpecs, types.KeySpec(record.Spec)) != nil { // also a pair for envelopes
		describe, destroy = t.DescribePair, t.DestroyKeyPair
	}
	switch record.Adopted {
	case keystore.AdoptedKeep:
		return true, nil
	case keystore.AdoptedDestroy: // has kept the label that it had before
		object, err := describe(ctx, record.CKAID)
		if errors.Is(err, token.ErrKeyMissing) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		label = object.Label
	}
	err = destroy(ctx, record.CKAID, label)
	switch {
	case errors.Is(err, token.ErrKeyForeign):
		r.cfg.Log.Warn("another application's object has the CKA_ID of a key that is removed: left alone", "key", record.ID)
		return true, nil
	case errors.Is(err, token.ErrKeyMissing):
		return false, nil
	}
	return err == nil, err
}
