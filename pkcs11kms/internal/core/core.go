// Package core is the inside of a Bridge: what its Clients work on, and what packages of this module that administrate it need
// beside them. Whoever has it is past every policy.
package core

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/lastuse"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

// Core is the inside of one open Bridge. It is good for as long as that, and safe for concurrent use; nothing of it is changed.
type Core struct {
	Account     string
	Regions     []string // as configured, the default one first
	CallTimeout time.Duration
	Log         *slog.Logger

	Store *sealed.Store
	Cache *records.Cache // of Store; Commits go through it
	Keys  *keyring.Ring

	Identities *iam.Directory
	Uses       *lastuse.Keys // of the material of keys

	now   func() time.Time
	stop  context.CancelFunc // ends the goroutines
	tasks sync.WaitGroup     // counts them

	audit    audit.Writer
	lastSeal func(context.Context) // makes the last seal of the audit log
}

// Identities says how users, roles and access keys are kept.
type Identities struct {
	NoRates          bool
	NoRoleAccessKeys bool
}

// Open opens the tokens, and starts the goroutines that keep what is cached honest (a poller that confirms it) and the keys whole
// (the janitor), that write when keys and access keys were last used, and that seal the audit log, where that can be sealed and the process
// is no short one. A configuration by which keys, users or access keys would not be seen is refused with a *keyring.HiddenError. The
// store stays the caller's.
func Open(ctx context.Context, cfg keyring.Config, options Identities, log audit.Writer) (*Core, error) {
	// The store comes first: it is the cheaper one to be wrong about, and knows which token each region must have.
	if err := keyring.CheckHoldings(ctx, sealed.Trusting(cfg.Store), cfg.Account, cfg.Regions); err != nil {
		return nil, err
	}
	if err := keyring.FinishSealing(ctx, cfg, cfg.Store); err != nil {
		return nil, err
	}
	c := &Core{Account: cfg.Account, Regions: cfg.Regions, CallTimeout: cfg.CallTimeout, Log: cfg.Log, now: cfg.Now,
		audit: log}
	var err error
	if c.Store, err = sealed.New(ctx, cfg.Store, sealed.Options{Now: c.now, Refused: c.refused(log)}); err != nil {
		return nil, err
	}
	cfg.Store, cfg.Sealed = c.Store, c.Store
	c.Cache = records.New(c.Store, c.Log, c.now)
	cfg.Removing, cfg.RemovingGrants = c.removals(cfg, log), c.grantRemovals(cfg, log)
	cfg.EndingMaterial = c.endings(cfg, log)
	sealing, _ := log.(sealable)
	if cfg.ShortLived {
		sealing = nil
	}
	if sealing != nil && sealing.TokenSeal() {
		cfg.Holds = sealing.Holds
	}
	if c.Keys, err = keyring.Open(ctx, cfg, c.Cache); err != nil {
		return nil, err
	}
	c.Identities = iam.New(iam.Config{
		Partition: cfg.Partition, Accounts: []string{cfg.Account}, Regions: cfg.Regions, Store: c.Store, Cache: c.Cache,
		MAC:    c.Keys.SecretsMAC,
		Newest: c.Keys.NewestSecrets,
		Epoch: func(ctx context.Context, epoch uint32) (iam.Epoch, error) {
			version, err := c.Keys.SecretsVersion(ctx, epoch)
			return iam.Epoch{Key: version, Mistaken: c.Keys.Mistaken()}, err
		},
		Latest: c.Keys.LatestTime,

		NoRates: options.NoRates, NoRoleAccessKeys: options.NoRoleAccessKeys,
		Audit: log, Log: c.Log, Now: c.now,
	})
	c.Uses = lastuse.NewKeys(c.Cache.Direct(), c.now, c.Log)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	for _, task := range []func(context.Context){c.Cache.Poll, c.Cache.WatchWrites, c.Keys.Run, c.Identities.Run, c.Uses.Run} {
		c.tasks.Go(func() { task(running) })
	}
	c.lastSeal = func(context.Context) {}
	if sealing != nil {
		c.lastSeal = sealing.SealBy(&sealer{c, sealing.TokenSeal()})
	}
	return c, nil
}

// Now is the time as records hold it.
func (c *Core) Now() time.Time { return records.Time(c.now()) }

// Close ends the goroutines, seals the audit log, and closes the tokens once calls that are under way have finished, within the call
// timeout.
func (c *Core) Close() error {
	c.stop()
	c.tasks.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), c.CallTimeout)
	defer cancel()
	c.lastSeal(ctx)
	return c.Keys.Close()
}
