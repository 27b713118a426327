package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// devCredentialsFile is the file of the state directory that a shell can source.
const devCredentialsFile = "dev-credentials.env"

const devWarning = `
  *** NOT FOR PRODUCTION ***
  --dev keeps keys in SoftHSM, which is no HSM, and a secret in a file.

`

// makeDevDirectory warns, and makes the state directory unless there is one.
func (s *serving) makeDevDirectory(ctx context.Context) error {
	fmt.Fprint(s.app.stderr, devWarning)
	if err := s.checkListeners(); err != nil { // before anything is made
		return err
	}
	_, err := os.Lstat(filepath.Join(s.dir, "config.yaml"))
	if !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := statedir.Init(ctx, statedir.InitOptions{Dir: s.dir, SoftHSM: true}); err != nil {
		return err
	}
	s.log.Info("made a state directory with a SoftHSM token", "dir", s.dir)
	return nil
}

// checkDevToken refuses to put a secret for somebody's HSM into a file.
func (s *serving) checkDevToken(cfg statedir.Config) error {
	for name, region := range cfg.Regions {
		if s.dev && region.SoftHSMConfig == "" {
			return &environmentError{fmt.Errorf("the token of region %s in %q is not one that --dev or init --softhsm has made", name, s.dir),
				"serve it without --dev, or name another state directory, which may be a new one"}
		}
	}
	return nil
}

// devAccessKey is an access key as a client needs it.
type devAccessKey struct{ id, secret string }

// devInstructions puts an access key into the file and returns what to do with it.
func (s *serving) devInstructions(ctx context.Context, bridge *pkcs11kms.Bridge, region, endpoint string) (string, error) {
	path, err := filepath.Abs(filepath.Join(s.dir, devCredentialsFile))
	if err != nil {
		return "", err
	}
	use, err := devCredentials(ctx, bridge, path)
	if err != nil {
		return "", fmt.Errorf("making an access key: %w", err)
	}
	if err := writePrivate(path, credentialsText(use, region, endpoint)); err != nil {
		return "", &environmentError{fmt.Errorf("writing the credentials: %w", err),
			"see whether the state directory is writable and the disk has room"}
	}
	return fmt.Sprintf("\nin another terminal:\n  . %s\n"+
		"  aws --endpoint-url %s kms create-key --key-spec HMAC_256 --key-usage GENERATE_VERIFY_MAC\n"+
		"  aws --endpoint-url %s kms list-keys\n\nCtrl-C stops the server\n", shellQuote(path), endpoint, endpoint), nil
}

// devCredentials returns the access key that the file has, as long as it is active, or else a new one.
func devCredentials(ctx context.Context, bridge *pkcs11kms.Bridge, path string) (devAccessKey, error) {
	found, err := readCredentials(path)
	if err != nil {
		return devAccessKey{}, err
	}
	keys, err := bridge.IAM().As(bridge.Root()).ListAccessKeys(ctx, iam.PrincipalName{})
	if err != nil {
		return devAccessKey{}, err
	}
	for _, key := range keys {
		if key.ID == found.id && key.Status == keystore.AccessKeyActive && found.secret != "" {
			return found, nil
		}
	}
	made, err := bridge.IAM().As(bridge.Root()).CreateAccessKey(ctx, iam.PrincipalName{})
	return devAccessKey{made.ID, made.Secret}, err
}

// The lines of the file that are read again. Neither value has a character that a shell would take apart.
const (
	exportID     = "export AWS_ACCESS_KEY_ID="
	exportSecret = "export AWS_SECRET_ACCESS_KEY="
)

func credentialsText(use devAccessKey, region, endpoint string) string {
	return strings.Join([]string{
		"# Written by pkcs11kms serve --dev at each start. Remove the file to have a new access key made.",
		exportID + use.id,
		exportSecret + use.secret,
		"unset AWS_SESSION_TOKEN AWS_PROFILE",
		"export AWS_DEFAULT_REGION=" + region,
		"export AWS_REGION=" + region,
		"export AWS_ENDPOINT_URL_KMS=" + endpoint,
		"export AWS_EC2_METADATA_DISABLED=true",
	}, "\n") + "\n"
}

// readCredentials returns what the file has of an access key; a missing file has nothing.
func readCredentials(path string) (found devAccessKey, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return devAccessKey{}, nil
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if id, ok := strings.CutPrefix(line, exportID); ok {
			found.id = id
		}
		if secret, ok := strings.CutPrefix(line, exportSecret); ok {
			found.secret = secret
		}
	}
	return found, err
}

// writePrivate replaces a file by one that only its owner may read, all at once.
func writePrivate(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error that led here is the one to report
	}
	return err
}
