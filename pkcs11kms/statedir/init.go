package statedir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// InitOptions says what state directory to make. Dir and exactly one of SoftHSM and Token are required.
type InitOptions struct {
	Dir       string // must not exist, be empty, or hold nothing but what an Init that was killed has left
	AccountID string // default pkcs11kms.DefaultAccountID
	Partition string // default pkcs11kms.DefaultPartition
	Region    string // default pkcs11kms.DefaultRegion
	SoftHSM   bool   // make a SoftHSM token in the directory, with a random PIN in its file "pin"
	Token     string // RFC 7512 URI of an existing token

	// TryLowPIN is that of pkcs11kms.Region: log in although the token has noted a wrong PIN, such as that of an Init before.
	TryLowPIN bool
	// PIN is used in place of the URI's pin-source, this once. It is not stored.
	PIN func(context.Context) (string, error)
}

// Init makes a state directory: config.yaml, an empty store and, with SoftHSM, a token. It logs in to the token and
// notes its serial in the store, so that no other token is ever used in its place. When anything fails, nothing of the
// directory is left; what an Init leaves that is killed is taken over by the next one. Errors that a person can mend have a
// Hint.
func Init(ctx context.Context, o InitOptions) (err error) {
	o.AccountID, o.Region = cmp.Or(o.AccountID, pkcs11kms.DefaultAccountID), cmp.Or(o.Region, pkcs11kms.DefaultRegion)
	if o.SoftHSM == (o.Token != "") {
		return fmt.Errorf("exactly one of a SoftHSM token and the URI of an existing token must be asked for")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	cfg := Config{StorePath: filepath.Join(dir, storeFile), Config: pkcs11kms.Config{
		AccountID: o.AccountID, Partition: o.Partition, Audit: audit.Discard}}
	cfg.Regions = map[string]pkcs11kms.Region{o.Region: {Token: "pkcs11:"}}
	if _, err := cfg.WithDefaults(); err != nil { // before anything is made
		return err
	}
	claim, err := claimDir(ctx, dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			claim.undo()
		}
		err = errors.Join(err, claim.file.Close())
	}()
	crash.At("init-claimed")
	region := pkcs11kms.Region{Token: o.Token, PIN: o.PIN, TryLowPIN: o.TryLowPIN}
	if o.SoftHSM {
		if region, err = initSoftHSM(dir); err != nil {
			return err
		}
	}
	uri, err := token.ParseURI(region.Token)
	if err != nil {
		return err
	}
	if o.SoftHSM {
		uri.PINFile = "" // see withPINFile
	}
	crash.At("init-token-made")
	cfg.Regions[o.Region] = region
	if uri.Serial, err = bind(ctx, cfg, o.Region); err != nil { // so that even without the store no other token is logged in to
		return err
	}
	crash.At("init-bound")
	if err := cfg.recordInit(ctx, dir, o); err != nil { // with the directory, or not at all: what is taken back takes its log along
		return err
	}
	crash.At("init-recorded")
	return claim.become(configYAML{Account: o.AccountID, Partition: o.Partition, DefaultRegion: o.Region, Services: Services,
		Regions: map[string]regionYAML{o.Region: {Token: uri.String()}}})
}

// initEvent is the event of a state directory's making, the first in its log.
const initEvent = "InitStateDirectory"

// recordInit makes the audit log of the new directory, with a record of who made it.
func (cfg Config) recordInit(ctx context.Context, dir string, o InitOptions) error {
	cfg.Audit, cfg.AuditDir, cfg.DefaultRegion = notOpen{}, AuditDir(dir), o.Region
	log, e, closing, err := cfg.operatorLog(initEvent, map[string]any{"region": o.Region, "softHsm": o.SoftHSM})
	if err != nil {
		return err
	}
	e.Kind, e.Intended = audit.Call, true // on the disk before the directory is one
	return closing(log.Record(ctx, e))
}

// bind makes the store and opens the region's token once, which logs in and notes its serial in the store. It returns that serial. Nothing
// is made in the token: a directory that is taken back leaves nothing there.
func bind(ctx context.Context, cfg Config, region string) (serial string, err error) {
	if err := sqlite.Create(cfg.StorePath); err != nil {
		return "", err
	}
	crash.At("init-store-made")
	cfg.Config, err = cfg.WithDefaults()
	if err != nil {
		return "", err
	}
	store, err := cfg.OpenStore(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	t, err := keyring.OpenToken(ctx, store, region, cfg.TokenConfig(region))
	if err != nil {
		return "", initAdvice(fmt.Errorf("opening the token of region %s: %w", region, err))
	}
	return t.Info().Serial, t.Close()
}

// initAdvice gives an error of Open a hint that can be followed where there is no state directory yet: doctor wants one.
func initAdvice(err error) error {
	if hinted, ok := errors.AsType[*token.OpenError](err); ok && strings.Contains(hinted.Hint(), token.TryPINCommand) {
		return setupError("making the state directory", strings.ReplaceAll(hinted.Hint(), token.TryPINCommand, "pkcs11kms init --try-pin"), err)
	}
	return err
}
