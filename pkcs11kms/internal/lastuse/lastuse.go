// Package lastuse keeps when access keys and the material of keys were last used. A request only notes its use in memory; one goroutine
// writes what was noted to the store, every few minutes and at the end, so that requests never wait for it and the store is written to
// seldom. A process that is killed loses the uses since the last writing. Several processes can write: the later use counts.
package lastuse

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
)

const (
	// tolerance is how far clocks may be apart.
	tolerance = time.Minute
	// tries bounds how often a batch is made anew because another process wrote one of its records.
	tries = 3
	// patience bounds the last writing.
	patience = 5 * time.Second
)

// Store is what is needed of a keystore.Store.
type Store interface {
	Get(context.Context, keystore.Ref) (keystore.Record, error)
	Commit(context.Context, ...keystore.Change) (uint64, error)
}

// form is how the uses of things that are named by K stand in the store. U is what is known of a use beside its time.
type form[K comparable, U any] interface {
	// last returns the time of the use that the store has, in seconds since 1970, and the version of its record (0: none).
	last(ctx context.Context, k K) (at int64, version uint64, err error)
	// changes write a use in the place of a record of the version. None: there is no such thing any more.
	changes(ctx context.Context, k K, u U, at int64, version uint64) ([]keystore.Change, error)
}

// Recorder notes uses and writes them. Note and Last are safe for concurrent use; Run and Write are for one goroutine. NewAccessKeys and
// NewKeys make one.
type Recorder[K comparable, U any] struct {
	form  form[K, U]
	store Store
	now   func() time.Time
	log   *slog.Logger

	what     string        // is used, for the log
	interval time.Duration // between two writings
	least    time.Duration // what is newer than the store's use by more than this is written: other processes write of the same things

	mu    sync.RWMutex    // guards the map, not what it points to
	noted map[K]*stamp[U] // of what was used since the last writing but one
}

// stamp is a use, its time in seconds since 1970.
type stamp[U any] struct {
	mu   sync.Mutex   // guards at, use, uses and gone; held for a few moves of memory
	now  atomic.Int64 // at, for those who do not wait for mu
	at   int64
	use  U
	uses uint64 // how many were noted
	gone bool   // from the map

	written uint64 // uses, when the store had the last one; owned by the goroutine of Run
}

// Note says that something was used now. It touches memory only, and waits for nobody who notes a use of the same second.
func (r *Recorder[K, U]) Note(k K, u U) {
	at := r.now().Unix()
	for !r.note(k, u, at) {
	}
}

// note is Note. It tells whether the stamp that it found was in the map still.
func (r *Recorder[K, U]) note(k K, u U, at int64) bool {
	r.mu.RLock()
	s := r.noted[k]
	r.mu.RUnlock()
	if s == nil {
		s = r.add(k)
	}
	if !s.mu.TryLock() {
		if s.now.Load() == at {
			return true // which of both was the last one nobody can tell
		}
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	if s.gone {
		return false
	}
	if at >= s.at || s.at-at > int64(tolerance/time.Second) { // but for one who was overtaken; a clock can be set right
		s.at, s.use = at, u
		s.uses++
		s.now.Store(at)
	}
	return true
}

func (r *Recorder[K, U]) add(k K) *stamp[U] {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.noted == nil {
		r.noted = map[K]*stamp[U]{}
	}
	if r.noted[k] == nil {
		r.noted[k] = &stamp[U]{}
	}
	return r.noted[k]
}

// Last returns the last use that was noted here, and its time in seconds since 1970; 0: none was.
func (r *Recorder[K, U]) Last(k K) (at int64, u U) {
	r.mu.RLock()
	s := r.noted[k]
	r.mu.RUnlock()
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		at, u = s.at, s.use
	}
	return at, u
}

// Run writes every few minutes until ctx ends, and then a last time.
func (r *Recorder[K, U]) Run(ctx context.Context) {
	tick := time.NewTicker(r.interval)
	defer tick.Stop()
	r.RunBy(ctx, tick.C)
}

// RunBy is Run by another clock.
func (r *Recorder[K, U]) RunBy(ctx context.Context, tick <-chan time.Time) {
	failing := false
	write := func(ctx context.Context, last bool) {
		err := r.Write(ctx, last)
		if err != nil && !failing {
			r.log.Warn("the last uses of "+r.what+" are not written", "error", err)
		}
		failing = err != nil
	}
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			defer cancel()
			write(last, true)
			return
		case <-tick:
			write(ctx, false)
		}
	}
}

// Write writes the uses that are newer than the store's, those that are hardly so only at the last time. What fails is tried again by the
// next Write.
func (r *Recorder[K, U]) Write(ctx context.Context, last bool) error {
	least := r.least
	if last {
		least = min(least, 0)
	}
	pending := r.pending()
	for len(pending) > 0 {
		var n int
		var err error
		for range tries {
			if n, err = r.writeBatch(ctx, pending, least); !errors.Is(err, keystore.ErrConflict) {
				break
			}
		}
		if err != nil {
			return err
		}
		pending = pending[n:]
	}
	return nil
}

// use is a use that is to be written.
type use[K comparable, U any] struct {
	k     K
	stamp *stamp[U]
	at    int64
	use   U
	uses  uint64
}

func (s *stamp[U]) read() (at int64, u U, uses uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.use, s.uses
}

// pending returns what is to be written, and makes room of what is written.
func (r *Recorder[K, U]) pending() (list []use[K, U]) {
	var written []use[K, U]
	r.mu.RLock()
	for k, s := range r.noted {
		switch at, u, uses := s.read(); {
		case uses != s.written:
			list = append(list, use[K, U]{k, s, at, u, uses})
		case uses > 0:
			written = append(written, use[K, U]{k, s, at, u, uses})
		}
	}
	r.mu.RUnlock()
	for _, u := range written {
		r.forget(u)
	}
	return list
}

// writeBatch writes as many of the uses as one Commit takes, and returns how many are done.
func (r *Recorder[K, U]) writeBatch(ctx context.Context, pending []use[K, U], least time.Duration) (done int, err error) {
	var all []keystore.Change
	var writing []use[K, U]
	for _, u := range pending {
		at, version, err := r.form.last(ctx, u.k)
		if err != nil {
			return 0, err
		}
		// A time that is yet to come is of a clock that was wrong.
		if ahead := at - r.now().Unix(); u.at-at <= int64(least/time.Second) && ahead <= int64(tolerance/time.Second) {
			if done++; u.at <= at {
				r.forget(u)
			}
			continue
		}
		changes, err := r.form.changes(ctx, u.k, u.use, u.at, version)
		if err != nil {
			return 0, err
		}
		if len(all)+len(changes) > keystore.MaxChanges {
			break
		}
		if done++; len(changes) == 0 {
			r.forget(u) // the thing is gone
			continue
		}
		all = append(all, changes...)
		writing = append(writing, u)
	}
	if len(all) == 0 {
		return done, nil
	}
	if _, err := r.store.Commit(ctx, all...); err != nil {
		return 0, err
	}
	for _, u := range writing {
		u.stamp.written = u.uses
	}
	return done, nil
}

// forget makes room, unless the thing was used since.
func (r *Recorder[K, U]) forget(u use[K, U]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u.stamp.mu.Lock()
	defer u.stamp.mu.Unlock()
	if u.stamp.uses == u.uses {
		u.stamp.gone = true
		delete(r.noted, u.k)
	}
}
