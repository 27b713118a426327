package records

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/pkcs11kms/bridge/keystore"
)

const (
	PollInterval   = 250 * time.Millisecond // between two looks of Poll
	MaxAge         = time.Second            // of a confirmation that counts
	ConfirmTimeout = 2 * time.Second        // bounds how long one confirmation may take
)

// maxCached bounds how many records a Cache holds. A store may have more: what was not used for longest makes room.
const maxCached = 1 << 16

// Cache holds decoded records and knows how old that knowledge is. It fails closed: what it holds counts as confirmed
// only as of the last look at what has changed in the store, and older than MaxAge it confirms first, or refuses. A look drops
// the records that have changed, and all where the store cannot tell which. Misses are not cached. It is safe for concurrent
// use; what it holds is shared and must not be changed.
type Cache struct {
	store  keystore.Store
	log    *slog.Logger
	now    func() time.Time
	writes *writes

	// confirming is a lock of one place for the look at the store, so that a caller can give up waiting for it.
	confirming chan struct{}

	mu        sync.Mutex // guards what follows
	decoded   *simplelru.LRU[keystore.Ref, any]
	displaced uint64 // records that have made room for others
	reads     reads
	drops     atomic.Uint64 // see Drops; grows while mu is held
	mark      keystore.Mark // the moment of the store at the last confirmation
	confirmed time.Time     // when that look began
}

// Dropped is implemented by values that keep something scarce somewhere else. It is called when a cache forgets the value, since its record
// has changed or there is no more room, and must not wait for anything.
type Dropped interface{ Dropped() }

func told(_ keystore.Ref, value any) {
	if d, ok := value.(Dropped); ok {
		d.Dropped()
	}
}

// New makes an empty cache over a store. Nothing confirms it by itself: run Poll, and WatchWrites.
func New(store keystore.Store, log *slog.Logger, now func() time.Time) *Cache {
	return newOf(maxCached, store, log, now)
}

func newOf(size int, store keystore.Store, log *slog.Logger, now func() time.Time) *Cache {
	decoded, err := simplelru.NewLRU(size, told)
	if err != nil {
		panic(err) // it refuses a size of 0
	}
	c := &Cache{
		store:      store,
		log:        log,
		now:        now,
		confirming: make(chan struct{}, 1),
		decoded:    decoded,
		reads:      reads{},
	}
	c.writes = newWrites(store, log, c.lastMark)
	return c
}

// lastMark returns the moment of the store at the last confirmation.
func (c *Cache) lastMark() keystore.Mark {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mark
}

// CachedOrFresh returns what decode makes of a record: from the cache if it holds the record, else as Fresh does. A cache
// that cannot be confirmed is an error.
func CachedOrFresh[T any](ctx context.Context, c *Cache, ref keystore.Ref, decode func(keystore.Record) (T, error)) (T, error) {
	if value, ok, err := Cached[T](ctx, c, ref); ok || err != nil {
		return value, err
	}
	return Fresh(ctx, c, ref, decode)
}

// Fresh returns what decode makes of a record that the store is asked for, and keeps it. A T that decode answers with an error
// is not kept; keystore.ErrNotFound when there is no such record.
func Fresh[T any](ctx context.Context, c *Cache, ref keystore.Ref, decode func(keystore.Record) (T, error)) (T, error) {
	value, err := c.read(ctx, ref, func(rec keystore.Record) (any, error) { return decode(rec) })
	if err != nil {
		var none T
		return none, err
	}
	return value.(T), nil
}

// read reads, decodes and keeps a record, unless it was dropped meanwhile: then it may have been read before the change.
func (c *Cache) read(ctx context.Context, ref keystore.Ref, decode func(keystore.Record) (any, error)) (any, error) {
	c.mu.Lock()
	r := c.reads.begin(ref)
	c.mu.Unlock()
	var value any
	rec, err := c.store.Get(ctx, ref)
	if err == nil {
		value, err = decode(rec)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if current := c.reads.end(ref, r); current && err == nil {
		if c.decoded.Add(ref, value) {
			c.displaced++
		}
	}
	return value, err
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
	c.mu.Lock()
	defer c.mu.Unlock()
	age := now.Sub(c.confirmed)
	if age < 0 || age > MaxAge {
		return nil, false
	}
	value, _ = c.decoded.Get(ref)
	return value, true
}

// Stats returns how many records are held now, and how many have made room for others since New.
func (c *Cache) Stats() (held int, displaced uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.decoded.Len(), c.displaced
}

// Peek returns what the cache holds of a record, confirmed or not, or nil.
func (c *Cache) Peek(ref keystore.Ref) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, _ := c.decoded.Peek(ref)
	return value
}

// Confirm looks at what has changed in the store, and drops that.
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
	changed, err := c.store.ChangedSince(ctx, c.lastMark())
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if changed.All {
		c.dropAll()
	}
	for _, ref := range changed.Refs {
		c.drop(ref)
	}
	c.mark, c.confirmed = changed.Now, began
	return nil
}

// Drops counts the records that were forgotten since they have, or may have, changed. While it stays the same, what was made of several
// records that the cache had confirmed, after Drops was asked, is as current as they are.
func (c *Cache) Drops() uint64 { return c.drops.Load() }

// drop forgets a record, also one that is just being read. The caller holds mu.
func (c *Cache) drop(ref keystore.Ref) {
	c.drops.Add(1)
	c.decoded.Remove(ref)
	c.reads.outdate(ref)
}

// dropAll forgets every record. The caller holds mu.
func (c *Cache) dropAll() {
	c.drops.Add(1)
	c.decoded.Purge()
	c.reads.outdateAll()
}

// Drop forgets every record.
func (c *Cache) Drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropAll()
}

// Commit changes the store and makes sure that this process sees its own change at once. A Commit that fails may have been
// made all the same, and what it has only checked is not what the cache holds.
func (c *Cache) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	begun := c.writes.now()
	version, err := c.store.Commit(ctx, changes...)
	c.writes.done(begun, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, change := range changes {
		if change.Op != keystore.Check || err != nil {
			c.drop(change.Ref)
		}
	}
	return version, err
}

// Direct returns the store with the Commits of the cache: for records that no cache holds.
func (c *Cache) Direct() Direct { return Direct{c} }

// Direct is what Cache.Direct returns.
type Direct struct{ c *Cache }

// Get asks the store.
func (d Direct) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	return d.c.store.Get(ctx, ref)
}

// Commit is the cache's.
func (d Direct) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	return d.c.Commit(ctx, changes...)
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
