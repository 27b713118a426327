package sqlite

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pkcs11kms/bridge/keystore"
)

// locksName is the directory of the lock files beside the store.
const locksName = "locks"

// Every instance has a lock file named by its id, and holds an flock on it from before its first Commit until Close or the end
// of its process, however it ends: the kernel drops the lock with the last descriptor. Descriptors are
// close-on-exec, so that no child keeps a dead instance alive.
//
// Whoever gets the lock of another instance has proved that it is dead, if it is that very lock: in a copy of the
// directory the copied file can be locked while the instance lives on with the original, and finishes what is
// half-made here. So the second half of an id is made from the identity of the file (device, inode, time of birth) and
// of the running system (boot id). A file that does not fit, or is not there, proves nothing.

// makeLocksDir makes the directory unless it is there, and refuses one in which others could remove lock files and
// so have living instances taken for dead.
func makeLocksDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &Error{Op: "open", Path: dir, Err: errors.New("not a directory"),
			hint: "The directory of the locks is made by the program: move away what is there."}
	}
	return checkPrivate(dir, info, 0o700)
}

func lockPath(dir, instance string) string { return filepath.Join(dir, instance+".lock") }

// The halves of an instance's id, in hexadecimal digits.
const (
	randomDigits   = 32
	identityDigits = 16
)

// validInstance keeps anything but an id, such as a path, from becoming the name of a file.
func validInstance(id string) bool {
	if len(id) != randomDigits+identityDigits {
		return false
	}
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// lockInstance makes a new instance. The file gets its name when it is locked already, so that no sweep takes it for a
// dead one's.
func lockInstance(dir string) (id string, f *os.File, err error) {
	random := randomHex()
	draft := filepath.Join(dir, "."+random)
	f, err = os.OpenFile(draft, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // the first error is the one to report
			_ = os.Remove(draft)
			f = nil
		}
	}()
	if err = flock(f); err != nil {
		return "", f, err
	}
	identity, err := identityOf(f)
	if err != nil {
		return "", f, err
	}
	id = random + identity
	return id, f, os.Rename(draft, lockPath(dir, id))
}

// birthOf looks at a file, and returns its time of birth, or zero where the file system does not keep that.
func birthOf(f *os.File) (st unix.Statx_t, born unix.StatxTimestamp, err error) {
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME|unix.STATX_MTIME, &st); err != nil {
		return st, born, fmt.Errorf("look at lock file: %w", err)
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		born = st.Btime
	}
	return st, born, nil
}

// identityOf makes the second half of an id from what no copy of the file and no other start of the system shares.
func identityOf(f *os.File) (string, error) {
	st, born, err := birthOf(f)
	if err != nil {
		return "", err
	}
	if st.Mask&unix.STATX_BTIME == 0 {
		born = st.Mtime // nobody writes to the file
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	text := fmt.Sprintf("%d:%d %d %d.%d %s", st.Dev_major, st.Dev_minor, st.Ino, born.Sec, born.Nsec, boot)
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])[:identityDigits], nil
}

// lockFile locks the file of an instance that is there. keystore.ErrAlive when somebody else has the lock.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, keystore.ErrUndecided
	}
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	current, err := stillNamed(f, path)
	if err == nil && !current {
		err = keystore.ErrUndecided
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// proveDead locks the file of an instance, if it is the very one that the instance made.
func proveDead(dir, instance string) (*os.File, error) {
	f, err := lockFile(lockPath(dir, instance))
	if err != nil {
		return nil, err
	}
	identity, err := identityOf(f)
	if err == nil && identity != instance[randomDigits:] {
		err = keystore.ErrUndecided
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return keystore.ErrAlive
		default:
			return fmt.Errorf("lock %q: %w", f.Name(), err)
		}
	}
}

// stillNamed tells whether the file that was locked is the one at the path. The last holder may have removed it
// between our opening and our locking, and then the lock keeps nobody out.
func stillNamed(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, named), err
}

// unlock gives a lock back. With forget the file goes first: in the other order a taker could lock it in between and
// then have it removed under him.
func unlock(f *os.File, path string, forget bool) error {
	var err error
	if forget {
		err = os.Remove(path)
	}
	return errors.Join(err, f.Close())
}

// Instance implements keystore.Store.
func (s *Store) Instance() string { return s.instance }

// TakeOver implements keystore.Store. What it takes stays taken when the store is closed, until release.
func (s *Store) TakeOver(ctx context.Context, instance string) (release func(forget bool), err error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	if !validInstance(instance) {
		return nil, fmt.Errorf("take over %q: malformed instance id", instance)
	}
	f, err := proveDead(s.locks, instance)
	for _, answer := range []error{keystore.ErrAlive, keystore.ErrUndecided} {
		if errors.Is(err, answer) {
			return nil, fmt.Errorf("take over %s: %w", instance, answer)
		}
	}
	if err != nil {
		return nil, fail(ctx, "take over an instance of", s.path, err)
	}
	var once sync.Once
	return func(forget bool) {
		once.Do(func() {
			if err := unlock(f, lockPath(s.locks, instance), forget && !s.leftWork(context.WithoutCancel(ctx), instance)); err != nil {
				s.logger.Warn("giving back the lock of a dead instance", "instance", instance, "error", err)
			}
		})
	}, nil
}

// retire gives the store's own lock back. The file stays while records name the instance: it is the proof that others
// need to finish them.
func (s *Store) retire(ctx context.Context) error {
	if !s.opened {
		return unlock(s.lock, lockPath(s.locks, s.instance), true) // nobody has seen the id
	}
	return unlock(s.lock, lockPath(s.locks, s.instance), !s.leftWork(ctx, s.instance))
}

// leftWork tells whether records name the instance, or may do so.
func (s *Store) leftWork(ctx context.Context, instance string) bool {
	left, err := s.lookup(ctx, keystore.IndexUnfinished, instance, keystore.Ref{}, 1)
	return err != nil || len(left) > 0
}

// sweep removes the files of instances that died without work left behind. Nobody else would: TakeOver is for those
// that records name. The first look at the records spares a janitor from finding its instance locked by us.
func (s *Store) sweep(ctx context.Context) {
	files, err := os.ReadDir(s.locks)
	if err != nil {
		s.logger.Warn("reading the directory of the locks", "path", s.locks, "error", err)
	}
	for _, file := range files {
		id, isLock := strings.CutSuffix(file.Name(), ".lock")
		if !isLock || !validInstance(id) || id == s.instance || s.leftWork(ctx, id) {
			continue
		}
		f, err := lockFile(lockPath(s.locks, id))
		if err == nil {
			err = unlock(f, lockPath(s.locks, id), !s.leftWork(ctx, id))
		}
		if err != nil && !errors.Is(err, keystore.ErrAlive) && !errors.Is(err, keystore.ErrUndecided) {
			s.logger.Warn("removing the lock of a dead instance", "instance", id, "error", err)
		}
	}
}
