package sealed

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
)

// Begin says that all records are going to be sealed by the seals of root: until SealAll has done it, the store is not unlocked by
// anybody. expect is the version of what the store tells of its seals, see Version. It returns the one to be given to SealAll.
// keystore.ErrConflict: somebody else has begun.
func Begin(ctx context.Context, below keystore.Store, root keystore.Seals, expect uint64) (version uint64, err error) {
	root.Unfinished = true
	return below.Commit(ctx, root.Put(expect))
}

// SealAll seals every record as it is, and says that the store is sealed. The key is what the service key that root names makes of KeyText.
// progress is told from time to time how many records are done.
func SealAll(ctx context.Context, below keystore.Store, root keystore.Seals, version uint64, key Key, now time.Time, progress func(int),
) error {
	made, revision, done := &seals{of: root, key: key}, revisionAtTime(now), 0
	err := Each(ctx, below, func(recs []keystore.Record) error {
		for page := range slices.Chunk(recs, keystore.MaxChanges) {
			if err := made.sealPage(ctx, below, page, revision); err != nil {
				return err
			}
			done += len(page)
			progress(done)
		}
		return nil
	})
	if err != nil {
		return err
	}
	root.Unfinished = false
	change := root.Put(version)
	change.Seal = made.make(change.Ref, change.Value, revision)
	_, err = below.Commit(ctx, change)
	return err
}

func (s *seals) sealPage(ctx context.Context, below keystore.Store, recs []keystore.Record, revision uint64) error {
	var changes []keystore.Change
	for _, rec := range recs {
		if rec.Ref == keystore.SealsRef() {
			continue // in the end
		}
		change, err := s.again(rec, revision)
		if err != nil {
			return err
		}
		changes = append(changes, change)
	}
	if len(changes) == 0 {
		return nil
	}
	_, err := below.Commit(ctx, changes...)
	return err
}

// again puts a record as it is, with a seal.
func (s *seals) again(rec keystore.Record, revision uint64) (keystore.Change, error) {
	rec.Seal = nil
	entries, err := keystore.EntriesOf(rec)
	if err != nil {
		return keystore.Change{}, fmt.Errorf("what this program cannot read it does not seal: %w", err)
	}
	return keystore.Change{Op: keystore.Put, Ref: rec.Ref, Expect: rec.Version, Value: rec.Value,
		Seal: s.make(rec.Ref, rec.Value, revision), Index: entries}, nil
}

// Each visits all records of a store, as they are, a page at a time.
func Each(ctx context.Context, below keystore.Store, visit func([]keystore.Record) error) error {
	var after keystore.Ref
	for {
		recs, err := below.All(ctx, after, keystore.MaxPage)
		if err != nil {
			return err
		}
		if len(recs) > 0 {
			after = recs[len(recs)-1].Ref
			if err := visit(recs); err != nil {
				return err
			}
		}
		if len(recs) < keystore.MaxPage {
			return nil
		}
	}
}

// Check returns an *Error where a record is refused under the seals of a root whose keys are at hand.
func Check(root keystore.Seals, keys Keys, rec keystore.Record) error {
	if _, err := stateOf(root, 0, keys).check(rec); err != nil {
		return &Error{Ref: rec.Ref, why: err}
	}
	return nil
}

// Faults visits each record of an unlocked store that is refused.
func (s *Store) Faults(ctx context.Context, visit func(*Error)) error {
	now := s.state.Load()
	if now.seals == nil {
		return ErrLocked
	}
	return Each(ctx, s.Store, func(recs []keystore.Record) error {
		for _, rec := range recs {
			if err := s.checkBy(now, rec); err != nil {
				visit(&Error{Ref: rec.Ref, why: err})
			}
		}
		return nil
	})
}
