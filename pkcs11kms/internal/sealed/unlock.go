package sealed

import (
	"context"
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

// Unlock takes the key that the service key makes of KeyText, and proves what the store tells of its seals.
func (s *Store) Unlock(ctx context.Context, key Key) error {
	now := s.state.Load()
	if now.root.Unfinished {
		return ErrUnfinished
	}
	made := &seals{of: now.root, key: key}
	rec, err := s.Store.Get(ctx, keystore.SealsRef())
	if err != nil {
		return err
	}
	if rec.Version != now.version {
		return ErrChanged
	}
	if _, err := made.check(rec); err != nil {
		return s.refuse(rec, err)
	}
	s.state.CompareAndSwap(now, &state{root: now.root, version: now.version, seals: made})
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
	if err := s.unlock(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	return nil
}

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
	root, version, err := s.finishedRoot(ctx)
	if err != nil || version == before.version {
		return false, err
	}
	if root.Epoch <= before.root.Epoch {
		return false, ErrChanged
	}
	s.state.Store(&state{root: root, version: version})
	return true, nil
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
