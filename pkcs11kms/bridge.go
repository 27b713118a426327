package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/guard"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// Bridge is what the Clients of one process share: the store, and its own are the tokens, the caches and the two goroutines that
// keep them honest (a poller that confirms the caches, a janitor that removes keys left half made by processes that
// died), and two that write when keys and access keys were last used. Any number of processes may work on one store and its tokens at
// the same time. A Bridge is safe for concurrent use.
type Bridge struct {
	cfg  Config
	core *core.Core // nil until Open has come that far

	defaultPolicies sync.Map // account -> *policy.Document: the policy of its keys that were created without one

	rates     guard.Rates
	searching chan struct{} // has one while the audit log is searched for a caller

	tokenErrors tokenErrorCounts

	closed func() error // closes everything, once
}

// Open opens the token of every region, logs in, and starts the poller and the janitor. It fails as a whole: errors that a
// person can mend have a method Hint() string. Close the Bridge in the end.
func Open(ctx context.Context, given Config) (*Bridge, error) {
	cfg, err := given.WithDefaults()
	if err == nil && cfg.Store == nil {
		err = errors.New("no store is given")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the configuration: %w", err), given.closeGiven())
	}
	b := &Bridge{cfg: cfg, searching: make(chan struct{}, 1)}
	b.closed = sync.OnceValue(b.closeAll)
	identities := core.Identities{NoRates: cfg.Quotas.NoRates, NoRoleAccessKeys: cfg.NoRoleAccessKeys}
	if b.core, err = core.Open(ctx, cfg.Keyring(), identities, cfg.Audit); err != nil {
		if hidden, ok := errors.AsType[*keyring.HiddenError](err); ok {
			err = &SetupError{Problem: hidden.Problem, Advice: hidden.Advice}
		}
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Keyring is the part of the configuration that the tokens and keys need. It is for this module's other packages: the type is internal.
func (cfg Config) Keyring() keyring.Config {
	return keyring.Config{
		Account: cfg.AccountID, Partition: cfg.Partition,
		Regions: cfg.regionNames(), Only: cfg.OnlyRegion, Token: cfg.TokenConfig, Import: cfg.importWays(),
		Store: cfg.Store, Log: cfg.Logger, Now: cfg.Now,
		CallTimeout: cfg.CallTimeout, MaxKeys: cfg.Quotas.Keys, ShortLived: cfg.ShortLived, SealNew: cfg.SealRecords,
	}
}

func (cfg Config) importWays() map[string]keyring.ImportWay {
	ways := map[string]keyring.ImportWay{}
	for name, region := range cfg.Regions {
		ways[name] = keyring.ImportWay(region.Import)
	}
	return ways
}

// regionNames returns the names of the regions in order, but the default one first.
func (cfg Config) regionNames() []string {
	names := []string{cfg.DefaultRegion}
	for _, name := range slices.Sorted(maps.Keys(cfg.Regions)) {
		if name != cfg.DefaultRegion {
			names = append(names, name)
		}
	}
	return names
}

// Core returns the inside of the Bridge, for this module's other packages: the type is internal.
func (b *Bridge) Core() *core.Core { return b.core }

// Regions returns the names of the regions that are open, the default one first.
func (b *Bridge) Regions() []string { return b.core.Keys.Regions() }

// Close ends the goroutines, lets calls that are under way finish within the call timeout, and closes the tokens, and the
// audit log and the store if they are the Bridge's (Config.CloseAudit, Config.CloseStore). Closing twice does nothing more.
func (b *Bridge) Close() error { return b.closed() }

func (b *Bridge) closeAll() error {
	var err error
	if b.core != nil {
		err = b.core.Close()
	}
	return errors.Join(err, b.cfg.closeGiven())
}
