// Package statedir makes and reads state directories: a configuration, a store of its own for the keys' metadata (SQLite) and,
// where no HSM is named, a SoftHSM token. It is what the command line works on. Make one by Init (or pkcs11kms init), then:
//
//	cfg, err := statedir.Load("/var/lib/pkcs11kms")
//	client, err := statedir.New(ctx, cfg)
//	defer client.Close()
//
// Who brings a store and tokens of their own needs package pkcs11kms alone, which links neither SQLite nor SoftHSM's set-up.
package statedir

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

// The files of a state directory. The store keeps its locks in "locks" beside it.
const (
	configFile  = "config.yaml"
	storeFile   = "kms.db"
	pinFile     = "pin"
	softHSMFile = "softhsm2.conf"
)

// Config is what a state directory says: what a Bridge works with, and where its store is. Its field Store stays empty.
type Config struct {
	pkcs11kms.Config
	// StorePath names an SQLite store made by Init or sqlite.Create. One of an older version is refused, see sqlite.Migrate.
	StorePath string
	// AuditDir is the directory of the audit log, which Open opens where Load has found that there is to be one; otherwise Audit is
	// audit.Discard. Whoever sets Audit has that one written to instead.
	AuditDir     string
	AuditOptions audit.Options
	// AuditStdout says that the records are to go to standard output, too. That is a server's: it sets AuditOptions.Stdout.
	AuditStdout bool
}

// Load reads a state directory that Init made: config.yaml and, for its own SoftHSM token, softhsm2.conf (written
// anew when the directory has moved) and the file "pin", which serves every region whose token names no pin-source. The
// directory must belong to this process's user, be closed to others (0700, files 0600) and lie on a local file system.
// Errors have a Hint.
func Load(dir string) (Config, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Config{}, err
	}
	if err := checkStateDir(dir); err != nil {
		return Config{}, err
	}
	file, err := readConfig(filepath.Join(dir, configFile))
	if err != nil {
		return Config{}, err
	}
	cfg := Config{StorePath: filepath.Join(dir, storeFile), AuditDir: AuditDir(dir), AuditStdout: file.Audit.Stdout, Config: pkcs11kms.Config{
		AccountID:     file.Account,
		Partition:     file.Partition,
		DefaultRegion: file.DefaultRegion,
		Regions:       map[string]pkcs11kms.Region{},
		MaxSessions:   file.Sessions,
		CallTimeout:   file.CallTimeout,
	}}
	if cfg.Quotas, err = file.Quotas.quotas(); err != nil {
		return Config{}, invalidConfig(dir, err)
	}
	if cfg.NoSessionCopies, err = NoSessionCopies(file.SessionCopies); err != nil {
		return Config{}, invalidConfig(dir, fmt.Errorf("session-copies: %w", err))
	}
	leave, err := isOff(file.SealRecords)
	if err != nil {
		return Config{}, invalidConfig(dir, fmt.Errorf("seal-records: %w", err))
	}
	cfg.SealRecords = !leave
	switch file.RoleKeys {
	case "", "on":
	case "off":
		cfg.NoRoleAccessKeys = true
	default:
		return Config{}, invalidConfig(dir, fmt.Errorf("role-access-keys: %q is neither on nor off", file.RoleKeys))
	}
	var on bool
	if cfg.AuditOptions, on, err = file.Audit.options(dir); err != nil {
		return Config{}, invalidConfig(dir, err)
	}
	cfg.Audit = notOpen{cfg.AuditDir, cfg.AuditOptions}
	if !on {
		cfg.Audit = audit.Discard
	}
	conf, err := refreshSoftHSM(dir)
	if err != nil {
		return Config{}, err
	}
	for name, r := range file.Regions {
		uri, err := withPINFile(r.Token, filepath.Join(dir, pinFile))
		if err != nil {
			return Config{}, fmt.Errorf("region %s in %s: %w", name, configFile, err)
		}
		cfg.Regions[name] = pkcs11kms.Region{Token: uri, SoftHSMConfig: conf, Import: r.Import}
	}
	if _, err := cfg.WithDefaults(); err != nil {
		return Config{}, invalidConfig(dir, err)
	}
	return cfg, nil
}

// NoSessionCopies reads the setting session-copies: auto, which is also what an empty text means, or off.
func NoSessionCopies(text string) (bool, error) { return isOff(text) }

func isOff(text string) (bool, error) {
	switch text {
	case "", "auto":
		return false, nil
	case "off":
		return true, nil
	}
	return false, fmt.Errorf("%q is neither auto nor off", text)
}

// Open opens the store, the audit log and a Bridge on them, which owns both: closing the Bridge closes all. Otherwise it is
// pkcs11kms.Open.
func Open(ctx context.Context, cfg Config) (*pkcs11kms.Bridge, error) {
	ready, err := cfg.withStore(ctx)
	if err != nil {
		return nil, err
	}
	return pkcs11kms.Open(ctx, ready)
}

// New opens a Bridge as Open does, and returns the client of its default region that acts as the root of the configured
// account. Closing that Client closes the Bridge and its store.
func New(ctx context.Context, cfg Config) (*pkcs11kms.Client, error) {
	ready, err := cfg.withStore(ctx)
	if err != nil {
		return nil, err
	}
	return pkcs11kms.New(ctx, ready)
}

// withStore opens the store, and hands it to whoever opens a Bridge with the result. What is wrong with the rest is found
// before anything is opened.
func (cfg Config) withStore(ctx context.Context) (pkcs11kms.Config, error) {
	ready, err := cfg.WithDefaults()
	if err == nil && cfg.Store != nil {
		err = errors.New("both a store and the path of one are given")
	}
	if err != nil {
		return ready, fmt.Errorf("reading the configuration: %w", err)
	}
	if ready.Store, err = cfg.OpenStore(ctx); err != nil {
		return ready, err
	}
	ready.CloseStore = true
	if err := cfg.openAudit(&ready); err != nil {
		return ready, errors.Join(err, ready.Store.Close())
	}
	return ready, nil
}

// OpenStore opens the store alone, without any token: for doctor.Examine and doctor.RetireRegion. Whoever
// calls it closes the store.
func (cfg Config) OpenStore(ctx context.Context) (keystore.Store, error) {
	store, err := sqlite.Open(ctx, cfg.StorePath, sqlite.Options{Logger: cfg.Logger})
	if err != nil {
		return nil, err // and no typed nil, which would pass for a store
	}
	return store, nil
}
