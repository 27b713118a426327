package lastuse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/lastuse"
)

const (
	account = "111122223333"
	region  = "us-west-2"
	id      = "AKIAIOSFODNN7EXAMPLE"
	minute  = time.Minute
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// counting is a store that counts its commits; before runs before each, and its error is the commit's.
type counting struct {
	keystore.Store
	mu      sync.Mutex // guards commits and reads
	commits int
	reads   int
	before  func() error
}

func (c *counting) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	c.mu.Lock()
	c.reads++
	c.mu.Unlock()
	return c.Store.Get(ctx, ref)
}

func (c *counting) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	c.mu.Lock()
	c.commits++
	c.mu.Unlock()
	if c.before != nil {
		if err := c.before(); err != nil {
			return 0, err
		}
	}
	return c.Store.Commit(ctx, changes...)
}

func (c *counting) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commits
}

// process is one of the processes that share a store: what notes its uses, its store and its clock.
type process struct {
	*lastuse.AccessKeys
	keys  *lastuse.Keys
	store *counting
	now   time.Time
	log   *bytes.Buffer
}

func newPath(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(path))
	return path
}

func newProcess(t *testing.T, path string) *process {
	store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	p := &process{store: &counting{Store: store}, now: began, log: &bytes.Buffer{}}
	now, log := func() time.Time { return p.now }, slog.New(slog.NewTextHandler(p.log, nil))
	p.AccessKeys, p.keys = lastuse.NewAccessKeys(p.store, now, log), lastuse.NewKeys(p.store, now, log)
	return p
}

func (p *process) use(id, region string) {
	p.Note(lastuse.AccessKey{Account: account, ID: id, Region: region}, struct{}{})
}

func (p *process) used(t *testing.T) lastuse.Use {
	t.Helper()
	use, err := lastuse.ReadAccessKey(t.Context(), p.store, account, id, []string{"eu-west-1", region})
	require.NoError(t, err)
	return use
}

func (p *process) write(t *testing.T, last bool) {
	t.Helper()
	require.NoError(t, p.Write(t.Context(), last))
}

// TestARequestWritesNothing: a use is in the store when the owner has written it, and in no other way.
func TestARequestWritesNothing(t *testing.T) {
	p := newProcess(t, newPath(t))
	assert.Zero(t, p.used(t))
	for range 1000 {
		p.now = p.now.Add(time.Second)
		p.use(id, region)
	}
	assert.Zero(t, p.store.count())
	assert.Zero(t, p.used(t))
	p.write(t, false)
	assert.Equal(t, lastuse.Use{At: began.Add(1000 * time.Second), Region: region}, p.used(t))
	assert.Equal(t, 1, p.store.count())
}

// TestNotingAllocatesNothing: what lies on the way of every request leaves no garbage.
func TestNotingAllocatesNothing(t *testing.T) {
	p := newProcess(t, newPath(t))
	p.use(id, region)
	assert.Zero(t, testing.AllocsPerRun(1000, func() { p.use(id, region) }))
	key := lastuse.Key{Region: region, Account: account, ID: id}
	use := lastuse.KeyUse{Operation: "GenerateMac", Event: uuid.New(), RequestID: "r"}
	p.keys.Note(key, use)
	assert.Zero(t, testing.AllocsPerRun(1000, func() {
		p.now = p.now.Add(time.Second)
		p.keys.Note(key, use)
	}))
}

// TestWritingIsSeldom: one commit for 64 access keys, none without news, and none for news of less than a minute.
func TestWritingIsSeldom(t *testing.T) {
	p := newProcess(t, newPath(t))
	for i := range 65 {
		p.use(fmt.Sprintf("AKIA%016d", i), region)
	}
	p.write(t, false)
	assert.Equal(t, 2, p.store.count())
	reads := p.store.reads
	p.write(t, false)
	p.write(t, true)
	assert.Equal(t, 2, p.store.count(), "nothing new")
	assert.Equal(t, reads, p.store.reads, "which is known without a look at the store")

	p.use(id, region)
	p.write(t, false)
	assert.Equal(t, 3, p.store.count())
	p.now = p.now.Add(minute)
	p.use(id, region)
	p.write(t, false)
	assert.Equal(t, 3, p.store.count())
	p.write(t, true)
	assert.Equal(t, 4, p.store.count(), "at the end everything is written")
	assert.Equal(t, began.Add(minute), p.used(t).At)
	p.now = p.now.Add(minute + time.Second)
	p.use(id, region)
	p.write(t, false)
	assert.Equal(t, 5, p.store.count())
}

// TestProcessesShareAStore: the latest use counts, whoever saw it and whoever writes last, and the region is that of the use.
func TestProcessesShareAStore(t *testing.T) {
	path := newPath(t)
	p, other := newProcess(t, path), newProcess(t, path)
	p.use(id, region)
	p.now, other.now = began.Add(time.Hour), began.Add(time.Hour)
	other.use(id, region)
	other.write(t, true)
	p.write(t, true)
	assert.Equal(t, lastuse.Use{At: began.Add(time.Hour), Region: region}, p.used(t))
	assert.Zero(t, p.store.count(), "what is older is not written")

	p.now = began.Add(2 * time.Hour)
	p.use(id, "eu-west-1")
	p.write(t, true)
	assert.Equal(t, lastuse.Use{At: began.Add(2 * time.Hour), Region: "eu-west-1"}, other.used(t))

	// One writes between the other's look and its commit.
	p.now = began.Add(3 * time.Hour)
	p.use(id, region)
	p.now, other.now = began.Add(4*time.Hour), began.Add(4*time.Hour)
	other.use(id, region)
	p.store.before = func() error {
		p.store.before = nil
		return other.Write(t.Context(), true)
	}
	p.write(t, true)
	assert.Equal(t, began.Add(4*time.Hour), p.used(t).At)
}

// TestAClockThatWasWrong: a time in the future is replaced; one that another process wrote just now is not taken for one.
func TestAClockThatWasWrong(t *testing.T) {
	path := newPath(t)
	p, other := newProcess(t, path), newProcess(t, path)
	other.now = began.Add(30 * time.Second)
	other.use(id, region)
	other.write(t, true)
	p.use(id, region)
	p.write(t, true)
	assert.Equal(t, began.Add(30*time.Second), p.used(t).At)
	other.now = began.AddDate(10, 0, 0)
	other.use(id, region)
	other.write(t, true)
	p.now = began.Add(time.Second)
	p.use(id, region)
	p.write(t, false)
	assert.Equal(t, began.Add(time.Second), p.used(t).At)
}

// TestFailuresAreTriedAgain: told once, and nothing is lost.
func TestFailuresAreTriedAgain(t *testing.T) {
	p := newProcess(t, newPath(t))
	p.store.before = func() error { return errors.New("disk is full") }
	p.use(id, region)
	tick, done := make(chan time.Time), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		p.RunBy(ctx, tick)
	}()
	tick <- began
	tick <- began
	tick <- began // the second one is over
	stop()
	<-done
	assert.Equal(t, 1, strings.Count(p.log.String(), "disk is full"), "%s", p.log)
	p.store.before = nil
	p.write(t, false)
	assert.Equal(t, began, p.used(t).At)
}

// TestTheEndWrites: at a tick, and when the process is told to end, which must not lose what was noted since.
func TestTheEndWrites(t *testing.T) {
	p := newProcess(t, newPath(t))
	tick, done := make(chan time.Time), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	p.use(id, region)
	go func() {
		defer close(done)
		p.RunBy(ctx, tick)
	}()
	tick <- began
	tick <- began // the first one is over
	assert.Equal(t, began, p.used(t).At)
	other := newProcess(t, newPath(t))
	other.use(id, region)
	ended, end := context.WithCancel(t.Context())
	end()
	other.RunBy(ended, tick)
	assert.Equal(t, began, other.used(t).At)
	stop()
	<-done
}
