package records

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
)

const (
	PollInterval   = 250 * time.Millisecond // between two looks of Poll
	MaxAge         = time.Second            // of a confirmation that counts
	ConfirmTimeout = 2 * time.Second        // bounds how long one confirmation may take
)

// Cache holds decoded records and knows how old that knowledge is. It fails closed: what it holds counts as confirmed
// only as of the last look at the store's change counter, and older than MaxAge it confirms first, or refuses.
// Misses are not cached. It is safe for concurrent use; what it holds is shared and must not be changed.
type Cache struct {
	store  keystore.Store
	log    *slog.Logger
	now    func() time.Time
	writes *writes

	// confirming is a lock of one place for the look at the store, so that a caller can give up waiting for it.
	confirming chan struct{}

	mu        sync.RWMutex // guards what follows
	decoded   map[keystore.Ref]any
	epoch     uint64    // raised whenever something was dropped; a record read before must not be put in after
	mark      uint64    // the store's change counter at the last confirmation
	confirmed time.Time // when that look began
}

// New makes an empty cache over a store. Nothing confirms it by itself: run Poll, and WatchWrites.
func New(store keystore.Store, log *slog.Logger, now func() time.Time) *Cache {
	c := &Cache{
		store:      store,
		log:        log,
		now:        now,
		confirming: make(chan struct{}, 1),
		decoded:    map[keystore.Ref]any{},
	}
	c.writes = newWrites(store, log, c.lastMark)
	return c
}

// lastMark returns the store's change counter at the last confirmation.
func (c *Cache) lastMark() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.mark
}

// CachedOrFresh returns what decode makes of a record: from the cache if it holds the record, else as Fresh does. An error that
// is none of the store's: the cache cannot be confirmed.
func CachedOrFresh[T any](ctx context.Context, c *Cache, ref keystore.Ref, decode func(keystore.Record) (T, error)) (T, error) {
	if value, ok, err := Cached[T](ctx, c, ref); ok || err != nil {
		return value, err
	}
	return Fresh(ctx, c, ref, decode)
}

// Fresh returns what decode makes of a record that the store is asked for, and keeps it. A T that decode answers with an error
// is not kept; keystore.ErrNotFound when there is no such record.
func Fresh[T any](ctx context.Context, c *Cache, ref keystore.Ref, decode func(keystore.Record) (T, error)) (T, error) {
	var none T
	epoch := c.currentEpoch()
	rec, err := c.store.Get(ctx, ref)
	if err != nil {
		return none, err
	}
	value, err := decode(rec)
	if err != nil {
		return none, err
	}
	c.keep(ref, value, epoch)
	return value, nil
}

// Cached returns what the cache holds of a record, confirmed; ok tells whether it holds anything. The store is not asked for
// the record.
func Cached[T any](ctx context.Context, c *Cache, ref keystore.Ref) (value T, ok bool, err error) {
	decoded, current := c.confirmedNow(ref)
	if !current {
		if err := c.Confirm(ctx); err != nil {
			return value, false, fmt.Errorf("confirming cached records: %w", err)
		}
		decoded, _ = c.confirmedNow(ref)
	}
	value, ok = decoded.(T)
	return value, ok, nil
}

// confirmedNow returns what the cache holds, or nil; ok tells whether that is confirmed recently enough to count.
func (c *Cache) confirmedNow(ref keystore.Ref) (value any, ok bool) {
	now := c.now()
	c.mu.RLock()
	defer c.mu.RUnlock()
	age := now.Sub(c.confirmed)
	if age < 0 || age > MaxAge {
		return nil, false
	}
	return c.decoded[ref], true
}

// Peek returns what the cache holds of a record, confirmed or not, or nil.
func (c *Cache) Peek(ref keystore.Ref) any {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.decoded[ref]
}

func (c *Cache) currentEpoch() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.epoch
}

// keep puts a value in, unless something was dropped since its record was read.
func (c *Cache) keep(ref keystore.Ref, value any, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch {
		c.decoded[ref] = value
	}
}

// Confirm looks at the store's change counter and drops everything when it moved.
func (c *Cache) Confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ConfirmTimeout)
	defer cancel()
	select {
	case c.confirming <- struct{}{}:
		defer func() { <-c.confirming }()
	case <-ctx.Done():
		return fmt.Errorf("the store does not answer: %w", ctx.Err())
	}
	began := c.now()
	mark, err := c.store.Watermark(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if mark != c.mark {
		c.mark = mark
		c.drop()
	}
	c.confirmed = began
	return nil
}

// Drop forgets every record.
func (c *Cache) Drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
}

// drop forgets every record. The caller holds mu.
func (c *Cache) drop() {
	c.epoch++
	clear(c.decoded)
}

// Commit changes the store and makes sure that this process sees its own change at once.
func (c *Cache) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	begun := c.writes.now()
	version, err := c.store.Commit(ctx, changes...)
	c.writes.done(begun, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for _, change := range changes {
		delete(c.decoded, change.Ref)
	}
	return version, err
}

// Poll confirms every PollInterval until ctx ends. Failures are logged once; the age of the cache does the refusing.
func (c *Cache) Poll(ctx context.Context) {
	tick := time.NewTicker(PollInterval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := c.Confirm(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			c.log.Error("store does not confirm cached records", "error", err)
		}
		failing = err != nil
	}
}

// WatchWrites tries to write, after a Commit has failed, until one succeeds; it returns when ctx ends.
func (c *Cache) WatchWrites(ctx context.Context) { c.writes.watch(ctx) }

// WriteFailure returns why the store cannot be changed, as far as Commits and the attempts of WatchWrites tell, or nil.
func (c *Cache) WriteFailure() error { return c.writes.failure() }
