package sealed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/pkcs11kms/bridge/keystore"
)

// maxSeen is of how many records the revision is remembered that was seen last. Of others, one that was put back cannot be told.
const maxSeen = 1 << 18

// ErrLocked says that nobody can say yet whether a record is what was written.
var ErrLocked = errors.New("the records of the store cannot be checked: the token that has the service key of their seals is needed")

// ErrUnfinished says that whoever was sealing the records has not come to the end.
var ErrUnfinished = errors.New("the sealing of the store's records was begun and not finished")

// ErrChanged says that the store was sealed, or sealed anew, since it was opened.
var ErrChanged = errors.New("the records of the store were sealed since it was opened")

// Error says that a record is not what this program has written there. Nothing of it may be used.
type Error struct {
	Ref keystore.Ref
	why error
}

// Error names the record.
func (e *Error) Error() string {
	return fmt.Sprintf("the record %s %s/%s/%s %v", e.Ref.Kind, e.Ref.Region, e.Ref.Account, e.Ref.ID, e.why)
}

// Unwrap returns why.
func (e *Error) Unwrap() error { return e.why }

// Options say how a Store works.
type Options struct {
	Now func() time.Time // default time.Now
	// Refused is told of a record that is refused, once for each value of it. It must not use the store.
	Refused func(*Error)
}

// Store is a keystore.Store with sealed records or, where the store below tells of no seals, as it is. Its calls are those of the store
// below where nothing else is said. It is safe for concurrent use.
//
// A sealed one is locked at first, and unlocked by the first call that needs it: see UnlockBy. Until then only the records of regions are
// handed out, unchecked: by them the token is found that unlocks it, and whoever has used them reads them again.
type Store struct {
	keystore.Store // the store below
	o              Options

	root    keystore.Seals // as it was found by New; Store is empty where there are no seals
	version uint64         // of its record
	seals   atomic.Pointer[seals]
	unlock  func(context.Context) error // see UnlockBy
	turn    chan struct{}               // has one for the call that is unlocking
	trusted atomic.Bool                 // see Trust

	seed maphash.Seed
	mu   sync.Mutex                       // guards what follows
	seen *simplelru.LRU[uint64, uint64]   // the revision that was seen last, by the hash of the place
	told *simplelru.LRU[uint64, struct{}] // what Refused was told, by the hash of record and reason
}

// New looks for the record that tells of seals.
func New(ctx context.Context, below keystore.Store, o Options) (*Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{Store: below, o: o, seed: maphash.MakeSeed(), turn: make(chan struct{}, 1)}
	var err, err2 error
	s.seen, err = simplelru.NewLRU[uint64, uint64](maxSeen, nil)
	s.told, err2 = simplelru.NewLRU[uint64, struct{}](1024, nil)
	if err := errors.Join(err, err2); err != nil {
		panic(err) // it refuses a size of 0
	}
	s.root, s.version, err = rootOf(ctx, below)
	return s, err
}

// rootOf reads the record that tells of seals, unchecked. Its version is 0 where there is none.
func rootOf(ctx context.Context, below keystore.Store) (keystore.Seals, uint64, error) {
	rec, err := below.Get(ctx, keystore.SealsRef())
	if errors.Is(err, keystore.ErrNotFound) {
		return keystore.Seals{}, 0, nil
	}
	if err != nil {
		return keystore.Seals{}, 0, err
	}
	rec.Seal = nil
	root, err := keystore.DecodeSeals(rec)
	return root, rec.Version, err
}

// Trusting is a Store of which nothing is checked: see Trust.
func Trusting(below keystore.Store) *Store {
	s := &Store{Store: below}
	s.Trust()
	return s
}

// Root returns what the store tells of its seals, which Unlock proves; ok is false where there are none.
func (s *Store) Root() (root keystore.Seals, ok bool) { return s.root, s.version > 0 }

// Locked tells whether the store has seals, and was not unlocked.
func (s *Store) Locked() bool { return s.version > 0 && s.seals.Load() == nil && !s.trusted.Load() }

// Below returns the store below, for what knows nothing of records.
func (s *Store) Below() keystore.Store { return s.Store }

// Unlock takes the key that the service key makes of KeyText, and proves what the store tells of its seals.
func (s *Store) Unlock(ctx context.Context, key Key) error {
	if s.root.Unfinished {
		return ErrUnfinished
	}
	made := &seals{of: s.root, key: key}
	rec, err := s.Store.Get(ctx, keystore.SealsRef())
	if err != nil {
		return err
	}
	if rec.Version != s.version {
		return ErrChanged
	}
	if _, err := made.check(rec); err != nil {
		return s.refuse(rec, err)
	}
	s.seals.Store(made)
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
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrLocked, ctx.Err())
	}
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

// Trust hands out what the store holds whatever its seals are, and writes without any: for looking at a store whose seals nobody can
// check, and before all records are sealed anew.
func (s *Store) Trust() { s.trusted.Store(true) }

// Trusted tells whether Trust was called.
func (s *Store) Trusted() bool { return s.trusted.Load() }

// check returns a record without its seal, if that is right.
func (s *Store) check(ctx context.Context, rec keystore.Record) (keystore.Record, error) {
	if rec.Ref.Kind != keystore.KindRegion {
		if err := s.Open(ctx); err != nil {
			return keystore.Record{}, err
		}
	}
	key := s.seals.Load()
	var err error
	switch {
	case s.trusted.Load():
	case key != nil:
		if err = s.checkBy(key, rec); errors.Is(err, errOlder) {
			rec, err = s.checkAgain(ctx, key, rec)
		}
	case s.version == 0 && len(rec.Seal) > 0:
		err = errSealed
	}
	if err != nil {
		return keystore.Record{}, s.refuse(rec, err)
	}
	rec.Seal = nil
	return rec, nil
}

func (s *Store) checkBy(key *seals, rec keystore.Record) error {
	revision, err := key.check(rec)
	if err == nil && !s.see(rec.Ref, revision) {
		err = errOlder
	}
	return err
}

// checkAgain looks whether a record is really older than it was: somebody may have written it, and others have read that, since this call
// read it.
func (s *Store) checkAgain(ctx context.Context, key *seals, rec keystore.Record) (keystore.Record, error) {
	now, err := s.Store.Get(ctx, rec.Ref)
	if errors.Is(err, keystore.ErrNotFound) {
		return rec, nil // it was deleted meanwhile
	}
	if err != nil {
		return rec, err
	}
	return now, s.checkBy(key, now)
}

// see remembers the revision of a record; false when a later one was seen.
func (s *Store) see(ref keystore.Ref, revision uint64) bool {
	place := maphash.Comparable(s.seed, ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.seen.Get(place); ok && last > revision {
		return false
	}
	s.seen.Add(place, revision)
	return true
}

func (s *Store) refuse(rec keystore.Record, why error) error {
	refused := &Error{Ref: rec.Ref, why: why}
	what := maphash.Comparable(s.seed, [3]string{fmt.Sprint(rec.Ref), string(rec.Value), why.Error()})
	s.mu.Lock()
	_, known := s.told.Get(what)
	s.told.Add(what, struct{}{})
	s.mu.Unlock()
	if !known && s.o.Refused != nil {
		s.o.Refused(refused)
	}
	return refused
}

func (s *Store) checkAll(ctx context.Context, recs []keystore.Record, err error) ([]keystore.Record, error) {
	if err != nil {
		return nil, err
	}
	for i := range recs {
		if recs[i], err = s.check(ctx, recs[i]); err != nil {
			return nil, err
		}
	}
	return recs, nil
}

// Get implements keystore.Store. The error is an *Error where the record is not what was written there.
func (s *Store) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	rec, err := s.Store.Get(ctx, ref)
	if err != nil {
		return keystore.Record{}, err
	}
	return s.check(ctx, rec)
}

// List implements keystore.Store. One record that is refused refuses the page: what is missing must not pass for what there is not.
func (s *Store) List(ctx context.Context, kind keystore.Kind, region, account, after string, limit int) ([]keystore.Record, error) {
	recs, err := s.Store.List(ctx, kind, region, account, after, limit)
	return s.checkAll(ctx, recs, err)
}

// All implements keystore.Store, as List.
func (s *Store) All(ctx context.Context, after keystore.Ref, limit int) ([]keystore.Record, error) {
	recs, err := s.Store.All(ctx, after, limit)
	return s.checkAll(ctx, recs, err)
}

// Lookup implements keystore.Store, as List. A seal does not cover index entries, which follow from the value: what an entry found must
// have it.
func (s *Store) Lookup(ctx context.Context, index keystore.Index, value string, after keystore.Ref, limit int) ([]keystore.Record, error) {
	found, err := s.Store.Lookup(ctx, index, value, after, limit)
	recs, err := s.checkAll(ctx, slices.Clone(found), err)
	if err != nil || s.seals.Load() == nil {
		return recs, err
	}
	for _, rec := range found { // as it was when the entry was: check may have read it again
		rec.Seal = nil
		entries, err := keystore.EntriesOf(rec)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(entries, func(e keystore.Entry) bool { return e.Index == index && (value == "" || e.Value == value) }) {
			return nil, s.refuse(rec, errEntry)
		}
	}
	return recs, nil
}

// Commit implements keystore.Store: what is put gets a seal. ErrChanged when the store was sealed since it was opened.
func (s *Store) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	if s.trusted.Load() {
		return s.Store.Commit(ctx, changes...)
	}
	if err := s.Open(ctx); err != nil {
		return 0, err
	}
	sealing := s.seal(changes)
	// That the seals are what they were is one more condition, where there is room for it: nobody writes by a key that has gone.
	if len(sealing) < keystore.MaxChanges {
		sealing = append(sealing, keystore.Change{Op: keystore.Check, Ref: keystore.SealsRef(), Expect: s.version})
	}
	version, err := s.Store.Commit(ctx, sealing...)
	if errors.Is(err, keystore.ErrConflict) {
		if _, now, rootErr := rootOf(ctx, s.Store); rootErr == nil && now != s.version {
			return 0, ErrChanged
		}
	}
	if err == nil {
		s.written(sealing)
	}
	return version, err
}

// seal returns the changes with their seals.
func (s *Store) seal(changes []keystore.Change) []keystore.Change {
	sealing := make([]keystore.Change, len(changes), len(changes)+1)
	copy(sealing, changes)
	if key := s.seals.Load(); key != nil {
		for i := range sealing {
			if c := &sealing[i]; c.Op == keystore.Put {
				c.Seal = key.make(c.Ref, c.Value, s.nextRevision(c.Ref))
			}
		}
	}
	return sealing
}

// revisionAtTime is the revision of what is written at a time: its microseconds since 1970.
func revisionAtTime(t time.Time) uint64 { return uint64(t.UnixMicro()) }

// nextRevision is greater than every one of the record before, also where it was deleted meanwhile: that of the time, unless the clock was
// set back.
func (s *Store) nextRevision(ref keystore.Ref) uint64 {
	now := revisionAtTime(s.o.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.seen.Get(maphash.Comparable(s.seed, ref)); ok && last >= now {
		return last + 1
	}
	return now
}

// written remembers what a Commit has written, and that what it has deleted is not to come back.
func (s *Store) written(changes []keystore.Change) {
	for _, c := range changes {
		switch {
		case len(c.Seal) == sealLen:
			s.see(c.Ref, binary.BigEndian.Uint64(c.Seal[revisionAt:]))
		case c.Op == keystore.Delete:
			s.see(c.Ref, s.nextRevision(c.Ref))
		}
	}
}
