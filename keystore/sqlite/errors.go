package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mattn/go-sqlite3"
	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/keystore"
)

// Error is a failure of the store itself: its file, its disk, its locks. An Error is immutable and safe for
// concurrent use.
type Error struct {
	Op   string // what was being done, such as "open" or "commit to"
	Path string // the file it was done to
	Err  error
	hint string
}

// Error tells what was being done, where, and what was in the way.
func (e *Error) Error() string { return fmt.Sprintf("%s store %q: %v", e.Op, e.Path, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint says what a person can do about it. Empty when there is no advice to give.
func (e *Error) Hint() string { return e.hint }

var (
	errNotAStore = errors.New("file is not a key store")
	errDamaged   = errors.New("file is damaged")
)

// newerError is the answer to a file that a newer version of the program has migrated.
func newerError(found int64) error {
	return fmt.Errorf("schema version %d is newer than version %d of this program", found, schemaVersion)
}

// busyError says who keeps the store busy, as far as the system tells.
func (s *Store) busyError() error {
	holders := lockHolders(s.path + "-shm")
	if len(holders) == 0 {
		return fmt.Errorf("%w: another process holds the write lock", keystore.ErrBusy)
	}
	return fmt.Errorf("%w: %s holds the write lock", keystore.ErrBusy, strings.Join(holders, ", "))
}

// errTurn is the answer when the commits of this process took up the time.
var errTurn = fmt.Errorf("%w: other changes of this process wait as well", keystore.ErrBusy)

const hintNewer = "Use the version of pkcs11kms that last opened this store, or a newer one. Nothing was changed."

// fail wraps err as an Error with the hint that fits its cause. The sentinels of the contract and the end of the
// caller's context are answers rather than failures, and keep their own face.
func fail(ctx context.Context, op, path string, err error) error {
	var known *Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case ctx.Err() != nil && errors.Is(err, keystore.ErrBusy):
		return fmt.Errorf("%s store: %w", op, err) // which wraps the context's error
	case ctx.Err() != nil:
		return fmt.Errorf("%s store: %w", op, ctx.Err())
	}
	hint := hintFor(path, err)
	var se sqlite3.Error
	switch {
	case !errors.As(err, &se):
	case se.Code == sqlite3.ErrCorrupt:
		err = fmt.Errorf("%w: %w", errDamaged, err)
	case se.Code == sqlite3.ErrBusy:
		err = fmt.Errorf("%w: %w", keystore.ErrBusy, err)
	}
	if kind := kindOf(err); kind != nil {
		err = fmt.Errorf("%w: %w", kind, err)
	}
	return &Error{Op: op, Path: path, Err: err, hint: hint}
}

// kindOf returns the sentinel of the contract for a disk that takes no changes, or nil.
func kindOf(err error) error {
	var se sqlite3.Error
	errno := se.SystemErrno
	if errors.As(err, &se) {
		errno = se.SystemErrno
	} else {
		errors.As(err, &errno)
	}
	switch {
	case se.Code == sqlite3.ErrFull, errno == syscall.ENOSPC, errno == syscall.EDQUOT, errno == syscall.EFBIG:
		return keystore.ErrFull
	case se.Code == sqlite3.ErrReadonly, errno == syscall.EROFS:
		return keystore.ErrReadOnly
	}
	return nil
}

func hintFor(path string, err error) string {
	var se sqlite3.Error
	if errors.As(err, &se) {
		return hintForCode(path, se)
	}
	switch {
	case errors.Is(err, keystore.ErrBusy):
		return hintBusy(path)
	case errors.Is(err, errDamaged):
		return hintDamaged
	case errors.Is(err, fs.ErrPermission):
		return hintOwner(path)
	}
	var errno syscall.Errno
	errors.As(err, &errno)
	return hintForErrno(path, errno)
}

// hintForErrno is for what the system itself has answered.
func hintForErrno(path string, errno syscall.Errno) string {
	switch errno {
	case syscall.EROFS:
		return hintReadOnly(path)
	case syscall.EACCES, syscall.EPERM:
		return hintOwner(path)
	case syscall.ENOSPC, syscall.EDQUOT:
		return hintFull(path)
	case syscall.EMFILE, syscall.ENFILE:
		return "Too many files are open: find out what keeps them open (ls -l /proc/PID/fd), or raise the limit (ulimit -n,\n" +
			"LimitNOFILE= of systemd)."
	case syscall.ENAMETOOLONG:
		return hintLongPath
	case syscall.EFBIG:
		return hintDisk
	}
	return ""
}

const hintDisk = "Look for a full quota, a file size limit (ulimit -f) or disk errors (dmesg). The store keeps what it\n" +
	"held before; pkcs11kms doctor checks it."

func hintForCode(path string, err sqlite3.Error) string {
	if hint := hintForErrno(path, err.SystemErrno); hint != "" {
		return hint
	}
	switch err.Code {
	case sqlite3.ErrFull:
		return hintFull(path)
	case sqlite3.ErrIoErr:
		return hintDisk
	case sqlite3.ErrReadonly, sqlite3.ErrCantOpen, sqlite3.ErrPerm:
		return hintForFileSystem(path)
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
		return hintDamaged
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		return hintBusy(path)
	}
	return ""
}

const hintDamaged = "Stop every process that uses the store, keep the file for inspection, and restore it from a backup."

func hintFull(path string) string {
	return fmt.Sprintf("Free space on the file system: df -h '%s'. Nothing was changed.", path)
}

func hintBusy(path string) string {
	return fmt.Sprintf("Find the process with: fuser -v '%s'. A stopped or hung one must be continued or ended.", path)
}

func hintReadOnly(path string) string {
	return fmt.Sprintf("The file system is mounted read-only: findmnt -T '%s'. After an error of its disk (dmesg) it must be\n"+
		"checked first; else mount it read-write. Until then keys can be used, but nothing can be changed.", path)
}

func hintOwner(path string) string {
	return fmt.Sprintf("The user must own '%s' and be able to write to its directory.", path)
}

const hintLongPath = "The path is too long for SQLite: choose a directory with a shorter one."

// longestPath is what SQLite takes, with the longest of the names that it derives from it.
const longestPath = 512 - len("-journal") - 1

// hintForFileSystem is for SQLite's answers that do not say what the system has answered.
func hintForFileSystem(path string) string {
	var st unix.Statfs_t
	switch err := unix.Statfs(filepath.Dir(path), &st); {
	case len(path) > longestPath:
		return hintLongPath
	case err == nil && st.Flags&unix.ST_RDONLY != 0:
		return hintReadOnly(path)
	}
	return hintOwner(path)
}
