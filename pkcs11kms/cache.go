package pkcs11kms

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
)

const (
	pollInterval    = 250 * time.Millisecond
	maxCacheAge     = time.Second
	confirmPatience = 2 * time.Second // bounds how long one confirmation may take
)

// cache holds decoded records and knows how old that knowledge is. It fails closed: what it holds counts as confirmed
// only as of the last look at the store's change counter, and older than maxCacheAge it confirms first, or refuses.
// Misses are not cached. It is safe for concurrent use; what it holds is shared and must not be changed.
type cache struct {
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

func newCache(b *Bridge) *cache {
	c := &cache{
		store:      b.store,
		log:        b.log,
		now:        b.cfg.Now,
		confirming: make(chan struct{}, 1),
		decoded:    map[keystore.Ref]any{},
	}
	c.writes = newWrites(b.store, b.log, c.lastMark)
	return c
}

// lastMark returns the store's change counter at the last confirmation.
func (c *cache) lastMark() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.mark
}

// cachedRecord returns what decode makes of the record: from the cache, unless it must be fresh. A T that decode answers
// with an error is not kept; keystore.ErrNotFound when there is no such record.
func cachedRecord[T any](ctx context.Context, c *cache, ref keystore.Ref, fresh bool, decode func(keystore.Record) (T, error)) (T, error) {
	var none T
	if !fresh {
		if value, ok, err := held[T](ctx, c, ref); ok || err != nil {
			return value, err
		}
	}
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

// held returns what the cache holds of a record, confirmed; ok tells whether it holds anything. The record itself is not
// asked for.
func held[T any](ctx context.Context, c *cache, ref keystore.Ref) (value T, ok bool, err error) {
	decoded, current := c.confirmedNow(ref)
	if !current {
		if err := c.confirm(ctx); err != nil {
			return value, false, fmt.Errorf("confirming cached records: %w", err)
		}
		decoded, _ = c.confirmedNow(ref)
	}
	value, ok = decoded.(T)
	return value, ok, nil
}

// confirmedNow returns what the cache holds, or nil; ok tells whether that is confirmed recently enough to count.
func (c *cache) confirmedNow(ref keystore.Ref) (value any, ok bool) {
	now := c.now()
	c.mu.RLock()
	defer c.mu.RUnlock()
	age := now.Sub(c.confirmed)
	if age < 0 || age > maxCacheAge {
		return nil, false
	}
	return c.decoded[ref], true
}

// noted returns what the cache holds, confirmed or not.
func (c *cache) noted(ref keystore.Ref) any {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.decoded[ref]
}

func (c *cache) currentEpoch() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.epoch
}

// keep puts a value in, unless something was dropped since its record was read.
func (c *cache) keep(ref keystore.Ref, value any, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch {
		c.decoded[ref] = value
	}
}

// confirm looks at the store's change counter and drops everything when it moved.
func (c *cache) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmPatience)
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

// drop forgets every record. The caller holds mu.
func (c *cache) drop() {
	c.epoch++
	clear(c.decoded)
}

// commit changes the store and makes sure that this process sees its own change at once.
func (c *cache) commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
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

// poll confirms every pollInterval until ctx ends. Failures are logged once; the age of the cache does the refusing.
func (c *cache) poll(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := c.confirm(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			c.log.Error("store does not confirm cached records", "error", err)
		}
		failing = err != nil
	}
}
