package statedir

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/softhsm"
)

// softHSMLabel is the label of the token that Init makes with SoftHSM.
const softHSMLabel = "pkcs11kms"

// refreshSoftHSM returns the SoftHSM configuration of the directory, or nothing when it has none.
func refreshSoftHSM(dir string) (string, error) {
	path := filepath.Join(dir, softHSMFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if err := checkPrivate(path, info); err != nil {
		return "", err
	}
	conf, err := softhsm.Setup(dir)
	if err != nil {
		return "", err
	}
	if len(conf.Restored) > 0 {
		slog.Warn("a process was killed while it logged in and left SoftHSM tokens without their data; restored as they were when they were made",
			"directory", conf.TokenDir, "serials", conf.Restored)
	}
	return conf.File, nil
}

// withPINFile completes the URI of a token by the PIN file of the state directory when it names none itself. It is
// kept out of config.yaml so that the directory can be moved.
func withPINFile(uri, path string) (string, error) {
	u, err := token.ParseURI(uri)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(path); u.PINFile == "" && err == nil {
		u.PINFile = path
	}
	return u.String(), nil
}

// initSoftHSM makes a token in the directory. Nobody keeps its SO PIN: the token is as disposable as the directory.
func initSoftHSM(dir string) (pkcs11kms.Region, error) {
	conf, err := softhsm.Setup(dir)
	if err != nil {
		return pkcs11kms.Region{}, err
	}
	pin := softhsm.RandomPIN()
	t, err := conf.CreateToken(softHSMLabel, softhsm.RandomPIN(), pin)
	if err != nil {
		return pkcs11kms.Region{}, err
	}
	path := filepath.Join(dir, pinFile)
	if err := os.WriteFile(path, []byte(pin+"\n"), 0o600); err != nil {
		return pkcs11kms.Region{}, err
	}
	return pkcs11kms.Region{Token: t.URI(path), SoftHSMConfig: conf.File}, nil
}
