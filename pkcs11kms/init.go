package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// softHSMLabel is the label of the token that Init makes with SoftHSM.
const softHSMLabel = "pkcs11kms"

// InitOptions says what state directory to make. Dir and exactly one of SoftHSM and Token are required.
type InitOptions struct {
	Dir       string // must not exist, be empty, or hold nothing but what an Init that was killed has left
	AccountID string // default DefaultAccountID
	Partition string // default DefaultPartition
	Region    string // default DefaultRegion
	SoftHSM   bool   // make a SoftHSM token in the directory, with a random PIN in its file "pin"
	Token     string // RFC 7512 URI of an existing token

	// TryLowPIN is that of Region: log in although the token has noted a wrong PIN, such as that of an Init before.
	TryLowPIN bool
	// PIN is used in place of the URI's pin-source, this once. It is not stored.
	PIN func(context.Context) (string, error)
}

// Init makes a state directory: config.yaml, an empty store and, with SoftHSM, a token. It logs in to the token and
// notes its serial in the store, so that no other token is ever used in its place. When anything fails, nothing of the
// directory is left; what an Init leaves that is killed is taken over by the next one. Errors that a person can mend have a
// Hint.
func Init(ctx context.Context, o InitOptions) (err error) {
	setDefault(&o.AccountID, DefaultAccountID)
	setDefault(&o.Region, DefaultRegion)
	if o.SoftHSM == (o.Token != "") {
		return fmt.Errorf("exactly one of a SoftHSM token and the URI of an existing token must be asked for")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	state := stateConfig{Account: o.AccountID, Partition: o.Partition, DefaultRegion: o.Region}
	cfg := Config{AccountID: o.AccountID, Partition: o.Partition, StorePath: filepath.Join(dir, storeFile)}
	cfg.Regions = map[string]Region{o.Region: {Token: "pkcs11:"}}
	if _, err := cfg.complete(); err != nil { // before anything is made
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
	crashAt("init-claimed")
	region := Region{Token: o.Token, PIN: o.PIN, TryLowPIN: o.TryLowPIN}
	if o.SoftHSM {
		if region, err = initSoftHSM(dir); err != nil {
			return err
		}
	}
	uri, err := token.ParseURI(region.Token)
	if err != nil {
		return err
	}
	stored := uri
	if o.SoftHSM {
		stored.PINFile = "" // see withPINFile
	}
	crashAt("init-token-made")
	cfg.Regions[o.Region] = region
	if err := sqlite.Create(cfg.StorePath); err != nil {
		return err
	}
	crashAt("init-store-made")
	b, err := Open(ctx, cfg)
	if err != nil {
		return initAdvice(err)
	}
	stored.Serial = b.regions[o.Region].token.Info().Serial // so that even without the store no other token is logged in to
	state.Regions = map[string]stateRegion{o.Region: {Token: stored.String()}}
	if err := b.Close(); err != nil {
		return err
	}
	crashAt("init-bound")
	return claim.become(state)
}

// initAdvice gives an error of Open a hint that can be followed where there is no state directory yet: doctor wants one.
func initAdvice(err error) error {
	if hinted, ok := errors.AsType[*token.OpenError](err); ok && strings.Contains(hinted.Hint(), token.TryPINCommand) {
		return &SetupError{"making the state directory", strings.ReplaceAll(hinted.Hint(), token.TryPINCommand, "pkcs11kms init --try-pin"), err}
	}
	return err
}

// initSoftHSM makes a token in the directory. Nobody keeps its SO PIN: the token is as disposable as the directory.
func initSoftHSM(dir string) (Region, error) {
	conf, err := softhsm.Setup(dir)
	if err != nil {
		return Region{}, err
	}
	pin := softhsm.RandomPIN()
	t, err := conf.CreateToken(softHSMLabel, softhsm.RandomPIN(), pin)
	if err != nil {
		return Region{}, err
	}
	path := filepath.Join(dir, pinFile)
	if err := os.WriteFile(path, []byte(pin+"\n"), 0o600); err != nil {
		return Region{}, err
	}
	return Region{Token: t.URI(path), SoftHSMConfig: conf.File}, nil
}
