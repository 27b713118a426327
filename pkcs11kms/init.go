package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// softHSMLabel is the label of the token that Init makes with SoftHSM.
const softHSMLabel = "pkcs11kms"

// InitOptions says what state directory to make. Dir and exactly one of SoftHSM and Token are required.
type InitOptions struct {
	Dir       string // must not exist, or be empty
	AccountID string // default DefaultAccountID
	Partition string // default DefaultPartition
	Region    string // default DefaultRegion
	SoftHSM   bool   // make a SoftHSM token in the directory, with a random PIN in its file "pin"
	Token     string // RFC 7512 URI of an existing token

	// PIN is used in place of the URI's pin-source, this once. It is not stored.
	PIN func(context.Context) (string, error)
}

// Init makes a state directory: config.yaml, an empty store and, with SoftHSM, a token. It logs in to the token and
// notes its serial in the store, so that no other token is ever used in its place. When anything fails, nothing of the
// directory is left.
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
	cfg.Regions = map[string]Region{o.Region: {Token: "pkcs11:", PIN: o.PIN}}
	if _, err := cfg.complete(); err != nil { // before anything is made
		return err
	}
	undo, err := claimDir(dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			undo()
		}
	}()
	region := Region{Token: o.Token, PIN: o.PIN}
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
	cfg.Regions[o.Region] = region
	if err := sqlite.Create(cfg.StorePath); err != nil {
		return err
	}
	b, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	stored.Serial = b.regions[o.Region].token.Info().Serial // so that even without the store no other token is logged in to
	state.Regions = map[string]stateRegion{o.Region: {Token: stored.String()}}
	if err := b.Close(); err != nil {
		return err
	}
	if err := writeStateConfig(dir, state); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(dir, claimFile)) // it says nothing beside config.yaml
	return nil
}

// claimFile marks a directory in which Init is at work, or was when it died.
const claimFile = ".init"

// claimDir makes the directory, or takes an empty one, and returns the function that takes everything back. The claim
// comes before the look: what is there beside it then is somebody else's, and stays.
func claimDir(dir string) (undo func(), err error) {
	_, statErr := os.Stat(dir)
	existed := statErr == nil
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &SetupError{"cannot make the state directory", "choose a place where this user may write", err}
	}
	if err := checkStateDir(dir); err != nil {
		return nil, err
	}
	claim := filepath.Join(dir, claimFile)
	f, err := os.OpenFile(claim, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err := checkEmpty(dir); err != nil {
			return nil, err
		}
		return nil, &SetupError{Problem: fmt.Sprintf("another init works in %q, or died there", dir),
			Advice: "if none runs and there is no config.yaml in it, remove the directory: rm -r " + dir}
	}
	if err != nil {
		return nil, &SetupError{"cannot write to the state directory", "choose a place where this user may write", err}
	}
	if err := f.Close(); err != nil {
		return nil, errors.Join(err, os.Remove(claim))
	}
	if err := checkEmpty(dir); err != nil {
		return nil, errors.Join(err, os.Remove(claim))
	}
	return func() { clearDir(dir, existed) }, nil
}

// checkEmpty refuses a directory that holds anything but our claim.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		switch entry.Name() {
		case claimFile:
		case configFile:
			return &SetupError{Problem: fmt.Sprintf("%q is a state directory already", dir), Advice: "use it, or choose another --state-dir"}
		default:
			return &SetupError{Problem: fmt.Sprintf("directory %q is not empty", dir), Advice: "choose a new directory by --state-dir"}
		}
	}
	return nil
}

// clearDir removes what was made in the directory, and the directory itself unless it was there before.
func clearDir(dir string, keep bool) {
	if !keep {
		_ = os.RemoveAll(dir) // the error that led here is the one to report
		return
	}
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		_ = os.RemoveAll(filepath.Join(dir, entry.Name()))
	}
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

// writeStateConfig writes config.yaml, which makes the directory a state directory.
func writeStateConfig(dir string, state stateConfig) error {
	text, err := yaml.Marshal(state)
	if err != nil {
		return err
	}
	temporary := filepath.Join(dir, configFile+".new")
	if err := writeSynced(temporary, text); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() // was only read
	if err := d.Sync(); err != nil {
		return err
	}
	// This is the last step that may fail: what stands after it is a state directory, which nobody takes back.
	return os.Rename(temporary, filepath.Join(dir, configFile))
}

func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
