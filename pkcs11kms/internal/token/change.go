package token

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/miekg/pkcs11"
)

// This file keeps processes that make or destroy objects in one token apart, for tokens whose quirk says lockChanges.
//
// SoftHSM counts the changes of a token in the token's file "generation" and lists the directory anew when the count is
// another than the one it knows. After a change of its own it knows the count that it has written, so it takes a change
// that another process made just before for one that it has seen. Measured with SoftHSM 2.6.1: four processes that made 25
// keys each at once missed each other's in 16 of 40 rounds, and with what this file does in none of 40. A key that is
// missed stays missing, for this process alone, until the next change: a fresh session, a throw-away object,
// C_SetAttributeValue, C_CopyObject, C_SetPIN, C_InitToken and the slot calls do not make SoftHSM list the directory; only
// a changed "generation" does, or C_Initialize. So there is no second look that could find a key, and the miss must not
// happen: whoever makes or destroys an object holds a lock that all of this package share, and lets SoftHSM list the
// directory first. Another application that changes the token without the lock can then still hide objects of its own from
// us, but none of ours.
//
// tpm2-pkcs11 keeps its objects in a file of SQLite and does not wait for another process that writes: its answer is CKR_GENERAL_ERROR
// (measured with 1.9.0: at once in two processes that make 5 pairs each).

// The waits between two attempts at the lock. A change takes from 0.3 ms to tens of milliseconds, as the disk does.
const (
	firstLockPause = 200 * time.Microsecond
	lastLockPause  = 4 * time.Millisecond
)

// errOthersChange says that another process was changing the token all the while.
var errOthersChange = fmt.Errorf("waiting for other changes of the token's objects: %w", ErrBusy)

// change runs an operation that makes or destroys an object of the token. The wait for its turn occupies no session, so
// that MACs go on meanwhile; it is bounded as the wait for a session is.
func (t *Token) change(ctx context.Context, o *operation) error {
	if !t.facts().quirk.lockChanges {
		return t.do(ctx, o)
	}
	if err := t.Await(ctx); err != nil { // before others have to wait for the lock
		return err
	}
	end, err := t.beginChange(ctx)
	if err != nil {
		return err
	}
	err = t.do(ctx, o)
	if hung, ok := errors.AsType[*HungError](err); ok {
		go func() { // ends with the call that hangs: until then nobody can say that the change is over
			<-hung.Done()
			end()
		}()
		return err
	}
	end()
	return err
}

// beginChange waits for the turn in this process and for the lock among processes.
func (t *Token) beginChange(ctx context.Context) (end func(), err error) {
	deadline := time.Now().Add(t.timeout)
	turn := t.loaded.changing
	if err := turn.takeWithin(ctx, t.timeout); err != nil {
		return nil, err
	}
	f, err := openLock(t.facts().lockFile)
	if err == nil {
		err = t.takeLock(ctx, f, deadline)
	}
	switch {
	case err == nil:
		return func() { _ = f.Close(); turn.release() }, nil
	case errors.Is(err, ErrBusy), errors.Is(err, ErrClosed):
		turn.release()
		return nil, err
	}
	t.lockWarned.Do(func() {
		t.log.Warn("going on without the lock that processes take turns by: "+
			"a key that another process makes may stay unknown to this one for a while, or making one at the same time may fail",
			"file", t.facts().lockFile, "error", err)
	})
	return turn.release, nil
}

// openLock opens the file anew for each lock, which belongs to the open file and not to the process.
func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_CLOEXEC, 0)
}

// takeLock locks the file, or closes it. It asks again and again, since a wait inside flock could not be ended.
func (t *Token) takeLock(ctx context.Context, f *os.File, deadline time.Time) (err error) {
	defer func() {
		if err != nil {
			_ = f.Close() // read only: nothing can be lost
		}
	}()
	for wait := firstLockPause; ; wait = min(2*wait, lastLockPause) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return os.NewSyscallError("flock", err)
		case t.closing.Err() != nil:
			return ErrClosed
		case time.Until(deadline) < wait:
			return errOthersChange
		}
		if err := pause(ctx, wait); err != nil {
			return fmt.Errorf("%w: %w", errOthersChange, err)
		}
	}
}

// reindex makes SoftHSM list the token's directory if another process has changed it. The search looks for a class that no
// object has, which is the search that reads the least.
func (s *session) reindex() error {
	if !s.token.facts().quirk.lockChanges {
		return nil
	}
	_, err := s.search([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_HW_FEATURE)}, 1)
	if err == nil && s.abandoned() {
		return errNotBegun
	}
	return err
}

// toLock returns the file or directory that all who change the token's objects can lock.
func (q quirk) toLock(softHSM string) string {
	if !q.lockStore {
		return softHSMConf(softHSM)
	}
	return tpmStore()
}

// tpmStore returns the directory in which tpm2-pkcs11 keeps its objects, in the order in which it looks.
func tpmStore() string {
	if store := os.Getenv("TPM2_PKCS11_STORE"); store != "" {
		return store
	}
	const store = "/etc/tpm2_pkcs11"
	if home, err := os.UserHomeDir(); err == nil {
		if _, err := os.Stat(filepath.Join(store, "tpm2_pkcs11.sqlite3")); err != nil {
			return filepath.Join(home, ".tpm2_pkcs11")
		}
	}
	return store
}

// softHSMConf returns the configuration file that SoftHSM reads when SOFTHSM2_CONF is conf: every user of the tokens in it
// reads this file, so it is the one to lock.
func softHSMConf(conf string) string {
	if conf != "" {
		if abs, err := filepath.Abs(conf); err == nil {
			return abs
		}
		return conf
	}
	if home, err := os.UserHomeDir(); err == nil {
		own := filepath.Join(home, ".config", "softhsm2", "softhsm2.conf")
		if _, err := os.Stat(own); err == nil {
			return own
		}
	}
	return "/etc/softhsm/softhsm2.conf"
}
