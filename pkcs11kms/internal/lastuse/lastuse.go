// Package lastuse keeps when each access key was last used. A request only notes its time in memory; one goroutine writes
// what was noted to the store, every few minutes and at the end, so that requests never wait for it and the store
// is written to seldom. A process that is killed loses the uses since the last writing.
//
// The store holds one counter for each access key and region in which it was used: the time in seconds since 1970. So several
// processes can write, and a store with such counters can be read by every version of the program.
package lastuse

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

const (
	// Interval is how often a Recorder is meant to write.
	Interval = 5 * time.Minute
	// tolerance is by how much the store may lag behind without a write: other processes write the same keys. It is also how
	// far clocks may be apart.
	tolerance = time.Minute
	// tries bounds how often a batch is made anew because another process wrote one of its records.
	tries = 3
	// patience bounds the last writing.
	patience = 5 * time.Second
)

// counterPrefix begins the names of the counters; the access key id follows.
const counterPrefix = "access-key-used/"

// Use is the last use of an access key. The zero Use: it was never used.
type Use struct {
	At     time.Time // UTC, whole seconds
	Region string
}

// Store is what is needed of a keystore.Store.
type Store interface {
	Get(context.Context, keystore.Ref) (keystore.Record, error)
	Commit(context.Context, ...keystore.Change) (uint64, error)
}

// Recorder notes uses and writes them. Note is safe for concurrent use; Run and Write are for one goroutine.
type Recorder struct {
	Store   Store
	Account string
	Now     func() time.Time
	Log     *slog.Logger

	mu    sync.RWMutex         // guards the map, not what it points to
	noted map[keyRegion]*stamp // at most one for each access key and region that there is
}

type keyRegion struct{ id, region string }

// stamp is the time of a use in seconds since 1970.
type stamp struct {
	last    atomic.Int64
	written int64 // what of it is in the store; owned by the goroutine of Run
}

// Note says that an access key was used now. It touches memory only.
func (r *Recorder) Note(id, region string) {
	k, now := keyRegion{id, region}, r.Now().Unix()
	r.mu.RLock()
	s := r.noted[k]
	r.mu.RUnlock()
	if s == nil {
		s = r.add(k)
	}
	if s.last.Load() != now { // a second's worth of requests shares the cache line
		s.last.Store(now)
	}
}

func (r *Recorder) add(k keyRegion) *stamp {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.noted == nil {
		r.noted = map[keyRegion]*stamp{}
	}
	if r.noted[k] == nil {
		r.noted[k] = &stamp{}
	}
	return r.noted[k]
}

// Run writes at every tick until ctx ends, and then a last time.
func (r *Recorder) Run(ctx context.Context, tick <-chan time.Time) {
	failing := false
	write := func(ctx context.Context, least time.Duration) {
		err := r.Write(ctx, least)
		if err != nil && !failing {
			r.Log.Warn("the last uses of access keys are not written", "error", err)
		}
		failing = err != nil
	}
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			defer cancel()
			write(last, 0)
			return
		case <-tick:
			write(ctx, tolerance)
		}
	}
}

// Write writes the uses that are newer than the store's by more than least. What fails is tried again by the next Write.
func (r *Recorder) Write(ctx context.Context, least time.Duration) error {
	pending := r.pending()
	for len(pending) > 0 {
		n := min(len(pending), keystore.MaxChanges)
		var err error
		for range tries {
			if err = r.writeBatch(ctx, pending[:n], least); !errors.Is(err, keystore.ErrConflict) {
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
type use struct {
	keyRegion
	stamp *stamp
	at    int64
}

func (r *Recorder) pending() (list []use) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for k, s := range r.noted {
		if at := s.last.Load(); at > 0 && at != s.written {
			list = append(list, use{k, s, at})
		}
	}
	return list
}

func (r *Recorder) writeBatch(ctx context.Context, batch []use, least time.Duration) error {
	var changes []keystore.Change
	var writing []use
	for _, u := range batch {
		counter, version, err := read(ctx, r.Store, r.Account, u.id, u.region)
		if err != nil {
			return err
		}
		// A time that is yet to come is of a clock that was wrong.
		newer := u.at - int64(counter.N)
		if ahead := int64(counter.N) - r.Now().Unix(); newer <= int64(least/time.Second) && ahead <= int64(tolerance/time.Second) {
			continue
		}
		counter.N = int(u.at)
		changes = append(changes, counter.Put(version))
		writing = append(writing, u)
	}
	if len(changes) == 0 {
		return nil
	}
	if _, err := r.Store.Commit(ctx, changes...); err != nil {
		return err
	}
	for _, u := range writing {
		u.stamp.written = u.at
	}
	return nil
}

// Read returns the last use of an access key in any of the regions that the store knows of.
func Read(ctx context.Context, store Store, account, id string, regions []string) (last Use, err error) {
	for _, region := range regions {
		counter, version, err := read(ctx, store, account, id, region)
		if err != nil {
			return Use{}, err
		}
		if at := time.Unix(int64(counter.N), 0).UTC(); version > 0 && at.After(last.At) {
			last = Use{at, region}
		}
	}
	return last, nil
}

func read(ctx context.Context, store Store, account, id, region string) (keystore.Counter, uint64, error) {
	return records.ReadCounter(ctx, store, region, account, counterPrefix+id)
}
