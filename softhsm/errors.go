package softhsm

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// ErrTokenExists is wrapped by the error of [Config.CreateToken] when the configuration already has a token of that
// label.
var ErrTokenExists = errors.New("token label is taken")

// ErrOtherConfiguration is wrapped by the errors of [Config.Use] and [Config.CreateToken] when SoftHSM was initialised
// in this process with another configuration. SoftHSM reads SOFTHSM2_CONF at C_Initialize only and would silently go on
// with the first one.
var ErrOtherConfiguration = errors.New("process uses another SoftHSM configuration")

// NotFoundError says that no SoftHSM module is installed where [Find] looks.
type NotFoundError struct {
	Places []string // every path that was tried, in order
}

// Error lists the places that were tried.
func (e *NotFoundError) Error() string {
	return "finding the SoftHSM module: no libsofthsm2 at " + strings.Join(e.Places, ", ")
}

// Hint says how to install SoftHSM.
func (e *NotFoundError) Hint() string {
	return `install SoftHSM:
  Debian, Ubuntu:        apt-get install softhsm2
  Fedora, RHEL (EPEL):   dnf install softhsm
  Alpine:                apk add softhsm
  Arch:                  pacman -S softhsm
  macOS, Linuxbrew:      brew install softhsm
or set ` + EnvModule + ` to the path of libsofthsm2.so`
}

// hinted is an error that a user can mend, with what to do about it.
type hinted struct {
	err  error
	hint string
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }
func (e *hinted) Hint() string  { return e.hint }

// withDiskHint adds what to do about a disk that takes no changes.
func withDiskHint(err error, dir string) error {
	switch {
	case errors.Is(err, syscall.EROFS):
		return &hinted{err, fmt.Sprintf("the file system is mounted read-only (findmnt -T '%s') and something must be written there once:\n"+
			"mount it read-write, run the command again, then mount it read-only as before", dir)}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &hinted{err, fmt.Sprintf("free space on the file system: df -h '%s'", dir)}
	}
	return err
}
