package statedir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
)

// claimFile marks a directory in which Init is at work, or was when it was killed. Init holds a lock (flock) on it for as long as
// it works, so whoever gets the lock knows that the one before is dead. It becomes config.yaml: no directory ever has both, and
// what stands beside a claim was never in use.
const claimFile = ".init"

// initFiles are the patterns of what Init makes. Of a directory that it has claimed it removes these and nothing else.
var initFiles = []string{claimFile, configFile + ".new", pinFile, softHSMFile, softHSMFile + ".tmp-*", "tokens", "tokens.saved", "locks",
	auditDir, storeFile, storeFile + "-*", "." + storeFile + ".new-*"}

func madeByInit(name string) bool {
	for _, pattern := range initFiles {
		if fits, err := filepath.Match(pattern, name); err == nil && fits {
			return true
		}
	}
	return false
}

// claim is a directory that this Init works in. It is used by one goroutine.
type claim struct {
	dir     string
	existed bool     // before this Init
	file    *os.File // claimFile, locked
}

// errClaimLost says that the Init before ended just now; look again.
var errClaimLost = errors.New("the claim has changed hands")

// claimTries bounds how often others may end just when this one looks.
const claimTries = 100

// claimDir makes the directory, or takes one that is empty or holds nothing but what an Init has left that was killed.
func claimDir(ctx context.Context, dir string) (*claim, error) {
	for range claimTries {
		c, err := tryClaim(ctx, dir)
		if !errors.Is(err, errClaimLost) {
			return c, err
		}
	}
	return nil, claimedError(dir)
}

func claimedError(dir string) error {
	return setupError(fmt.Sprintf("another init works in %q", dir), "wait for it to end, or choose another --state-dir", nil)
}

func tryClaim(ctx context.Context, dir string) (*claim, error) {
	_, statErr := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, setupError("cannot make the state directory", "choose a place where this user may write", err)
	}
	if err := checkStateDir(dir); err != nil {
		return nil, err
	}
	path, died := filepath.Join(dir, claimFile), false
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrExist) {
		died = true // if nobody has it locked
		file, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errClaimLost // the directory was taken back
	}
	if err != nil {
		return nil, setupError("cannot write to the state directory", "choose a place where this user may write", err)
	}
	c := &claim{dir: dir, existed: statErr == nil, file: file}
	if err := c.take(ctx, died); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return c, nil
}

// take locks the claim and clears the directory of what the Init before has left. Only with a claim that was there before may there
// be anything. The look comes after the lock: what is there beside the claim then is nobody's work in progress.
func (c *claim) take(ctx context.Context, died bool) error {
	err := unix.Flock(int(c.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return claimedError(c.dir)
	}
	if err != nil {
		return fmt.Errorf("locking the claim: %w", err)
	}
	mine, err := c.file.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Lstat(filepath.Join(c.dir, claimFile)); err != nil || !os.SameFile(mine, named) {
		return errClaimLost
	}
	if err := checkEmpty(c.dir, died); err != nil {
		return errors.Join(err, c.release(died))
	}
	if !died {
		return nil
	}
	if err := checkUnused(ctx, c.dir); err != nil {
		return err
	}
	return c.clear()
}

// release gives a claim up that was made just now; one that was there before stays, for it says what the rest is.
func (c *claim) release(died bool) error {
	if died {
		return nil
	}
	return os.Remove(filepath.Join(c.dir, claimFile))
}

// checkEmpty refuses a directory that holds anything but a claim and, where an Init died, what it had made.
func checkEmpty(dir string, died bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	used := false
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case name == configFile:
			return setupError(fmt.Sprintf("%q is a state directory already", dir), "use it, or choose another --state-dir", nil)
		case name == claimFile, died && madeByInit(name):
		case name == auditDir:
			used = true
		default:
			return setupError(fmt.Sprintf("directory %q is not empty: it holds %q", dir, name),
				"choose a new directory by --state-dir", nil)
		}
	}
	if used {
		return usedError(dir, nil)
	}
	return nil
}

// checkNewLog makes sure that an audit log has nothing but the record of Init in it.
func checkNewLog(dir string) error {
	err := audit.Scan(AuditDir(dir), func(line []byte) error {
		if !bytes.Contains(line, []byte(`"eventName":"`+initEvent+`"`)) {
			return errors.New("the audit log tells of more than its making")
		}
		return nil
	})
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return usedError(dir, err)
}

// checkUnused makes sure that nothing of value is in what is to be removed. Nothing ever was, unless somebody took config.yaml away
// from a state directory that an older version of the program had left with a claim.
func checkUnused(ctx context.Context, dir string) error {
	objects, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "*.object"))
	if err != nil {
		return err
	}
	for _, object := range objects {
		if filepath.Base(object) != "token.object" {
			return usedError(dir, nil)
		}
	}
	if err := checkNewLog(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, storeFile)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	store, err := sqlite.Open(ctx, path, sqlite.Options{})
	if err != nil {
		return usedError(dir, err)
	}
	keys, err := store.Lookup(ctx, keystore.IndexCKAID, "", keystore.Ref{}, 1)
	if err = errors.Join(err, store.Close()); err != nil || len(keys) > 0 {
		return usedError(dir, err)
	}
	return nil
}

func usedError(dir string, cause error) error {
	return setupError(fmt.Sprintf("%q has no %s, but was used", dir, configFile),
		"put its "+configFile+" back, or choose another --state-dir", cause)
}

// clear removes what Init made, except the claim.
func (c *claim) clear() error {
	entries, err := os.ReadDir(c.dir)
	problems := []error{err}
	for _, entry := range entries {
		if entry.Name() != claimFile && madeByInit(entry.Name()) {
			problems = append(problems, os.RemoveAll(filepath.Join(c.dir, entry.Name())))
		}
	}
	return errors.Join(problems...)
}

// undo takes everything back. The claim goes last, so that nobody works in the directory before, and the directory only when it is
// empty and was not there before. The error that led here is the one to report.
func (c *claim) undo() {
	if c.clear() != nil {
		return // the claim stays, and the next Init goes on with this
	}
	_ = os.Remove(filepath.Join(c.dir, claimFile))
	if !c.existed {
		_ = os.Remove(c.dir)
	}
}

// become makes the claim config.yaml, and so the directory a state directory.
func (c *claim) become(content configYAML) error {
	text, err := yaml.Marshal(content)
	if err != nil {
		return err
	}
	if err := c.file.Truncate(0); err != nil {
		return err
	}
	if _, err := c.file.WriteAt(text, 0); err != nil {
		return err
	}
	if err := c.file.Sync(); err != nil {
		return err
	}
	d, err := os.Open(c.dir)
	if err != nil {
		return err
	}
	defer d.Close() // was only read
	if err := d.Sync(); err != nil {
		return err
	}
	crash.At("init-config-written")
	// This is the last step that may fail: what stands after it is a state directory, which nobody takes back.
	return os.Rename(filepath.Join(c.dir, claimFile), filepath.Join(c.dir, configFile))
}
