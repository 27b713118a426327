package pkcs11kms

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
)

// faultyStore is a real store in front of which faults can be put.
type faultyStore struct {
	keystore.Store
	path   string
	stuck  atomic.Bool                   // ChangedSince does not answer
	looks  atomic.Int64                  // calls of ChangedSince
	vague  atomic.Bool                   // ChangedSince cannot tell which records have changed
	mu     sync.Mutex                    // guards the hooks
	got    func(keystore.Ref) error      // after a Get has read the store: an error is the answer
	listed func()                        // after a Lookup has read the store
	looked func() error                  // the same of a ChangedSince
	before func([]keystore.Change) error // of Commit: an error is the answer, and nothing is done
	after  func([]keystore.Change) error // an error is the answer although it was done
}

func (s *faultyStore) ChangedSince(ctx context.Context, since keystore.Mark) (keystore.Changed, error) {
	s.looks.Add(1)
	if s.stuck.Load() {
		<-ctx.Done()
		return keystore.Changed{}, ctx.Err()
	}
	changed, err := s.Store.ChangedSince(ctx, since)
	s.mu.Lock()
	looked := s.looked
	s.mu.Unlock()
	if err == nil && looked != nil {
		err = looked()
	}
	if s.vague.Load() && changed.Now != since {
		changed.Refs, changed.All = nil, true
	}
	return changed, err
}

func (s *faultyStore) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	rec, err := s.Store.Get(ctx, ref)
	s.mu.Lock()
	got := s.got
	s.mu.Unlock()
	if err == nil && got != nil {
		err = got(ref)
	}
	return rec, err
}

func (s *faultyStore) Lookup(ctx context.Context, index keystore.Index, value string,
	after keystore.Ref, limit int) ([]keystore.Record, error) {
	recs, err := s.Store.Lookup(ctx, index, value, after, limit)
	s.mu.Lock()
	listed := s.listed
	s.mu.Unlock()
	if listed != nil {
		listed()
	}
	return recs, err
}

func (s *faultyStore) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	s.mu.Lock()
	before, after := s.before, s.after
	s.mu.Unlock()
	if before != nil {
		if err := before(changes); err != nil {
			return 0, err
		}
	}
	version, err := s.Store.Commit(ctx, changes...)
	if err == nil && after != nil {
		err = after(changes)
	}
	return version, err
}

func (s *faultyStore) hook(before, after func([]keystore.Change) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

// onGet sets the hook of Get, and onLook that of ChangedSince; nil takes one away.
func (s *faultyStore) onGet(got func(keystore.Ref) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = got
}

// onceListed sets what happens after the next Lookup.
func (s *faultyStore) onceListed(listed func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = func() {
		s.mu.Lock()
		s.listed = nil
		s.mu.Unlock()
		listed()
	}
}

func (s *faultyStore) onLook(looked func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked = looked
}

// clock is a clock that tests set. Safe for concurrent use.
type clock struct{ now atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.now.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) Now() time.Time          { return time.Unix(0, c.now.Load()).UTC() }
func (c *clock) Advance(d time.Duration) { c.now.Add(int64(d)) }
