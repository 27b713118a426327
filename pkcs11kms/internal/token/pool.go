package token

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// shrunkFor is how long the pool stays small after the token had no session left to give. Other processes share the
// token's sessions, so the shortage may pass.
const shrunkFor = time.Minute

// pool lends out places for sessions, at most limit at once. A place is taken from acquire until its session is given back
// or thrown away; a session in a call that hangs keeps its place. Free sessions are lent last in, first out, so that only as
// many are open as were in use at once; those who wait are served first come, first served.
type pool struct {
	max  int // what the configuration and the token allow
	idle chan struct{}

	mu       sync.Mutex    // guards the rest; never held during a C call
	limit    int           // max, or less for a while when the token ran out of sessions
	shrunk   time.Time     // when limit was lowered
	taken    int           // places in use, those in hung calls included
	hung     []*HungError  // calls that their callers have given up, oldest first; each has a place
	free     []*session    // not in use, open
	waiters  []*waiter     // those who wait for a place, oldest first
	closed   error         // what acquire returns since close; nil while the pool is open
	held     int           // how many hold the pool: nothing is lent while there is one
	quiet    chan struct{} // closed when no place is taken any more; nil unless somebody waits for that
	served   uint64        // sessions that came back from a call that succeeded
	newEmpty func() *session
}

// waiter is one who waits. granted receives a session, which may not be open yet, or is closed with the pool.
type waiter struct {
	granted chan *session
	refused error // why the pool was closed; set before granted is closed
}

func newPool(max int, newEmpty func() *session) *pool {
	return &pool{max: max, limit: max, idle: make(chan struct{}), newEmpty: newEmpty}
}

// acquire lends a session, which may not be open yet. It waits until ctx ends or wait is over, then it returns ErrBusy. While every
// place is in a call that hangs, it returns a *HungError at once.
func (p *pool) acquire(ctx context.Context, wait time.Duration) (*session, error) {
	p.mu.Lock()
	if err := p.refusal(); err != nil {
		defer p.mu.Unlock()
		return nil, err
	}
	if p.limit < p.max && time.Since(p.shrunk) > shrunkFor {
		p.limit = p.max
		p.serve() // those who wait come first
	}
	if p.mayLend() { // then nobody waits
		p.taken++
		s := p.popFree()
		p.mu.Unlock()
		return s, nil
	}
	w := &waiter{granted: make(chan *session, 1)}
	p.waiters = append(p.waiters, w)
	p.mu.Unlock()
	return p.await(ctx, w, wait)
}

func (p *pool) await(ctx context.Context, w *waiter, wait time.Duration) (*session, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	busy := ErrBusy
	select {
	case s := <-w.granted:
		return s, w.refused
	case <-ctx.Done():
		busy = fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	case <-timer.C:
	}
	refusal, withdrawn := p.withdraw(w)
	if withdrawn {
		return nil, cmp.Or(refusal, busy)
	}
	s := <-w.granted // granted in the last moment: take it, the call will see that ctx has ended
	return s, w.refused
}

// withdraw takes a waiter out of the queue; false if it has been served. The refusal is why more waiting would be in vain.
func (p *pool) withdraw(w *waiter) (refusal error, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.waiters, w)
	if i < 0 {
		return nil, false
	}
	p.waiters = slices.Delete(p.waiters, i, i+1)
	return p.refusal(), true
}

// popFree returns the session that was given back last, or an empty one. The caller holds mu and has taken the place.
func (p *pool) popFree() *session {
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		return s
	}
	return p.newEmpty()
}

// mayLend reports whether there is a place. The caller holds mu.
func (p *pool) mayLend() bool { return p.taken < p.limit && p.closed == nil && p.held == 0 }

// refusal is why it would be in vain to wait. The caller holds mu.
func (p *pool) refusal() error {
	switch {
	case p.closed != nil:
		return p.closed
	case len(p.hung) >= p.limit && !slices.ContainsFunc(p.hung, (*HungError).mayReturn):
		return &HungError{Func: p.hung[0].Func, all: len(p.hung), done: p.hung[0].done}
	}
	return nil
}

// give takes a session back that can be used again; succeeded tells of its call. It reports false if the pool is closed:
// then the session must be closed and its place vacated.
func (p *pool) give(s *session, succeeded bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if succeeded {
		p.served++
	}
	if p.closed != nil {
		return false
	}
	p.free = append(p.free, s)
	p.freePlace()
	return true
}

// vacate takes the place of a session back that is gone.
func (p *pool) vacate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.freePlace()
}

// freePlace takes a place back. The caller holds mu.
func (p *pool) freePlace() {
	p.taken--
	p.serve()
	if p.taken > 0 {
		return
	}
	if p.closed != nil {
		closeOnce(p.idle)
	}
	if p.quiet != nil {
		close(p.quiet)
		p.quiet = nil
	}
}

// serve hands the places that there are to those who wait, so that nobody waits while there is one. The caller holds mu.
func (p *pool) serve() {
	for len(p.waiters) > 0 && p.mayLend() {
		w := p.waiters[0]
		p.waiters = p.waiters[1:]
		p.taken++
		w.granted <- p.popFree()
	}
}

// closeOnce closes a channel unless it is closed. The caller keeps others from doing the same.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// hold lends no session any more until as many resume as have held: whoever asks waits.
func (p *pool) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held++
}

func (p *pool) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held--
	p.serve()
}

// empty returns a channel that is closed when no place is taken. The pool must be held.
func (p *pool) empty() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken == 0 {
		quiet := make(chan struct{})
		close(quiet)
		return quiet
	}
	if p.quiet == nil {
		p.quiet = make(chan struct{})
	}
	return p.quiet
}

// resize makes the pool smaller or larger, before anything was lent.
func (p *pool) resize(max int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max, p.limit = max, max
}

// successes counts the calls that succeeded and left their session whole.
func (p *pool) successes() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.served
}

// hang notes a call that its caller has given up, whose place is lost until it comes back; vacateHung takes the place back,
// unhang the note alone. When the last place hangs, those who wait are told.
func (p *pool) hang(call *HungError) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hung = append(p.hung, call)
	if err := p.refusal(); err != nil {
		p.refuseAll(err)
	}
}

func (p *pool) unhang(call *HungError) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetHung(call)
}

func (p *pool) vacateHung(call *HungError) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetHung(call)
	p.freePlace()
}

func (p *pool) forgetHung(call *HungError) {
	p.hung = slices.DeleteFunc(p.hung, func(other *HungError) bool { return other == call })
}

// oldestHung returns the call that has hung the longest, nil if there is none, and whether the calls that hang leave no place.
func (p *pool) oldestHung() (oldest *HungError, all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.hung) == 0 {
		return nil, false
	}
	return p.hung[0], len(p.hung) >= p.limit
}

// refuseAll answers those who wait. The caller holds mu.
func (p *pool) refuseAll(err error) {
	for _, w := range p.waiters {
		w.refused = err
		close(w.granted)
	}
	p.waiters = nil
}

// shrink is told that the token had no session to give for the caller's place, which the caller still holds. The pool
// goes on with the other places; false if there are none.
func (p *pool) shrink() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	others := p.taken - 1 + len(p.free)
	p.shrunk = time.Now()
	p.limit = max(others, 1)
	return others > 0
}

// dropFree forgets the free sessions and returns them for closing.
func (p *pool) dropFree() []*session {
	p.mu.Lock()
	defer p.mu.Unlock()
	dropped := p.free
	p.free = nil
	return dropped
}

// close lets nobody in any more, who then gets err, and returns the free sessions for closing. The channel idle is closed
// when the last place is given back.
func (p *pool) close(err error) []*session {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = err
	p.refuseAll(p.closed)
	if p.taken == 0 {
		closeOnce(p.idle)
	}
	dropped := p.free
	p.free = nil
	return dropped
}

// Stats counts the sessions of a Token.
type Stats struct {
	Size    int // the most that can be in use at once
	Open    int // open in the pool: free and in use
	InUse   int // lent out, those in hung calls included
	Waiting int // callers waiting for a session
	Lost    int // in a call that its caller has given up
	Copies  int // keys that have a session copy
}

func (p *pool) stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Size: p.limit, Open: p.taken + len(p.free), InUse: p.taken, Waiting: len(p.waiters), Lost: len(p.hung)}
}
