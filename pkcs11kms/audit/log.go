package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Fsync says what is on the disk before a call is answered.
type Fsync string

// The values of Fsync. A record has been handed to the system before the answer in any case: it outlives the process, however that ends.
const (
	// FsyncGroup waits for the disk before a change is made and before it is answered; those that wait at one time share one wait. What
	// only reads or uses a key is on the disk within a second: a power cut may lose that second.
	FsyncGroup  Fsync = "group"
	FsyncAlways Fsync = "always" // waits for the disk before every answer
	FsyncOff    Fsync = "off"    // leaves it to the system: for trying out
)

// The defaults of Options.
const (
	DefaultRotateBytes = 64 << 20
	DefaultRotateAge   = 24 * time.Hour
)

// Options say how a Log works. The zero value is right for most.
type Options struct {
	Fsync       Fsync         // default FsyncGroup
	RotateBytes int64         // a file that has become so long is closed and compressed; default DefaultRotateBytes
	RotateAge   time.Duration // as is one that is so old; default DefaultRotateAge
	Logger      *slog.Logger  // what an operator must know; default: nothing is logged
	Now         func() time.Time

	Stdout *os.File       // takes the records, too: standard output
	Syslog *SyslogOptions // takes the records, too
	queued int            // how many records may wait for a sink; 0: as many as is promised

	// Seals are made so often when there is something new, and when there is nothing: see Log.SealBy. The defaults are DefaultSealInterval
	// and DefaultSealIdle.
	SealInterval, SealIdle time.Duration
	// What has been in closed files for so long is removed by whoever seals the log, as are the oldest while all files have more bytes than
	// that: see sealing.expire. Default: nothing is.
	KeepAge   time.Duration
	KeepBytes int64

	NoTokenSeal bool // the token is not to keep the last seal, and what it keeps is not compared
}

func (o Options) withDefaults() Options {
	if o.Fsync == "" {
		o.Fsync = FsyncGroup
	}
	if o.RotateBytes <= 0 {
		o.RotateBytes = DefaultRotateBytes
	}
	if o.RotateAge <= 0 {
		o.RotateAge = DefaultRotateAge
	}
	if o.SealInterval <= 0 {
		o.SealInterval = DefaultSealInterval
	}
	if o.SealIdle <= 0 {
		o.SealIdle = DefaultSealIdle
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// ErrClosed says that a Log was used after its end.
var ErrClosed = errors.New("the audit log is closed")

// Log is a Writer to the files of a directory: one chain of records, which no other process writes to meanwhile. Records of calls at one
// time share a write, and one who waits for it makes it: besides, one goroutine syncs, rotates and compresses. Make one by Open, and
// close it in the end. It is safe for concurrent use.
//
// A write, or a sync that was waited for, that fails is the answer of the calls whose records it had, and Health tells it until one
// succeeds.
type Log struct {
	dir string
	o   Options

	mu      sync.Mutex // guards what follows; syncing is never taken under it
	place   link       // of the record that was put last: prev is the hash that the next one has
	filling *batch     // what is put goes there
	leading bool       // somebody writes, or is told to
	shared  bool       // the last batch had several records
	turns   uint       // of gather
	end     int64      // of the file, once all that was put is written

	file      *os.File
	current   file
	began     time.Time        // the file
	written   link             // place of the last record in the file
	size      int64            // of the file, of whole records
	allocated int64            // up to where the file system keeps room
	cannot    bool             // the file system keeps none
	kept      map[string]int64 // for the outcomes of intents, by the id of the request
	reserved  int64            // the sum of them
	limit     int64            // of the file's length
	failed    error            // since the last success
	torn      bool             // what is beyond size must go before anything is written
	since     time.Time        // when the write began that goes on; zero: none does
	suspect   bool             // the file is not to be written to any more: a sync has failed, or it is not where it was
	unsynced  error            // of the file: why a sync has failed
	closing   []closedFile     // before the file, in their order
	wanted    bool             // a rotation
	retry     time.Time        // no rotation before
	closed    bool
	sealed    bool       // there is a Sealer
	fresh     time.Time  // since when there is a record that no seal covers; zero: there is none
	taken     time.Time  // fresh, of what is being sealed
	sealErr   error      // why the last seal could not be made
	idle      *sync.Cond // of mu: nobody is leading

	sealTurn sync.Mutex // held while a seal is made: none is written after a handover whose signature was made before it

	syncing   sync.Mutex    // held while syncing; guards missing
	missing   missing       // the last ones
	synced    atomic.Uint64 // the number of the last record that is on the disk
	syncBegan atomic.Int64  // when the sync began that goes on, in nanoseconds of Unix; 0: none does

	lock   *os.File
	full   atomic.Bool // the disk, so that nothing is done
	free   atomic.Uint64
	counts counts
	packer packer
	nudge  chan struct{}    // has one when a seal is to be made soon
	shut   chan struct{}    // has one where there are files in closing
	aside  []map[string]any // what was laid aside at the opening
	sinks  []*shipper
	ended  sync.Once // sinks
	stop   chan struct{}
	tasks  sync.WaitGroup
	buffer sync.Pool // *[]byte of records being made
}

var (
	_ Writer  = (*Log)(nil)
	_ Watched = (*Log)(nil)
)

// counts are for Stats.
type counts struct{ records, writes, syncs, failures, seals, sealFailures atomic.Uint64 }

// Stats are what a Log has done since it was opened, and how it is.
type Stats struct {
	Records, Writes, Syncs, Failures uint64
	FreePercent                      float64 // of the file system
	Sinks                            []SinkStats
	Healthy                          bool
	Seals, SealFailures              uint64
	Unsealed                         time.Duration // since when there is a record that no seal covers; 0: there is none
}

// Stats returns them.
func (l *Log) Stats() Stats {
	s := Stats{Records: l.counts.records.Load(), Writes: l.counts.writes.Load(), Syncs: l.counts.syncs.Load(),
		Failures: l.counts.failures.Load(), FreePercent: float64(l.free.Load()) / 100, Healthy: l.Health() == nil,
		Seals: l.counts.seals.Load(), SealFailures: l.counts.sealFailures.Load()}
	for _, sink := range l.sinks {
		s.Sinks = append(s.Sinks, sink.stats())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if since := l.unsealedSince(); l.sealed && !since.IsZero() {
		s.Unsealed = time.Since(since)
	}
	return s
}

// Health returns why nothing can be recorded, or nil.
func (l *Log) Health() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return ErrClosed
	case l.failed != nil:
		return l.failed
	case l.hangs():
		return errHangs
	case l.full.Load():
		return l.fullError()
	}
	return nil
}

// Warning tells of little room, and of seals that cannot be made; it is empty when there is nothing.
func (l *Log) Warning() string {
	var all []string
	for _, text := range []string{l.spaceWarning(), l.sealWarning()} {
		if text != "" {
			all = append(all, text)
		}
	}
	return strings.Join(all, "; ")
}

func (l *Log) spaceWarning() string {
	free := float64(l.free.Load()) / 100
	switch {
	case free <= spaceVeryLow:
		return fmt.Sprintf("the disk of the audit log has only %.1f %% left; at %d %% nothing is answered any more", free, spaceRefusing)
	case free <= spaceLow:
		return fmt.Sprintf("the disk of the audit log has %.1f %% left", free)
	}
	return ""
}

func (l *Log) fullError() error {
	return &fullError{fmt.Sprintf("%.1f %% of the disk of %q are left, and nothing is done at %d %%", float64(l.free.Load())/100, l.dir,
		spaceRefusing), makeRoom}
}

// Intend implements Writer. It keeps the room that the record of the call's end may need, so that a disk that is full refuses before
// anything is done.
func (l *Log) Intend(_ context.Context, e Event) error { return l.take(&e) }

// Record implements Writer.
func (l *Log) Record(_ context.Context, e Event) error { return l.take(&e) }

// take records an event.
func (l *Log) take(e *Event) error {
	buf, _ := l.buffer.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	now := l.o.Now()
	*buf = appendOpen((*buf)[:0], e, now)
	records, owners := uint64(1), []byte(nil)
	if e.Across != nil {
		if other, ok := e.ForOwner(); ok {
			records, owners = 2, appendOpen(nil, &other, now)
		}
	}
	seq, err := l.put(*buf, owners, e)
	if cap(*buf) <= 64<<10 {
		l.buffer.Put(buf)
	}
	if err == nil && l.waits(e) {
		err = l.sync(seq)
	}
	if err != nil {
		if e.Kind == Intent {
			l.release(e.RequestID) // there will be no outcome
		}
		l.counts.failures.Add(1)
		return fmt.Errorf("writing the audit log: %w", err)
	}
	l.counts.records.Add(records)
	return nil
}

// waits tells whether a record must be on the disk before its call goes on.
func (l *Log) waits(e *Event) bool {
	changes := e.Kind == Intent || e.Intended || e.Kind == Seal
	return l.o.Fsync == FsyncAlways || l.o.Fsync == FsyncGroup && changes
}

// Close writes what is to be written, and lets others continue the chain. Its sinks have three seconds for what waits for them; what they
// have not taken then is told in the chain.
func (l *Log) Close() error {
	l.ended.Do(l.endSinks)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	for l.leading {
		l.idle.Wait()
	}
	l.mu.Unlock()
	close(l.stop)
	l.tasks.Wait()
	l.settled()
	var err error
	if l.o.Fsync != FsyncOff {
		err = l.sync(l.lastWritten())
	}
	l.packer.rest(l.o.Logger)
	l.mu.Lock()
	defer l.mu.Unlock()
	if truncateErr := l.file.Truncate(l.size); err == nil { // gives back what was kept, and what is torn
		err = truncateErr
	}
	return errors.Join(err, closeAll(l.file, l.lock))
}

func (l *Log) lastWritten() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written.seq
}

func closeAll(closers ...io.Closer) (err error) {
	for _, c := range closers {
		err = errors.Join(err, c.Close())
	}
	return err
}
