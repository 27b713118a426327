package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/lastuse"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// Bridge is what the Clients of one process share: the store, and its own are the tokens, the caches and the two goroutines that
// keep them honest (a poller that confirms the caches, a janitor that removes keys left half made by processes that
// died), and one that writes when access keys were last used. Any number of processes may work on one store and its tokens at
// the same time. A Bridge is safe for concurrent use.
type Bridge struct {
	cfg               Config
	log               *slog.Logger
	store             keystore.Store
	regions           map[string]*region // never changed after Open
	cache             *records.Cache
	uses              *lastuse.Recorder
	inProgress        *inProgress
	releaseInProgress func()    // ends the use of inProgress
	opened            time.Time // by cfg.Now, with its monotonic reading

	defaultPolicy *policy.Document // the policy of keys that were created without one

	throttle throttle

	tokenErrors tokenErrorCounts

	settled chan struct{}      // closed after the janitor's first pass
	stop    context.CancelFunc // ends the goroutines
	tasks   sync.WaitGroup     // counts them
	closed  func() error       // closes everything, once
}

// region is one token and the name of its keys' region.
type region struct {
	name    string
	token   *token.Token
	objects sync.Map // *token.Key or *token.Pair by the key's CKA_ID in hexadecimal, see object
}

// Open opens the token of every region, logs in, and starts the poller and the janitor. It fails as a whole: errors that a
// person can mend have a method Hint() string. Close the Bridge in the end.
func Open(ctx context.Context, given Config) (*Bridge, error) {
	cfg, err := given.WithDefaults()
	if err == nil && cfg.Store == nil {
		err = errors.New("no store is given")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the configuration: %w", err), given.closeStore())
	}
	b := &Bridge{cfg: cfg, log: cfg.Logger, store: cfg.Store, regions: map[string]*region{}, opened: cfg.Now(), settled: make(chan struct{})}
	b.closed = sync.OnceValue(b.closeAll)
	if b.defaultPolicy, err = policy.ParseKeyPolicy(defaultPolicyOf(b.Root())); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the default key policy: %w", err), b.Close())
	}
	// The store comes first: it is the cheaper one to be wrong about, and knows which token each region must have.
	if err := checkHoldings(ctx, b.store, cfg); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if err := b.openRegions(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.cache = records.New(b.store, b.log, b.cfg.Now)
	b.uses = b.newUses()
	b.inProgress, b.releaseInProgress = shareInProgress(b.store.Instance())
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	b.tasks.Go(func() { b.cache.Poll(running) })
	b.tasks.Go(func() { b.cache.WatchWrites(running) })
	b.tasks.Go(func() { b.tidy(running) })
	b.tasks.Go(func() { b.keepUses(running) })
	return b, nil
}

// checkHoldings refuses a configuration by which keys, users or access keys would not be seen.
func checkHoldings(ctx context.Context, store keystore.Store, cfg Config) error {
	err := keyring.CheckHoldings(ctx, store, cfg.AccountID, slices.Collect(maps.Keys(cfg.Regions)))
	if hidden, ok := errors.AsType[*keyring.HiddenError](err); ok {
		return &SetupError{Problem: hidden.Problem, Advice: hidden.Advice}
	}
	return err
}

func (b *Bridge) openRegions(ctx context.Context) error {
	for name := range b.cfg.Regions {
		if b.cfg.OnlyRegion != "" && name != b.cfg.OnlyRegion {
			continue
		}
		t, err := keyring.OpenToken(ctx, b.store, name, func(serial string) token.Config { return b.cfg.TokenConfig(name, serial) })
		if err != nil {
			return fmt.Errorf("opening the token of region %s: %w", name, err)
		}
		b.regions[name] = &region{name: name, token: t}
	}
	return nil
}

// Close ends the goroutines, lets calls that are under way finish within the call timeout, and closes the tokens, and the
// store if it is the Bridge's (Config.CloseStore). Closing twice does nothing more.
func (b *Bridge) Close() error { return b.closed() }

func (b *Bridge) closeAll() error {
	if b.stop != nil {
		b.stop()
		b.tasks.Wait()
		b.releaseInProgress()
	}
	var problems []error
	for _, r := range b.regions {
		problems = append(problems, r.token.Close())
	}
	return errors.Join(append(problems, b.cfg.closeStore())...)
}
