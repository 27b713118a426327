package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/mattn/go-sqlite3"
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
	errBusy      = errors.New("another process holds the write lock")
)

// newerError is the answer to a file that a newer version of the program has migrated.
func newerError(found int64) error {
	return fmt.Errorf("schema version %d is newer than version %d of this program", found, schemaVersion)
}

const hintNewer = "Use the version of pkcs11kms that last opened this store, or a newer one. Nothing was changed."

// fail wraps err as an Error with the hint that fits its cause. The sentinels of the contract and the end of the
// caller's context are answers rather than failures, and keep their own face.
func fail(ctx context.Context, op, path string, err error) error {
	var known *Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%s store: %w", op, ctx.Err())
	}
	hint := hintFor(path, err)
	var se sqlite3.Error
	if errors.As(err, &se) && se.Code == sqlite3.ErrCorrupt {
		err = fmt.Errorf("%w: %w", errDamaged, err)
	}
	return &Error{Op: op, Path: path, Err: err, hint: hint}
}

func hintFor(path string, err error) string {
	var se sqlite3.Error
	if errors.As(err, &se) {
		return hintForCode(path, se)
	}
	switch {
	case errors.Is(err, errBusy):
		return fmt.Sprintf("Find the process with: fuser -v '%s'. A stopped or hung one must be continued or ended.", path)
	case errors.Is(err, errDamaged):
		return hintDamaged
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return hintReadOnly(path)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return hintFull(path)
	}
	return ""
}

func hintForCode(path string, err sqlite3.Error) string {
	switch err.Code {
	case sqlite3.ErrFull:
		return hintFull(path)
	case sqlite3.ErrIoErr:
		return "Look for a full quota, a file size limit (ulimit -f) or disk errors (dmesg). The store keeps what it\n" +
			"held before; pkcs11kms doctor checks it."
	case sqlite3.ErrReadonly, sqlite3.ErrCantOpen, sqlite3.ErrPerm:
		return hintReadOnly(path)
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
		return hintDamaged
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		return hintFor(path, errBusy)
	}
	return ""
}

const hintDamaged = "Stop every process that uses the store, keep the file for inspection, and restore it from a backup."

func hintFull(path string) string {
	return fmt.Sprintf("Free space on the file system: df -h '%s'. Nothing was changed.", path)
}

func hintReadOnly(path string) string {
	return fmt.Sprintf("The user must own '%s' and be able to write to its directory; the file system must not be\n"+
		"mounted read-only.", path)
}
