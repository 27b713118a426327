package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

const (
	janitorInterval = 30 * time.Second
	janitorPatience = time.Minute // for one pass
)

// working holds the keys that this process is creating or deleting right now, so that its own janitor leaves them
// alone. Safe for concurrent use.
type working struct {
	mu   sync.Mutex
	refs map[keystore.Ref]<-chan struct{} // nil: until removed; else until the channel is closed
}

// add marks a key; the returned function ends the mark, unless keep has prolonged it.
func (w *working) add(ref keystore.Ref) (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refs == nil {
		w.refs = map[keystore.Ref]<-chan struct{}{}
	}
	w.refs[ref] = nil
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.refs[ref] == nil {
			delete(w.refs, ref)
		}
	}
}

// keep prolongs the mark of a key until the channel is closed.
func (w *working) keep(ref keystore.Ref, until <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refs[ref] = until
}

func (w *working) has(ref keystore.Ref) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	until, ok := w.refs[ref]
	if !ok || until == nil {
		return ok
	}
	select {
	case <-until:
		delete(w.refs, ref)
		return false
	default:
		return true
	}
}

// tidy runs the janitor until ctx ends: once at the start, then every janitorInterval. A pass that began is finished,
// so that a short-lived process does its share.
func (b *Bridge) tidy(ctx context.Context) {
	tick := time.NewTicker(janitorInterval)
	defer tick.Stop()
	for {
		_, _ = b.tidyOnce(ctx) // logs what fails
		if err := b.destroyDue(context.WithoutCancel(ctx)); err != nil {
			b.log.Error("keys whose deletion date has come are not destroyed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tidyOnce finishes the records in Creating and Deleting of instances that are dead, and those of this instance that
// nobody works on. It destroys only objects that such a record names. It returns the ids of the keys that are gone now.
// What fails is logged and tried again later; the error is for those who asked for the pass.
func (b *Bridge) tidyOnce(ctx context.Context) (finished []string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), janitorPatience)
	defer cancel()
	owners := map[string]*owner{}
	defer func() {
		for _, o := range owners {
			o.release()
		}
	}()
	var problems []error
	var after keystore.Ref
	for {
		recs, err := b.store.Lookup(ctx, keystore.IndexUnfinished, "", after, keystore.MaxPage)
		if err != nil {
			b.log.Warn("janitor cannot read the store", "error", err)
			return finished, errors.Join(append(problems, err)...)
		}
		for _, rec := range recs {
			after = rec.Ref
			done, err := b.tidyRecord(ctx, rec, owners)
			if err != nil {
				b.log.Warn("janitor cannot remove a key that was left half made", "key", rec.Ref.ID, "error", err)
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

// owner is what one pass of the janitor knows of the instance that a record names.
type owner struct {
	free func(forget bool) // ends the take-over; nil when the instance is alive
	left bool              // a record of it could not be finished
}

func (o *owner) release() {
	if o.free != nil {
		o.free(!o.left)
	}
}

// tidyRecord finishes one record unless somebody else is at it, and tells whether it did.
func (b *Bridge) tidyRecord(ctx context.Context, rec keystore.Record, owners map[string]*owner) (done bool, err error) {
	record, err := keystore.DecodeKey(rec)
	if err != nil {
		return false, err
	}
	if record.Instance == b.store.Instance() {
		if b.working.has(rec.Ref) {
			return false, nil
		}
		err := b.finish(ctx, record, rec.Version)
		return err == nil, err
	}
	o, err := b.ownerOf(ctx, record.Instance, owners)
	if err != nil || o.free == nil {
		return false, err
	}
	if _, ok := b.regions[record.Region]; !ok {
		o.left = true // only a process that has the region's token can finish it
		return false, nil
	}
	// The version makes this safe even if the record was read before its owner finished it and ended.
	if err := b.finish(ctx, record, rec.Version); err != nil {
		o.left = true
		return false, err
	}
	return true, nil
}

// ownerOf takes an instance over, once in a pass.
func (b *Bridge) ownerOf(ctx context.Context, instance string, owners map[string]*owner) (*owner, error) {
	if o, ok := owners[instance]; ok {
		return o, nil
	}
	free, err := b.store.TakeOver(ctx, instance)
	if err != nil && !errors.Is(err, keystore.ErrAlive) {
		return nil, err
	}
	owners[instance] = &owner{free: free}
	return owners[instance], nil
}

// finish takes a key that is in Creating or Deleting out of the world: state Deleting in our own name, so that a
// creator that is still alive cannot flip the record any more; then the object; then the record. That somebody else
// was faster is no error.
func (b *Bridge) finish(ctx context.Context, record keystore.Key, version uint64) error {
	defer b.working.add(record.Ref())()
	err := b.remove(ctx, record, version)
	switch {
	case err == nil:
		b.log.Info("removed a key that was left half made", "key", record.ID)
	case errors.Is(err, keystore.ErrConflict):
		return nil
	}
	return err
}

func (b *Bridge) remove(ctx context.Context, record keystore.Key, version uint64) error {
	var err error
	if record.State != keystore.Deleting || record.Instance != b.store.Instance() {
		record.State, record.Instance = keystore.Deleting, b.store.Instance()
		if version, err = b.cache.commit(ctx, record.Put(version)); err != nil {
			return err
		}
	}
	r := b.regions[record.Region]
	if record.Adopted != keystore.AdoptedKeep {
		err = r.token.DestroyKey(ctx, record.CKAID)
		if err != nil && !errors.Is(err, token.ErrKeyMissing) {
			return err
		}
	}
	crashAt("object-destroyed")
	r.objects.Delete(record.CKAID.String())
	_, err = b.commitCounted(ctx, record, -1, keystore.Change{Op: keystore.Delete, Ref: record.Ref(), Expect: version})
	return err
}
