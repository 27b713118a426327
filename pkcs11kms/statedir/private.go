package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

func noStateDir(dir, what string) error {
	return setupError(fmt.Sprintf("state directory %q %s", dir, what),
		"make one: pkcs11kms init --softhsm --state-dir "+shellWord(dir)+"\n"+
			"or, with a real HSM: pkcs11kms init --token 'pkcs11:token=LABEL?module-path=/path/to/module.so&pin-source=file:/path/to/pin' "+
			"--state-dir "+shellWord(dir), nil)
}

// shellWord quotes a path for a command that is to be pasted into a shell, where it needs that.
func shellWord(path string) string {
	if plainWord.MatchString(path) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./+,:@%-]+$`)

// checkStateDir refuses a directory whose content others could read or have written.
func checkStateDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return noStateDir(dir, "does not exist")
	case err != nil:
		return setupError("cannot look at the state directory", "check the owner and the modes of the path", err)
	case !info.IsDir():
		return setupError(fmt.Sprintf("state directory %q is not a directory", dir), "name a directory by --state-dir", nil)
	}
	if err := checkPrivate(dir, info); err != nil {
		return err
	}
	return checkLocal(dir)
}

// checkPrivate refuses a file or directory of another user, or one that others may use.
func checkPrivate(path string, info fs.FileInfo) error {
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return setupError(fmt.Sprintf("%q belongs to the user with the id %d, this process runs as %d", path, owner, os.Geteuid()),
			"run the command as the owner of the state directory, for example by sudo -u", nil)
	}
	if info.IsDir() && info.Mode()&fs.ModeSetgid != 0 && info.Mode().Perm()&0o070 != 0 {
		return setupError(
			fmt.Sprintf("%q is open to its group (mode %#o), as the root of a container's volume with fsGroup is", path, info.Mode().Perm()),
			"name a directory below it, which init makes with mode 0700, and set fsGroupChangePolicy: OnRootMismatch,\n"+
				"so that it stays closed; elsewhere, close this one: chmod go-rwx "+shellWord(path), nil)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return setupError(fmt.Sprintf("%q is open to other users (mode %#o)", path, info.Mode().Perm()),
			"close it: chmod go-rwx "+shellWord(path)+"\n"+
				"and ask yourself who may have used it meanwhile: whoever may use the state directory is root", nil)
	}
	return nil
}

// networkFileSystems are those on which locks and shared memory do not hold between machines (statfs(2), magic.h).
var networkFileSystems = map[int64]string{
	unix.NFS_SUPER_MAGIC:  "NFS",
	unix.SMB_SUPER_MAGIC:  "SMB",
	unix.CIFS_SUPER_MAGIC: "CIFS",
	unix.SMB2_SUPER_MAGIC: "SMB2",
	unix.AFS_SUPER_MAGIC:  "AFS",
	unix.CODA_SUPER_MAGIC: "Coda",
	unix.CEPH_SUPER_MAGIC: "Ceph",
	unix.NCP_SUPER_MAGIC:  "NCP",
	unix.V9FS_MAGIC:       "9P",
}

func checkLocal(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("looking at the file system of %q: %w", dir, err)
	}
	if name, ok := networkFileSystems[int64(st.Type)&0xffffffff]; ok {
		return setupError(fmt.Sprintf("state directory %q is on a network file system (%s)", dir, name),
			"use a local disk: the store's locks do not hold across a network", nil)
	}
	return nil
}

// setupError is what is wrong with the directory, what to do, and the cause, which may be nil.
func setupError(problem, advice string, cause error) error {
	return &pkcs11kms.SetupError{Problem: problem, Advice: advice, Err: cause}
}
