package records

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
)

// writeTrialInterval is between two attempts to write after a Commit has failed, and writeTrialTimeout bounds one.
const (
	writeTrialInterval = time.Second
	writeTrialTimeout  = time.Second
)

// WriteTrialCounter names the record that an attempt writes. Nobody reads it.
const WriteTrialCounter = "write-check"

// writes knows whether the store can be changed: from the Commits that are made anyway and, once one has failed, from
// attempts until one succeeds. It is safe for concurrent use.
type writes struct {
	store keystore.Store
	log   *slog.Logger
	// others returns a moment of the store, by which the Commits of other processes are seen.
	others func() keystore.Mark

	suspect chan struct{} // holds one when an attempt is due

	mu        sync.Mutex // guards what follows
	succeeded uint64     // Commits of this process that did
	failed    error      // why the store cannot be changed; nil when it can, as far as is known
}

func newWrites(store keystore.Store, log *slog.Logger, others func() keystore.Mark) *writes {
	return &writes{store: store, log: log, others: others, suspect: make(chan struct{}, 1)}
}

// progress is a moment, to tell later whether anybody's Commit has come through since.
type progress struct {
	own    uint64
	others keystore.Mark
}

func (w *writes) now() progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	return progress{w.succeeded, w.others()}
}

// done takes in how a Commit ended that was begun at the given moment. One that the store refused for what it asked tells
// nothing. One that came to no end in time may have waited behind others; whether the store is at fault an attempt tells.
func (w *writes) done(begun progress, err error) {
	switch {
	case err == nil:
		w.set(nil)
		return
	case errors.Is(err, keystore.ErrConflict), errors.Is(err, keystore.ErrExists), errors.Is(err, keystore.ErrClosed),
		errors.Is(err, context.Canceled):
		return
	case errors.Is(err, keystore.ErrBusy), errors.Is(err, context.DeadlineExceeded):
		if w.now() != begun {
			return // others' Commits came through: that is load
		}
	default:
		w.set(err)
	}
	select {
	case w.suspect <- struct{}{}:
	default:
	}
}

func (w *writes) set(err error) {
	w.mu.Lock()
	before := w.failed
	w.failed = err
	if err == nil {
		w.succeeded++
	}
	w.mu.Unlock()
	switch {
	case before == nil && err != nil:
		w.log.Error("the store cannot be changed", "error", err)
	case before != nil && err == nil:
		w.log.Info("the store can be changed again")
	}
}

// failure returns why the store cannot be changed, or nil.
func (w *writes) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// watch makes the attempts until ctx ends.
func (w *writes) watch(ctx context.Context) {
	tick := time.NewTicker(writeTrialInterval)
	defer tick.Stop()
	for {
		select {
		case <-w.suspect:
		case <-ctx.Done():
			return
		}
		for !w.attempt(ctx) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// attempt writes once, and reports whether no further attempt is due.
func (w *writes) attempt(ctx context.Context) bool {
	begun := w.now()
	trial, cancel := context.WithTimeout(ctx, writeTrialTimeout)
	defer cancel()
	err := TryWrite(trial, w.store)
	switch {
	case err == nil:
		w.set(nil)
		return true
	case ctx.Err() != nil, errors.Is(err, keystore.ErrClosed):
		return true
	case w.now() != begun: // somebody's Commit came through
		return w.failure() == nil
	}
	if trial.Err() != nil && !errors.Is(err, keystore.ErrBusy) {
		err = fmt.Errorf("%w: %w", keystore.ErrBusy, err)
	}
	w.set(err)
	return false
}

// TryWrite writes to the store, durably, what changes nothing.
func TryWrite(ctx context.Context, store keystore.Store) error {
	rec, err := store.Get(ctx, keystore.CounterRef("", "", WriteTrialCounter))
	if err != nil && !errors.Is(err, keystore.ErrNotFound) {
		return err
	}
	_, err = store.Commit(ctx, keystore.Counter{Name: WriteTrialCounter}.Put(rec.Version))
	if errors.Is(err, keystore.ErrConflict) {
		return nil // another process was faster, so it can be done
	}
	return err
}
