package sqlite

import (
	"context"
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

// Every instance has a lock file named by its id, and holds an flock on it from before its first Commit until Close
// or the end of its process, however it ends: the kernel drops the lock with the last descriptor. Descriptors are
// close-on-exec, so that no child keeps a dead instance alive.
//
// Whoever gets the lock of another instance has proved that it is dead: ids are random and never used again, so there
// is nobody who could still come to lock it. For the same reason a missing file means dead: the file was there before
// anybody could read the id in a record.

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

// validInstance keeps anything but an id, such as a path, from becoming the name of a file.
func validInstance(id string) bool {
	if len(id) != 32 {
		return false
	}
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// lockInstance makes a new instance. A sweep may hold the new file for a moment, before its lock is taken: then that id
// is given up.
func lockInstance(dir string) (id string, f *os.File, err error) {
	for {
		id = randomHex()
		f, err = lockFile(lockPath(dir, id))
		if !errors.Is(err, keystore.ErrAlive) {
			return id, f, err
		}
	}
}

// lockFile makes sure that the file exists and locks it. ErrAlive when somebody else has the lock.
func lockFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		current, err := stillNamed(f, path)
		if current && err == nil {
			return f, nil
		}
		if closeErr := f.Close(); err != nil || closeErr != nil {
			return nil, errors.Join(err, closeErr)
		}
	}
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
func unlock(f *os.File, forget bool) error {
	var err error
	if forget {
		err = os.Remove(f.Name())
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
	f, err := lockFile(lockPath(s.locks, instance))
	if errors.Is(err, keystore.ErrAlive) {
		return nil, fmt.Errorf("take over %s: %w", instance, keystore.ErrAlive)
	}
	if err != nil {
		return nil, fail(ctx, "take over an instance of", s.path, err)
	}
	var once sync.Once
	return func(forget bool) {
		once.Do(func() {
			if err := unlock(f, forget); err != nil {
				s.logger.Warn("giving back the lock of a dead instance", "instance", instance, "error", err)
			}
		})
	}, nil
}

// retire gives the store's own lock back. The file stays while records name the instance, so that it can be seen in
// the directory which instances left work behind; without the file they would count as dead all the same.
func (s *Store) retire(ctx context.Context) error {
	if !s.opened {
		return unlock(s.lock, true) // nobody has seen the id
	}
	return unlock(s.lock, !s.leftWork(ctx, s.instance))
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
			err = unlock(f, !s.leftWork(ctx, id))
		}
		if err != nil && !errors.Is(err, keystore.ErrAlive) {
			s.logger.Warn("removing the lock of a dead instance", "instance", id, "error", err)
		}
	}
}
