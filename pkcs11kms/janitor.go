package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

const (
	janitorInterval = 30 * time.Second
	janitorTimeout  = time.Minute // for one pass
)

// inProgress holds the keys that an instance is creating or deleting right now, so that its own janitor leaves them alone.
// Safe for concurrent use.
type inProgress struct {
	mu   sync.Mutex // guards refs and what it holds
	refs map[keystore.Ref]*mark
}

// mark says that a key is being worked on: by n, and until the channel, if there is one, is closed. Several can be at one
// record whose name is fixed, of whom all but one will lose.
type mark struct {
	n     int
	until <-chan struct{}
}

// instances are the working sets of this process: Bridges that were given one Store are one instance.
var instances = struct {
	mu   sync.Mutex // guards sets and users
	sets map[string]*sharedInProgress
}{sets: map[string]*sharedInProgress{}}

type sharedInProgress struct {
	inProgress
	users int
}

// shareInProgress returns the working set of an instance; done ends the use of it.
func shareInProgress(instance string) (set *inProgress, done func()) {
	instances.mu.Lock()
	defer instances.mu.Unlock()
	shared, ok := instances.sets[instance]
	if !ok {
		shared = &sharedInProgress{}
		instances.sets[instance] = shared
	}
	shared.users++
	return &shared.inProgress, func() {
		instances.mu.Lock()
		defer instances.mu.Unlock()
		if shared.users--; shared.users == 0 {
			delete(instances.sets, instance)
		}
	}
}

// add marks a key; the returned function ends that mark, unless keep has prolonged it.
func (w *inProgress) add(ref keystore.Ref) (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of(ref).n++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.of(ref).n--
		w.marked(ref)
	}
}

// keep prolongs the mark of a key until the channel is closed.
func (w *inProgress) keep(ref keystore.Ref, until <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of(ref).until = until
}

func (w *inProgress) has(ref keystore.Ref) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.marked(ref)
}

// of returns the mark of a key. The caller holds mu.
func (w *inProgress) of(ref keystore.Ref) *mark {
	if w.refs == nil {
		w.refs = map[keystore.Ref]*mark{}
	}
	if w.refs[ref] == nil {
		w.refs[ref] = &mark{}
	}
	return w.refs[ref]
}

// marked tells whether a key has a mark that counts, and forgets one that does not any more. The caller holds mu.
func (w *inProgress) marked(ref keystore.Ref) bool {
	m, ok := w.refs[ref]
	if !ok {
		return false
	}
	select {
	case <-m.until:
		m.until = nil
	default: // also where there is no channel
	}
	if m.n > 0 || m.until != nil {
		return true
	}
	delete(w.refs, ref)
	return false
}

// tidy runs the janitor until ctx ends: once at the start, then every janitorInterval. A pass that began is finished,
// so that a short-lived process does its share.
func (b *Bridge) tidy(ctx context.Context) {
	tick := time.NewTicker(janitorInterval)
	defer tick.Stop()
	for first := true; ; first = false {
		_, _ = b.tidyOnce(ctx) // logs what fails
		if err := b.destroyDue(ctx); err != nil {
			b.log.Error("keys whose deletion date has come are not destroyed", "error", err)
		}
		if first {
			close(b.settled)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ctx.Err() != nil {
			return // both were ready
		}
	}
}

// tidyOnce finishes the records in Creating and Deleting of instances that are dead, and those of this instance that
// nobody works on. It destroys only objects that such a record names. It returns the ids of the keys that are gone now.
// What fails is logged and tried again later; the error is for those who asked for the pass.
func (b *Bridge) tidyOnce(ctx context.Context) (finished []string, err error) {
	ctx, cancel := b.outlast(ctx)
	defer cancel()
	owners := map[string]func(forget bool){}
	defer func() {
		for _, free := range owners {
			if free != nil {
				free(true)
			}
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

// outlast returns a context that ends one call timeout after ctx does: what began is finished, so that a short-lived
// process does its share, and Close does not wait for long.
func (b *Bridge) outlast(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithTimeout(context.WithoutCancel(ctx), janitorTimeout)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(b.cfg.CallTimeout, cancel) })
	return longer, func() { stop(); cancel() }
}

// tidyRecord finishes one record unless somebody else is at it, and tells whether it did.
func (b *Bridge) tidyRecord(ctx context.Context, rec keystore.Record, owners map[string]func(forget bool)) (done bool, err error) {
	record, err := keystore.DecodeKey(rec)
	if err != nil {
		return false, err
	}
	if _, ok := b.regions[record.Region]; !ok {
		return false, nil // only a process that has the region's token can finish it
	}
	if record.Instance == b.store.Instance() {
		if b.inProgress.has(rec.Ref) {
			return false, nil
		}
		return b.finish(ctx, record, rec.Version)
	}
	free, err := b.ownerOf(ctx, record.Instance, owners)
	if err != nil || free == nil {
		return false, err
	}
	// The version makes this safe even if the record was read before its owner finished it and ended.
	return b.finish(ctx, record, rec.Version)
}

// ownerOf takes an instance over, once in a pass, and returns what ends that. Nil when the instance is alive, or when
// nothing proves that it is dead: then this may be a copy of the store, and the original may have finished the key.
func (b *Bridge) ownerOf(ctx context.Context, instance string, owners map[string]func(forget bool)) (func(forget bool), error) {
	if free, ok := owners[instance]; ok {
		return free, nil
	}
	free, err := b.store.TakeOver(ctx, instance)
	if err != nil && !errors.Is(err, keystore.ErrAlive) && !errors.Is(err, keystore.ErrUndecided) {
		return nil, err
	}
	owners[instance] = free
	return free, nil
}

// finish removes a key that is in Creating or Deleting: first the record goes to Deleting in our own name, so that a
// creator that is still alive cannot flip it any more, and a janitor that has read it before cannot go on; then the object
// goes; then the record. It tells whether it did so: that somebody else was faster is no error.
func (b *Bridge) finish(ctx context.Context, record keystore.Key, version uint64) (removed bool, err error) {
	defer b.inProgress.add(record.Ref())()
	err = b.remove(ctx, record, version)
	if err != nil {
		return false, ignoreConflict(err)
	}
	b.log.Info("removed a key that was half made or half deleted", "key", record.ID)
	return true, nil
}

func ignoreConflict(err error) error {
	if errors.Is(err, keystore.ErrConflict) {
		return nil
	}
	return err
}

func (b *Bridge) remove(ctx context.Context, record keystore.Key, version uint64) error {
	var err error
	if record.State != keystore.Deleting || record.Instance != b.store.Instance() {
		record.State, record.Instance = keystore.Deleting, b.store.Instance()
		if version, err = b.cache.Commit(ctx, record.Put(version)); err != nil {
			return err
		}
	}
	if err := b.destroyObject(ctx, record); err != nil {
		return err
	}
	crash.At("object-destroyed")
	b.regions[record.Region].objects.Delete(record.CKAID.String())
	if _, err = b.commitCounted(ctx, record, -1, keystore.Change{Op: keystore.Delete, Ref: record.Ref(), Expect: version}); err != nil {
		return err
	}
	crash.At("record-removed")
	return nil
}

// destroyObject destroys the object of a key that is being removed, if it is there and is ours to destroy.
func (b *Bridge) destroyObject(ctx context.Context, record keystore.Key) error {
	t := b.regions[record.Region].token
	label := record.ID
	switch record.Adopted {
	case keystore.AdoptedKeep:
		return nil
	case keystore.AdoptedDestroy: // has kept the label that it had before
		object, err := t.Describe(ctx, record.CKAID)
		if errors.Is(err, token.ErrKeyMissing) {
			return nil
		}
		if err != nil {
			return err
		}
		label = object.Label
	}
	destroy := t.DestroyKey
	if keyring.SignSpecOf(types.KeySpec(record.Spec), types.KeyUsageType(record.Usage)) != nil {
		destroy = t.DestroyKeyPair
	}
	err := destroy(ctx, record.CKAID, label)
	switch {
	case errors.Is(err, token.ErrKeyForeign):
		b.log.Warn("another application's object has the CKA_ID of a key that is removed: left alone", "key", record.ID)
		return nil
	case errors.Is(err, token.ErrKeyMissing):
		return nil
	}
	return err
}
