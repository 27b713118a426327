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
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Config says what a Ring works with.
type Config struct {
	Account   string // the owner of the keys that API callers have
	Partition string // of their ARNs

	Regions []string // as configured. Service keys are looked for in this order, and made in the first, which must be open
	Only    string   // the one of Regions whose token is opened; all when it is empty
	// Token says how the token of a region is opened that must have the serial, if that is not empty.
	Token func(region, serial string) token.Config

	Store keystore.Store
	Log   *slog.Logger
	Now   func() time.Time

	CallTimeout time.Duration // bounds the waiting for a service key, and what is done after the end of a context
	MaxKeys     int           // of an account in a region
	ShortLived  bool          // keys whose deletion date has come are left to others
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
}

// Region is one token and the name of its keys' region.
type Region struct {
	Name    string
	Token   *token.Token
	handles sync.Map // *token.Key or *token.Pair by the key's CKA_ID in hexadecimal, see handle
}

// Open opens the tokens and logs in. It fails as a whole. Whoever opens a Ring runs its janitor (Run), and closes it in the end.
func Open(ctx context.Context, cfg Config, cache *records.Cache) (*Ring, error) {
	r := &Ring{cfg: cfg, cache: cache, regions: map[string]*Region{}, opened: cfg.Now(), settled: make(chan struct{})}
	r.inProgress, r.releaseInProgress = shareInProgress(cfg.Store.Instance())
	for _, name := range cfg.Regions {
		if cfg.Only != "" && name != cfg.Only {
			continue
		}
		t, err := OpenToken(ctx, cfg.Store, name, func(serial string) token.Config { return cfg.Token(name, serial) })
		if err != nil {
			return nil, errors.Join(fmt.Errorf("opening the token of region %s: %w", name, err), r.Close())
		}
		r.regions[name] = &Region{Name: name, Token: t}
	}
	return r, nil
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
