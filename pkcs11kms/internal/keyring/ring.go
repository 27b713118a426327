// Package keyring holds the keys of this service: the tokens that regions are bound to, the records of keys and the material
// that these name, the making and destroying of both, and the janitor, who finishes what others left half done. It asks nobody
// for permission.
package keyring

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Config says what a Ring works with.
type Config struct {
	Account   string // the owner of the keys that API callers have
	Partition string // of their ARNs

	Regions []string // as configured. Service keys are looked for in this order, and made in the first, which must be open
	Only    string   // the one of Regions whose token is opened; all when it is empty
	// Token says how the token of a region is opened, without what tells which it must be.
	Token func(region string) token.Config
	// Import says how envelopes with key material are opened, by the names of regions.
	Import map[string]ImportWay

	Store keystore.Store
	// Sealed is Store again, where its records may have seals: Open has it unlocked, and refuses one without seals where there are to be
	// some. Nil: nobody asks.
	Sealed  *sealed.Store
	SealNew bool // a store that holds nothing yet is sealed
	// Holds returns an audit.ErrNotHeld where the audit log does not have a record that it had: a store that the token knows as a later one
	// is not unlocked then. Nil: what the token keeps is not compared.
	Holds func(audit.Head) error
	Log   *slog.Logger
	Now   func() time.Time

	CallTimeout time.Duration // bounds the waiting for a service key, and what is done after the end of a context
	MaxKeys     int           // of an account in a region
	ShortLived  bool          // keys whose deletion date has come, and seals of the audit log, are left to others

	// Removing is told of a key before anything of it is removed, and ended is called with what came of it. The removal has the context
	// noting, by which ended knows what it has written to the store. An error keeps the key from being removed, and one of ended is
	// logged. Nil: nobody is told.
	Removing func(ctx context.Context, key keystore.Key) (noting context.Context, ended func(error) error, err error)
	// EndingMaterial is Removing for imported material: expires tells that its time has come, else its object is destroyed.
	EndingMaterial func(ctx context.Context, key keystore.Key, expires bool) (noting context.Context, ended func(error) error, err error)
	// RemovingGrants is Removing for each batch of the grants on a key that go before it, with the context of the batch. Nil: nobody is told.
	RemovingGrants func(ctx context.Context, key keystore.Key) (batch context.Context, ended func(error) error, err error)
}

// Ring holds the tokens of the regions and the keys in them. It never changes a record or object but through its own methods, so
// that what others leave half done can be finished by the janitor: see Make, DestroyDue and Tidy. It is safe for concurrent use.
type Ring struct {
	cfg     Config
	cache   *records.Cache     // of cfg.Store; Commits go through it
	regions map[string]*Region // that are open; never changed after Open
	opened  time.Time          // by cfg.Now, with its monotonic reading

	inProgress        *inProgress
	releaseInProgress func()        // ends the use of inProgress
	settled           chan struct{} // closed after the janitor's first pass

	latest  atomic.Int64  // the latest time that was seen, in nanoseconds since 1970: see Later
	expired chan struct{} // wakes the janitor: see noteExpired

	rolledBack atomic.Pointer[SealError] // why the store is never unlocked, if it is not

	secretsRegions sync.Map // string by uint32: where the service key of access keys of an epoch was found last
}

// Region is one token and the name of its keys' region.
type Region struct {
	Name    string
	Token   *token.Token
	met     bool     // the token was reached; used by Open, and then by Run alone
	handles sync.Map // *token.Key or *token.Pair by the key's CKA_ID in hexadecimal, see handle

	kept atomic.Pointer[token.Learnt] // what the store has of what is known of the token; nil when that was not looked at
}

// Open opens the tokens and logs in. It fails as a whole. Whoever opens a Ring runs its janitor (Run), and closes it in the end.
func Open(ctx context.Context, cfg Config, cache *records.Cache) (*Ring, error) {
	r := newRing(cfg, cache)
	first, err := cfg.sealRegion()
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	names := slices.DeleteFunc(slices.Clone(cfg.Regions), func(name string) bool {
		return cfg.Only != "" && name != cfg.Only || name == first
	})
	if cfg.Sealed != nil {
		cfg.Sealed.UnlockBy(r.unlock)
	}
	if first != "" { // nothing can be read without it
		names = slices.Insert(names, 0, first)
	}
	for _, name := range names {
		if err := r.open(ctx, name); err != nil {
			return nil, errors.Join(fmt.Errorf("opening the token of region %s: %w", name, err), r.Close())
		}
	}
	if err := r.sealNew(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("sealing the new store: %w", err), r.Close())
	}
	if err := r.seeStored(ctx); err != nil && !r.locked() { // else the janitor reads it, once the store is open
		return nil, errors.Join(fmt.Errorf("reading the latest time that the store has seen: %w", err), r.Close())
	}
	return r, nil
}

// newRing is a Ring without a token.
func newRing(cfg Config, cache *records.Cache) *Ring {
	r := &Ring{cfg: cfg, cache: cache, regions: map[string]*Region{}, opened: cfg.Now(), settled: make(chan struct{}),
		expired: make(chan struct{}, 1)}
	r.inProgress, r.releaseInProgress = shareInProgress(cfg.Store.Instance())
	return r
}

// open opens the token of a region. Where it may wait for one that was used before, it is not met yet.
func (r *Ring) open(ctx context.Context, name string) error {
	bound, version, err := readRegion(ctx, r.cfg.Store, name)
	if err != nil {
		return err
	}
	config := r.cfg.Token(name)
	config.Wait = config.Wait && version > 0
	t, err := OpenBound(ctx, r.cfg.Store, bound, config)
	if err != nil {
		return err
	}
	region := &Region{Name: name, Token: t}
	r.regions[name] = region
	if !t.State().Up {
		return nil
	}
	if r.locked() {
		switch err := r.cfg.Sealed.Open(ctx); {
		case err == nil:
			if bound, version, err = r.readAgain(ctx, region); err != nil {
				return err
			}
		case r.rolledBack.Load() != nil:
			return r.rolledBack.Load()
		case r.cfg.waits(region):
			return nil // nobody knows the region's record for what it is: see meetLate
		default:
			return err
		}
	}
	if err := r.refuseUnsealed(ctx, region); err != nil {
		return err
	}
	region.met = true
	return r.meet(ctx, region, bound, version)
}

// locked tells whether the records of the store cannot be checked yet.
func (r *Ring) locked() bool { return r.cfg.Sealed != nil && r.cfg.Sealed.Locked() }

// waits tells whether a token that cannot be reached, such as the one that unlocks the store, is waited for.
func (c Config) waits(in *Region) bool { return c.Token(in.Name).Wait }

// readAgain reads the record of a region whose token was found by it before it could be checked, and asks the token once more.
func (r *Ring) readAgain(ctx context.Context, in *Region) (bound keystore.Region, version uint64, err error) {
	bound, version, err = readRegion(ctx, r.cfg.Store, in.Name)
	if err == nil {
		err = judge(bound, opened{ctx, in.Token}) // it can have been bound since
	}
	return bound, version, err
}

// meet keeps what is to be known of the token of a region, which has proved itself, and has it known again the next time.
func (r *Ring) meet(ctx context.Context, in *Region, bound keystore.Region, version uint64) error {
	err := note(ctx, r.cfg.Store, bound, version, in.Token, r.cfg.Log)
	if err == nil && bound.Binding == nil {
		err = r.bind(ctx, in)
	}
	if err == nil {
		r.keepLearnt(ctx, in)
	}
	return err
}

// meetLate does for tokens that could not be reached at Open what Open does, and keeps what is new of the others.
func (r *Ring) meetLate(ctx context.Context) {
	for _, in := range r.regions {
		if in.met {
			r.keepLearnt(ctx, in) // what the use of keys has shown
			continue
		}
		if !in.Token.State().Up {
			continue
		}
		if r.locked() && r.cfg.Sealed.Open(ctx) != nil {
			continue // what is wrong is told by the calls that need it
		}
		in.met = true
		bound, version, err := r.readAgain(ctx, in)
		if err == nil {
			err = r.meet(ctx, in, bound, version)
		}
		if err != nil && ctx.Err() == nil {
			r.cfg.Log.Error("what the token of a region calls itself cannot be kept", "region", in.Name, "error", err)
		}
	}
}

// Close closes the tokens. Run must have ended.
func (r *Ring) Close() error {
	r.releaseInProgress()
	var problems []error
	for _, region := range r.regions {
		problems = append(problems, region.Token.Close())
	}
	return errors.Join(problems...)
}

// Mistaken counts how often another token was found in the place of a region's.
func (r *Ring) Mistaken() (times uint64) {
	for _, region := range r.regions {
		times += region.Token.Mistaken()
	}
	return times
}

// Region returns a region, or nil when it is not open.
func (r *Ring) Region(name string) *Region { return r.regions[name] }

// Regions returns the names of the open regions in the order of the configuration.
func (r *Ring) Regions() []string {
	return slices.DeleteFunc(slices.Clone(r.cfg.Regions), func(name string) bool { return r.regions[name] == nil })
}
