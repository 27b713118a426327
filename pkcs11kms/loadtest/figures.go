package loadtest

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// KindWrong is the kind of the errors that are wrong answers.
const KindWrong = "WrongAnswer"

// WrongError is an answer that is not the right one.
type WrongError struct{ What string }

func (e *WrongError) Error() string { return e.What }

// Errors are the operations that failed in one way.
type Errors struct {
	Kind    string
	Count   int64
	Example string // the text of one of them
}

// maxKinds bounds the kinds that are counted apart. What comes after them is counted as KindMore: a server can name what it likes.
const (
	maxKinds = 20
	KindMore = "OtherErrors"
)

// Latency is how long operations took. What is not exact is at most 1 % too long.
type Latency struct {
	Average, Max        time.Duration // exact
	P50, P90, P99, P999 time.Duration
	Histogram           []Bucket // exact; without empty ones at its ends
}

// Bucket counts the operations that took From or longer, and less than To.
type Bucket struct {
	From, To time.Duration
	Count    int64
}

// What a histogram holds: two significant digits are 1 %, in 35 KiB whatever the number of operations.
const (
	longestLatency    = time.Hour
	significantDigits = 2
)

// caller is one of the callers of a phase.
type caller struct {
	mu      sync.Mutex // guards the rest: progress is told meanwhile, and a caller that was given up may come back
	took    *hdrhistogram.Histogram
	tallied tally
	sum     time.Duration
	longest time.Duration
	last    time.Time // when the last call came back
	errors  map[string]*Errors
	failed  int64
}

func newCaller(began time.Time) *caller {
	return &caller{took: newHistogram(), tallied: newTally(), last: began, errors: map[string]*Errors{}}
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, longestLatency.Nanoseconds(), significantDigits)
}

// call makes one call and notes what came of it.
func (c *caller) call(ctx context.Context, deadline time.Duration, work *Work) {
	began := time.Now()
	if deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, deadline)
		defer cancel()
	}
	answer, err := work.Call(ctx)
	ended := time.Now()
	if err == nil {
		err = work.Check(answer)
	}
	var failure Errors
	if wrong := (*WrongError)(nil); errors.As(err, &wrong) {
		failure = Errors{Kind: KindWrong, Count: 1, Example: wrong.What}
	} else if err != nil {
		failure.Count = 1
		failure.Kind, failure.Example = work.Describe(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = ended
	if err != nil {
		c.failed++
		count(c.errors, failure)
		return
	}
	took := ended.Sub(began)
	c.sum += took
	c.longest = max(c.longest, took)
	c.tallied.count(took)
	_ = c.took.RecordValue(min(took, longestLatency).Nanoseconds()) // within the histogram's bounds
}

// count adds errors to those of their kind.
func count(all map[string]*Errors, more Errors) {
	if all[more.Kind] == nil && len(all) >= maxKinds {
		more.Kind = KindMore
	}
	if known := all[more.Kind]; known != nil {
		known.Count += more.Count
		return
	}
	all[more.Kind] = &more
}

func (c *caller) counts() (operations, failed int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.took.TotalCount(), c.failed
}

// step adds the figures of all callers up.
func (p *phase) step(concurrency int) *Step {
	s := &Step{Concurrency: concurrency, Unfinished: p.unfinished}
	took, tallied, found := newHistogram(), newTally(), map[string]*Errors{}
	last := p.began
	var sum time.Duration
	for _, c := range p.callers {
		c.mu.Lock()
		took.Merge(c.took)
		tallied.merge(c.tallied)
		sum += c.sum
		s.Latency.Max = max(s.Latency.Max, c.longest)
		for _, kind := range slices.Sorted(maps.Keys(c.errors)) {
			count(found, *c.errors[kind])
		}
		if c.last.After(last) {
			last = c.last
		}
		c.mu.Unlock()
	}
	if p.unfinished > 0 && last.Equal(p.began) {
		last = time.Now() // nothing has come back
	}
	s.Elapsed = last.Sub(p.began)
	s.Operations = took.TotalCount()
	for _, e := range found {
		s.Errors = append(s.Errors, *e)
	}
	slices.SortFunc(s.Errors, func(a, b Errors) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Kind, b.Kind)) })
	if s.Operations > 0 {
		s.Latency.Average = sum / time.Duration(s.Operations)
		s.Latency.fill(took)
		s.Latency.Histogram = tallied.buckets()
	}
	return s
}

func (l *Latency) fill(took *hdrhistogram.Histogram) {
	at := func(percentile float64) time.Duration {
		return min(time.Duration(took.ValueAtQuantile(percentile)), l.Max)
	}
	l.P50, l.P90, l.P99, l.P999 = at(50), at(90), at(99), at(99.9)
}

// bounds are between the buckets of a Latency's histogram: 1, 2, 5, 10, 20 µs and so on.
var bounds = func() (all []time.Duration) {
	for unit := time.Microsecond; unit < longestLatency; unit *= 10 {
		all = append(all, unit, 2*unit, 5*unit)
	}
	return all
}()

// tally counts latencies by the number of bounds that they reach.
type tally []int64

func newTally() tally { return make(tally, len(bounds)+1) }

func (t tally) count(took time.Duration) {
	at, exact := slices.BinarySearch(bounds, took)
	if exact {
		at++
	}
	t[at]++
}

func (t tally) merge(other tally) {
	for i, n := range other {
		t[i] += n
	}
}

// buckets leaves out the empty ones at the ends.
func (t tally) buckets() (found []Bucket) {
	for i, n := range t {
		b := Bucket{Count: n, To: math.MaxInt64}
		if i > 0 {
			b.From = bounds[i-1]
		}
		if i < len(bounds) {
			b.To = bounds[i]
		}
		if n > 0 || len(found) > 0 {
			found = append(found, b)
		}
	}
	for len(found) > 0 && found[len(found)-1].Count == 0 {
		found = found[:len(found)-1]
	}
	return found
}
