package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
)

// Root returns what the store tells of its seals, which Unlock proves; ok is false where there are none.
func (s *Store) Root() (root keystore.Seals, ok bool) {
	now := s.state.Load()
	return now.root, now.version > 0
}

// Version is that of the record which Root returns; 0 where there is none.
func (s *Store) Version() uint64 { return s.state.Load().version }

// Locked tells whether the store has seals, and was not unlocked.
func (s *Store) Locked() bool { return s.state.Load().locked() && !s.trusted.Load() }

// Below returns the store below, for what knows nothing of records.
func (s *Store) Below() keystore.Store { return s.Store }

// Keys are those that the service keys make of KeyText which the store names.
type Keys struct {
	Present  Key
	Previous *Key // where the store tells of a Previous epoch
}

// stateOf is what is known of the seals of a root whose keys are at hand.
func stateOf(root keystore.Seals, version uint64, keys Keys) *state {
	s := &state{root: root, version: version, seals: &seals{of: root, key: keys.Present}}
	if before, ok := Before(root); ok && keys.Previous != nil {
		s.previous = &seals{of: before, key: *keys.Previous}
	}
	return s
}

// Before is what the store would tell of the epoch before, where its seals still count.
func Before(root keystore.Seals) (before keystore.Seals, ok bool) {
	p := root.Previous
	if p == nil {
		return before, false
	}
	return keystore.Seals{Store: root.Store, Epoch: p.Epoch, Region: p.Region, CKAID: p.CKAID, Spec: p.Spec}, true
}

// sameKey tells whether two roots name one epoch and one key, whatever they say of the epoch before.
func sameKey(x, y keystore.Seals) bool {
	return bytes.Equal(x.Store, y.Store) && x.Epoch == y.Epoch && x.Region == y.Region && bytes.Equal(x.CKAID, y.CKAID) && x.Spec == y.Spec
}

// Unlock takes the keys, and proves what the store tells of its seals.
func (s *Store) Unlock(ctx context.Context, keys Keys) error {
	now := s.state.Load()
	if now.root.Unfinished {
		return ErrUnfinished
	}
	rec, err := s.Store.Get(ctx, keystore.SealsRef())
	if err != nil {
		return err
	}
	root := now.root
	if rec.Version != now.version { // the epoch before may have come to its end meanwhile
		if root, err = rootIn(rec); err != nil || !sameKey(root, now.root) || root.Previous != nil || root.Unfinished {
			return errors.Join(ErrChanged, err)
		}
	}
	made := stateOf(root, rec.Version, keys)
	if _, err := made.seals.check(rec); err != nil {
		return s.refuse(rec, err)
	}
	s.state.CompareAndSwap(now, made)
	return nil
}

// UnlockBy says how the store is unlocked by whoever needs it, one at a time. It is called before the store is used by others; unlock calls
// Unlock.
func (s *Store) UnlockBy(unlock func(context.Context) error) { s.unlock = unlock }

// Open unlocks the store, if it is locked. The error is ErrLocked together with why.
func (s *Store) Open(ctx context.Context) error {
	if !s.Locked() {
		return nil
	}
	if err := s.takeTurn(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	switch {
	case !s.Locked(): // somebody was faster
		return nil
	case s.unlock == nil:
		return ErrLocked
	}
	var err error
	for range unlockTries {
		if err = s.unlock(ctx); !errors.Is(err, ErrChanged) {
			break
		}
		now := s.state.Load()
		root, version, readErr := s.finishedRoot(ctx)
		if readErr != nil || root.Epoch < now.root.Epoch {
			break
		}
		s.state.Store(&state{root: root, version: version})
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	return nil
}

// unlockTries is how often a store is unlocked whose seals are made anew meanwhile.
const unlockTries = 25

func (s *Store) takeTurn(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrLocked, ctx.Err())
	}
}

// unfinishedPause is between two looks at a store that somebody is sealing.
const unfinishedPause = 10 * time.Millisecond

// LookAgain looks whether the store was sealed, or sealed anew, since it was opened, and has it unlocked then; it waits for who is sealing
// it. changed tells whether it was. Epochs only grow: an earlier one is none that this program has written.
func (s *Store) LookAgain(ctx context.Context) (changed bool, err error) {
	before := s.state.Load()
	if err := s.takeTurn(ctx); err != nil {
		return false, err
	}
	defer func() { <-s.turn }()
	if s.state.Load() != before { // somebody was faster
		return true, nil
	}
	return s.lookAgain(ctx, before)
}

// lookAgain is LookAgain for who has the turn.
func (s *Store) lookAgain(ctx context.Context, before *state) (changed bool, err error) {
	root, version, err := s.finishedRoot(ctx)
	switch {
	case err != nil, version == before.version:
		return false, err
	case before.previous != nil && root.Previous == nil && sameKey(root, before.root):
		return s.endSeen(ctx, before)
	case root.Epoch <= before.root.Epoch:
		return false, ErrChanged
	}
	s.state.Store(&state{root: root, version: version})
	return true, nil
}

// endSeen takes notice that the seals of the epoch before do not count any more, which the present key tells.
func (s *Store) endSeen(ctx context.Context, before *state) (changed bool, err error) {
	rec, err := s.Store.Get(ctx, keystore.SealsRef())
	if err != nil {
		return false, err
	}
	root, err := rootIn(rec)
	switch {
	case err == nil && root.Epoch > before.root.Epoch: // which the next epoch has come after meanwhile
		return s.lookAgain(ctx, before)
	case err != nil || root.Previous != nil || !sameKey(root, before.root):
		return false, errors.Join(ErrChanged, err)
	}
	if _, err := before.seals.check(rec); err != nil {
		return false, ErrChanged
	}
	s.state.Store(&state{root: root, version: rec.Version, seals: before.seals})
	return true, nil
}

// ChangedSince implements keystore.Store. While seals of the epoch before count, it is looked whether they still do: who learns by it of
// changes learns so that they do not.
func (s *Store) ChangedSince(ctx context.Context, since keystore.Mark) (keystore.Changed, error) {
	if now := s.state.Load(); now.previous != nil && !s.trusted.Load() {
		select {
		case s.turn <- struct{}{}:
			_, err := s.lookAgain(ctx, s.state.Load())
			<-s.turn
			if err != nil {
				return keystore.Changed{}, err
			}
		default: // somebody is looking
		}
	}
	return s.Store.ChangedSince(ctx, since)
}

func (s *Store) finishedRoot(ctx context.Context) (root keystore.Seals, version uint64, err error) {
	pause := time.NewTicker(unfinishedPause)
	defer pause.Stop()
	for {
		root, version, err = rootOf(ctx, s.Store)
		if err != nil || !root.Unfinished {
			return root, version, err
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return root, version, fmt.Errorf("%w: %w", ErrUnfinished, ctx.Err())
		}
	}
}

// Trust hands out what the store holds whatever its seals are, and writes without any: for looking at a store whose seals nobody can
// check, and before all records are sealed anew.
func (s *Store) Trust() { s.trusted.Store(true) }

// Trusted tells whether Trust was called.
func (s *Store) Trusted() bool { return s.trusted.Load() }
