// Package loadtest measures how many operations of the KMS API a key does in a second and how long each takes, at one concurrency
// after the other (Run), for any client of the API (Prepare). It is what "pkcs11kms bench" is made of.
//
// The load is closed: each caller begins its next operation when the one before has come back, as the callers of a pool of
// sessions do. So the rate is what the other side can do, and the latency is what callers see at that rate.
package loadtest

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Work is what is measured. Its functions are called by many goroutines at once.
type Work struct {
	// Call does the operation, and is what the clock measures. Its context has an end only if the plan has a Deadline.
	Call func(context.Context) (answer []byte, err error)
	// Check looks at the answer of a call that succeeded, while the clock stands. An error makes the answer a wrong one.
	Check func(answer []byte) error
	// Describe names the kind of an error, by which it is counted, and says what it is.
	Describe func(error) (kind, text string)
}

// Plan says how the work is measured.
type Plan struct {
	Concurrency []int         // so many callers at once, one step after the other
	Duration    time.Duration // of a step. Each caller calls at least once
	WarmUp      time.Duration // before each step, with as many callers, and not counted
	Deadline    time.Duration // of each call; 0 is none
	Grace       time.Duration // how long calls may take to come back when a step is over; then they are given up. 0 is for ever
	Progress    func(Progress)
}

// Progress is what a Plan is told again and again while it runs, on the goroutine of Run.
type Progress struct {
	Concurrency int
	WarmingUp   bool
	Elapsed     time.Duration // of the whole plan, by its times
	Total       time.Duration
	Operations  int64 // of this step, that succeeded
	Errors      int64
	InStep      time.Duration // since the step began, or its warm-up
}

// progressInterval is how often the progress is told.
const progressInterval = 100 * time.Millisecond

// Step is what came of one concurrency.
type Step struct {
	Concurrency int
	Elapsed     time.Duration // until the last of the calls that came back
	Operations  int64         // that succeeded
	Errors      []Errors      // the most frequent kind first
	Latency     Latency       // of the operations that succeeded
	Unfinished  int           // calls that had not come back when the Plan's Grace was over
	Complete    bool          // the step was neither interrupted nor left calls unfinished
}

// Rate is the number of operations in a second that succeeded.
func (s *Step) Rate() float64 {
	if s.Elapsed <= 0 {
		return 0
	}
	return float64(s.Operations) / s.Elapsed.Seconds()
}

// Failed counts the operations that failed, those with a wrong answer and those that never came back included.
func (s *Step) Failed() (n int64) {
	for _, e := range s.Errors {
		n += e.Count
	}
	return n + int64(s.Unfinished)
}

// Run measures the work. It ends early when ctx does, with the figures so far: calls that are under way come back first, and are
// counted. After a step that leaves calls unfinished there is no other.
func Run(ctx context.Context, plan Plan, work Work) (steps []*Step) {
	r := &runner{plan: plan, work: work}
	for _, n := range plan.Concurrency {
		if ctx.Err() != nil {
			return steps
		}
		if plan.WarmUp > 0 {
			warm := r.phase(ctx, n, plan.WarmUp, true)
			if warm.unfinished > 0 {
				return append(steps, &Step{Concurrency: n, Unfinished: warm.unfinished})
			}
			if ctx.Err() != nil {
				return steps
			}
		}
		step := r.phase(ctx, n, plan.Duration, false).step(n)
		step.Complete = ctx.Err() == nil && step.Unfinished == 0
		steps = append(steps, step)
		if step.Unfinished > 0 {
			return steps
		}
	}
	return steps
}

// runner runs one plan.
type runner struct {
	plan Plan
	work Work
	past time.Duration // of the plan, before the phase that runs
}

// phase is a time in which the number of callers stays the same.
type phase struct {
	began      time.Time
	callers    []*caller
	running    atomic.Int64
	over       atomic.Bool
	unfinished int
}

// phase lets n callers call until the time is over or ctx ends, and waits for the calls under way.
func (r *runner) phase(ctx context.Context, n int, length time.Duration, warmingUp bool) *phase {
	p := &phase{began: time.Now()}
	p.running.Store(int64(n))
	calls := context.WithoutCancel(ctx) // an interrupt is no error of the work, and a context that can end makes calls slower
	var wg sync.WaitGroup
	for range n {
		c := newCaller(p.began)
		p.callers = append(p.callers, c)
		wg.Go(func() {
			defer p.running.Add(-1)
			for {
				c.call(calls, r.plan.Deadline, &r.work)
				if p.over.Load() {
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	r.await(ctx, p, length, warmingUp, done)
	p.unfinished = int(p.running.Load())
	r.past += length
	return p
}

// await ends the phase in time, and returns when its callers have, or when those that have not are given up.
func (r *runner) await(ctx context.Context, p *phase, length time.Duration, warmingUp bool, done <-chan struct{}) {
	end := time.NewTimer(length)
	defer end.Stop()
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	interrupted := ctx.Done()
	var givenUp <-chan time.Time
	finish := func() {
		if !p.over.Swap(true) && r.plan.Grace > 0 {
			givenUp = time.After(r.plan.Grace)
		}
	}
	for {
		select {
		case <-done:
			r.tell(p, length, warmingUp)
			return
		case <-givenUp:
			return
		case <-end.C:
			finish()
		case <-interrupted:
			interrupted = nil
			finish()
		case <-tick.C:
			r.tell(p, length, warmingUp)
		}
	}
}

// tell tells the plan how far it is.
func (r *runner) tell(p *phase, length time.Duration, warmingUp bool) {
	if r.plan.Progress == nil {
		return
	}
	took := time.Since(p.began)
	told := Progress{Concurrency: len(p.callers), WarmingUp: warmingUp, InStep: took, Elapsed: r.past + min(took, length),
		Total: time.Duration(len(r.plan.Concurrency)) * (r.plan.WarmUp + r.plan.Duration)}
	for _, c := range p.callers {
		operations, failed := c.counts()
		told.Operations += operations
		told.Errors += failed
	}
	r.plan.Progress(told)
}
