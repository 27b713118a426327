package sealed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/pkcs11kms/bridge/keystore"
)

// All records are sealed anew beside those who use the store in three steps, of which whoever comes later can go on with what is left:
//
//  1. Next: the store tells of the next epoch, and of the one before, whose seals still count. Who writes from then on writes by the new
//     key, since a commit is bound to what the store tells;
//  2. Reseal, until nothing is left: each record of the epoch before gets a seal of the next one, with the revision that it has. So a
//     record that somebody has put back to what it was before is no newer by that: who has seen what it became refuses it as before;
//  3. End: seals of the epoch before do not count any more.

// Next begins the epoch of root, whose key this is, in a store that is unlocked. keystore.ErrConflict: somebody else has begun one.
func (s *Store) Next(ctx context.Context, root keystore.Seals, key Key) error {
	now := s.state.Load()
	if now.seals == nil {
		return ErrLocked
	}
	if now.previous != nil || root.Epoch <= now.root.Epoch {
		return keystore.ErrConflict
	}
	root.Previous = &keystore.SealKeyRef{Epoch: now.root.Epoch, Region: now.root.Region, CKAID: now.root.CKAID, Spec: now.root.Spec}
	made := &state{root: root, seals: &seals{of: root, key: key}, previous: now.seals}
	return s.putRoot(ctx, now, made)
}

// End ends the epoch before. keystore.ErrConflict: somebody else has.
func (s *Store) End(ctx context.Context) error {
	now := s.state.Load()
	if now.previous == nil {
		return nil
	}
	root := now.root
	root.Previous = nil
	return s.putRoot(ctx, now, &state{root: root, seals: now.seals})
}

// putRoot writes what the store is to tell of its seals.
func (s *Store) putRoot(ctx context.Context, now, made *state) (err error) {
	change := made.root.Put(now.version)
	revision := s.nextRevision(change.Ref)
	change.Seal = made.seals.make(change.Ref, change.Value, revision)
	if made.version, err = s.Store.Commit(ctx, change); err != nil {
		return err
	}
	s.see(change.Ref, revision)
	s.state.CompareAndSwap(now, made)
	return nil
}

// resealed is how many records one commit seals anew: others are to have their turn.
const resealed = 32

// Reseal seals what has a seal of the epoch before, and tells how many records were left, since somebody has changed them meanwhile or busy
// says that somebody is about to. A record whose seal is not right is an *Error. progress is told how many it has looked at.
func (s *Store) Reseal(
	ctx context.Context, busy func(context.Context, keystore.Record) (bool, error), progress func(int),
) (left int, err error) {
	now, seen := s.state.Load(), 0
	if now.seals == nil {
		return 0, ErrLocked
	}
	if now.previous == nil {
		return 0, nil
	}
	err = Each(ctx, s.Store, func(recs []keystore.Record) error {
		for page := range slices.Chunk(recs, resealed) {
			more, err := s.resealPage(ctx, now, page, busy)
			if err != nil {
				return err
			}
			left += more
			seen += len(page)
			progress(seen)
		}
		return nil
	})
	return left, err
}

func (s *Store) resealPage(
	ctx context.Context, now *state, recs []keystore.Record, busy func(context.Context, keystore.Record) (bool, error),
) (left int, err error) {
	var changes []keystore.Change
	for _, rec := range recs {
		if rec.Ref == keystore.SealsRef() || epochOf(rec.Seal) == now.root.Epoch {
			continue
		}
		change, wait, err := s.resealOne(ctx, now, rec, busy)
		switch {
		case err != nil:
			return 0, err
		case wait:
			left++
		case change.Value != nil:
			changes = append(changes, change)
		}
	}
	if len(changes) == 0 {
		return left, nil
	}
	if err = s.commitResealed(ctx, now, changes...); !errors.Is(err, keystore.ErrConflict) {
		return left, err
	}
	for _, change := range changes { // those that nobody else has changed
		err := s.commitResealed(ctx, now, change)
		if errors.Is(err, keystore.ErrConflict) {
			left++
		} else if err != nil {
			return left, err
		}
	}
	return left, nil
}

// resealOne is the change that seals a record anew; none where it has gone.
func (s *Store) resealOne(
	ctx context.Context, now *state, rec keystore.Record, busy func(context.Context, keystore.Record) (bool, error),
) (change keystore.Change, wait bool, err error) {
	right, err := s.checkNow(ctx, rec)
	if errors.Is(err, errEpoch) { // it was written since by somebody who is further
		return change, true, s.stillNow(ctx, now)
	}
	if err != nil {
		if errors.Is(err, errRecord) {
			err = s.refuse(rec, err)
		}
		return change, false, err
	}
	if epochOf(right.Seal) == now.root.Epoch {
		return change, false, nil
	}
	revision := binary.BigEndian.Uint64(right.Seal[revisionAt:])
	right.Seal = nil
	if wait, err = busy(ctx, right); wait || err != nil {
		return change, wait, err
	}
	change, err = now.seals.again(right, revision)
	return change, false, err
}

// stillNow returns ErrChanged where what the store tells of its seals is not what it was.
func (s *Store) stillNow(ctx context.Context, now *state) error {
	if s.rootVersion(ctx) != now.version {
		return ErrChanged
	}
	return nil
}

// commitResealed commits under the condition that the seals are what they were: somebody else may have come to the end.
func (s *Store) commitResealed(ctx context.Context, now *state, changes ...keystore.Change) error {
	_, err := s.Store.Commit(ctx, append(changes, keystore.Change{Op: keystore.Check, Ref: keystore.SealsRef(), Expect: now.version})...)
	if errors.Is(err, keystore.ErrConflict) {
		if err := s.stillNow(ctx, now); err != nil {
			return fmt.Errorf("sealing the records anew: %w", err)
		}
	}
	return err
}

// epochOf is the epoch that a seal says; 0 of what is none.
func epochOf(seal []byte) uint32 {
	if len(seal) != sealLen || seal[0] != form {
		return 0
	}
	return binary.BigEndian.Uint32(seal[1:])
}
