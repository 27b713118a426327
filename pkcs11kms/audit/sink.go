package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// sink is where records go beside the files. One goroutine calls it, but for close, which comes after.
type sink interface {
	name() string
	// send hands over what follows what it was given before. After an error it is called with the same again.
	send(ctx context.Context, b bundle) error
	// lost has one where something that was sent before must be sent again: by send, with an empty bundle where there is nothing else.
	lost() <-chan struct{}
	// close ends it, and returns what it was given and cannot say of that it was taken.
	close() (unsure gap, err error)
}

// bundle is lines of records that follow each other, each with its line end.
type bundle struct {
	first   uint64 // the number of the first one
	records int
	lines   []byte
}

// The bounds of what waits for a sink, and how much of it is handed over at once.
const (
	maxQueuedRecords = 64 << 10
	maxQueuedBytes   = 32 << 20
	bundleBytes      = 64 << 10
)

// How long the end of a log waits for its sinks; how long one that fails is left alone, at first and at most; and how often it is told in
// the chain that one takes no records.
const (
	sinkEndsAfter = 3 * time.Second
	firstPause    = 100 * time.Millisecond
	longestPause  = 30 * time.Second
	tellEvery     = time.Minute
)

// shipper carries records to a sink by a goroutine of its own. Nobody waits for it: what there is no room for is counted, and told in the
// chain.
type shipper struct {
	sink sink
	log  *slog.Logger
	most int // records in the queue
	stop context.CancelFunc
	done chan struct{} // closed when the goroutine has ended

	some      chan struct{} // has one when something has been put, or the end has come
	ending    atomic.Bool
	up        atomic.Bool
	delivered atomic.Uint64
	dropped   atomic.Uint64

	mu      sync.Mutex // guards the rest
	bundles []bundle
	records int // of bundles, and of what is being sent
	bytes   int
	gap     gap
	told    time.Time // when a gap was told last
}

// gap is records that were not put into a queue.
type gap struct {
	from, to uint64
	records  uint64
	own      uint64 // of them, those that only tell of a gap
	goesOn   bool   // nothing was put since
}

// add makes one gap of two.
func (g gap) add(more gap) gap {
	switch {
	case more.records == 0:
		return g
	case g.records > 0:
		more.from, more.to = min(g.from, more.from), max(g.to, more.to)
	}
	more.records += g.records
	more.own += g.own
	return more
}

// SinkStats is how a sink has done since the log was opened.
type SinkStats struct {
	Name      string // stdout or syslog
	Delivered uint64 // records that were handed over
	Dropped   uint64 // records that there was no room for
	Queued    int    // records that wait
	Up        bool   // what was handed over last was taken
}

// ErrSink says that a sink cannot be what the options say.
var ErrSink = errors.New("a sink of the audit log cannot be used")

// sinks makes them. It asks no peer.
func (o Options) sinks() (sinks []sink, err error) {
	if o.Syslog != nil {
		s, err := newSyslogSink(*o.Syslog)
		if err != nil {
			return nil, fmt.Errorf("%w: syslog: %w", ErrSink, err)
		}
		sinks = append(sinks, s)
	}
	if o.Stdout != nil {
		s, err := newStream(o.Stdout)
		if err != nil {
			return nil, fmt.Errorf("%w: stdout: %w", ErrSink, err)
		}
		sinks = append(sinks, s)
	}
	return sinks, nil
}

func newShipper(s sink, o Options) *shipper {
	ctx, stop := context.WithCancel(context.Background())
	sh := &shipper{sink: s, log: o.Logger.With("sink", s.name()), most: maxQueuedRecords, stop: stop, done: make(chan struct{}),
		some: make(chan struct{}, 1)}
	if o.queued > 0 {
		sh.most = o.queued
	}
	sh.up.Store(true)
	go sh.run(ctx)
	return sh
}

func (s *shipper) stats() SinkStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SinkStats{s.sink.name(), s.delivered.Load(), s.dropped.Load(), s.records, s.up.Load()}
}

// put takes the lines of a batch, or none of them. It never waits for the sink.
func (s *shipper) put(b bundle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records+b.records > s.most || s.bytes+len(b.lines) > maxQueuedBytes {
		s.miss(b)
		return
	}
	s.gap.goesOn = false
	s.records += b.records
	s.bytes += len(b.lines)
	if n := len(s.bundles) - 1; n >= 0 && s.bundles[n].follows(b) && len(s.bundles[n].lines)+len(b.lines) <= bundleBytes {
		s.bundles[n].lines = append(s.bundles[n].lines, b.lines...)
		s.bundles[n].records += b.records
	} else {
		b.lines = append(make([]byte, 0, max(len(b.lines), 4<<10)), b.lines...)
		s.bundles = append(s.bundles, b)
	}
	s.wake()
}

// follows tells whether another bundle is what comes after this one.
func (b bundle) follows(next bundle) bool { return b.first+uint64(b.records) == next.first }

func (s *shipper) wake() {
	select {
	case s.some <- struct{}{}:
	default:
	}
}

// miss counts what is not put. mu is held.
func (s *shipper) miss(b bundle) {
	n := uint64(b.records)
	s.gap = s.gap.add(gap{from: b.first, to: b.first + n - 1, records: n, own: uint64(bytes.Count(b.lines, []byte(notDeliveredName))),
		goesOn: true})
	s.dropped.Add(n)
}

// toTell returns what is to be told in the chain now: a gap that has ended, and one that goes on each minute. end: whatever there is.
func (s *shipper) toTell(now time.Time, end bool) (g gap, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gap.records == 0 {
		return g, false
	}
	if s.gap.goesOn && s.records > s.most/2 && !end && (s.gap.records == s.gap.own || now.Sub(s.told) < tellEvery) {
		return g, false
	}
	g, s.gap, s.told = s.gap, gap{}, now
	return g, true
}

// back puts a gap back that could not be told.
func (s *shipper) back(g gap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gap = g.add(s.gap)
}

// take waits for something to be sent. It reports false at the end.
func (s *shipper) take(ctx context.Context) (b bundle, ok bool) {
	for {
		s.mu.Lock()
		if len(s.bundles) > 0 {
			b, s.bundles = s.bundles[0], s.bundles[1:]
			s.mu.Unlock()
			return b, true
		}
		s.mu.Unlock()
		if s.ending.Load() {
			return b, false
		}
		select {
		case <-s.some:
		case <-s.sink.lost():
			return b, true
		case <-ctx.Done():
			return b, false
		}
	}
}

// run sends what is put until the end.
func (s *shipper) run(ctx context.Context) {
	defer close(s.done)
	var f failures
	for {
		b, ok := s.take(ctx)
		if !ok {
			return
		}
		for {
			err := s.sink.send(ctx, b)
			if err == nil {
				break
			}
			pause, say := f.next(time.Now(), err)
			if s.up.Store(false); say {
				s.log.Warn("a sink of the audit log takes no records: they are in the files, and wait for it as far as there is room",
					"error", err)
			}
			if s.ending.Load() || !s.rest(ctx, pause) {
				s.unsent(b)
				return
			}
		}
		if !s.up.Swap(true) {
			s.log.Info("a sink of the audit log takes records")
		}
		s.sent(b)
	}
}

// failures are those of a sink that come soon after each other.
type failures struct {
	pause      time.Duration
	last, said time.Time
	text       string // that was said
}

// next returns how long the sink is to be left alone, and whether it is to be logged.
func (f *failures) next(now time.Time, err error) (pause time.Duration, say bool) {
	f.pause = min(2*f.pause, longestPause)
	if now.Sub(f.last) > 2*longestPause {
		f.pause = firstPause
	}
	f.last = now
	if say = now.Sub(f.said) >= tellEvery || err.Error() != f.text; say {
		f.said, f.text = now, err.Error()
	}
	return f.pause + rand.N(f.pause/4), say
}

// rest waits before the next try. It reports false when the end has come.
func (s *shipper) rest(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		case <-s.some:
			if s.ending.Load() {
				return true // one try more
			}
		}
	}
}

// sent counts what was handed over.
func (s *shipper) sent(b bundle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records -= b.records
	s.bytes -= len(b.lines)
	s.delivered.Add(uint64(b.records))
}

// unsent puts back what could not be handed over, to be counted.
func (s *shipper) unsent(b bundle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.records > 0 {
		s.bundles = append([]bundle{b}, s.bundles...)
	}
}

// end sends what waits, for so long at most, and ends the goroutine. What is put from then on, and what was not sent, counts as dropped.
func (s *shipper) end(wait time.Duration) {
	timer := time.AfterFunc(wait, s.stop)
	defer timer.Stop()
	s.ending.Store(true)
	s.wake()
	<-s.done
	s.stop()
	unsure, err := s.sink.close()
	if err != nil {
		s.log.Warn("the end of a sink of the audit log", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gap = s.gap.add(unsure)
	for _, b := range s.bundles {
		s.miss(b)
	}
	s.bundles, s.records, s.bytes, s.most = nil, 0, 0, -1
}

// notDelivered is an event of the log's own: a sink has not taken some records. additionalEventData tells the sink, how many, and between
// which numbers of this chain.
const (
	notDelivered     = "AuditRecordsNotDelivered"
	notDeliveredName = `"eventName":"` + notDelivered + `"`
)

// tellGaps tells in the chain what the sinks have not taken.
func (l *Log) tellGaps(end bool) {
	for _, s := range l.sinks {
		g, ok := s.toTell(time.Now(), end)
		if !ok {
			continue
		}
		what := map[string]any{"sink": s.sink.name(), "records": g.records, "from": g.from, "to": g.to}
		if err := l.tell(notDelivered, what); err != nil { // logged, and tried again
			s.back(g)
			continue
		}
		s.log.Error("a sink of the audit log did not get some records: they are in the files alone", "records", g.records,
			"from", g.from, "to", g.to)
	}
}

// endSinks sends what waits, and tells in the chain what was not sent.
func (l *Log) endSinks() {
	l.tellGaps(true) // so that the sinks get this, too
	var ending sync.WaitGroup
	for _, s := range l.sinks {
		ending.Go(func() { s.end(sinkEndsAfter) })
	}
	ending.Wait()
	l.tellGaps(true)
}
