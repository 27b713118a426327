package sealed

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
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
	return fmt.Sprintf("the record %s %v", Name(e.Ref), e.why)
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

	state   atomic.Pointer[state]
	unlock  func(context.Context) error // see UnlockBy
	turn    chan struct{}               // has one for the call that is unlocking or looking again
	trusted atomic.Bool                 // see Trust

	seed maphash.Seed
	mu   sync.Mutex                       // guards what follows
	seen *simplelru.LRU[uint64, uint64]   // the revision that was seen last, by the hash of the place
	told *simplelru.LRU[uint64, struct{}] // what Refused was told, by the hash of record and reason
}

// state is what is known of the seals. It is never changed.
type state struct {
	root     keystore.Seals // as the store tells, which unlocking proves
	version  uint64         // of its record; 0: there are no seals
	seals    *seals         // nil while the store is locked
	previous *seals         // of the epoch before, which still count; nil: they do not
}

// check returns the revision of a record whose seal is right.
func (s *state) check(rec keystore.Record) (revision uint64, err error) {
	revision, err = s.seals.check(rec)
	if errors.Is(err, errEpoch) && s.previous != nil {
		return s.previous.check(rec)
	}
	return revision, err
}

func (s *state) locked() bool { return s.version > 0 && s.seals == nil }

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
	root, version, err := rootOf(ctx, below)
	s.state.Store(&state{root: root, version: version})
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
	root, err := rootIn(rec)
	return root, rec.Version, err
}

// rootIn is what the record says that tells of seals, unchecked.
func rootIn(rec keystore.Record) (keystore.Seals, error) {
	rec.Seal = nil
	return keystore.DecodeSeals(rec)
}

// Trusting is a Store of which nothing is checked: see Trust.
func Trusting(below keystore.Store) *Store {
	s := &Store{Store: below}
	s.state.Store(&state{})
	s.Trust()
	return s
}
