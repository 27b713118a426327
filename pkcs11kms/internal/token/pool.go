package token

import (
	"context"
	"errors"
	"fmt"
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
	lost     int           // places in hung calls
	free     []*session    // not in use, open
	waiters  []*waiter     // those who wait for a place, oldest first
	closed   error         // what acquire returns since close; nil while the pool is open
	quiet    chan struct{} // while the pool is held: closed when no place is taken any more
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

// acquire lends a session, which may not be open yet. It waits until ctx ends or wait is over, then it returns ErrBusy.
func (p *pool) acquire(ctx context.Context, wait time.Duration) (*session, error) {
	p.mu.Lock()
	if p.closed != nil {
		defer p.mu.Unlock()
		return nil, p.closed
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
	if p.withdraw(w) {
		return nil, busy
	}
	s := <-w.granted // granted in the last moment: take it, the call will see that ctx has ended
	return s, w.refused
}

// withdraw takes a waiter out of the queue; false if it has been served.
func (p *pool) withdraw(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.waiters {
		if other == w {
			p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
			return true
		}
	}
	return false
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
func (p *pool) mayLend() bool { return p.taken < p.limit && p.closed == nil && p.quiet == nil }

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
		closeOnce(p.quiet)
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

// hold lends no session any more until resume: whoever asks waits. The channel is closed when no place is taken any more.
func (p *pool) hold() (quiet <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet = make(chan struct{})
	if p.taken == 0 {
		close(p.quiet)
	}
	return p.quiet
}

func (p *pool) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet = nil
	p.serve()
}

// successes counts the calls that succeeded and left their session whole.
func (p *pool) successes() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.served
}

// hang counts a place as lost until its call comes back; vacateHung takes the place back, unhang takes back the count alone.
func (p *pool) hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost++
}

func (p *pool) unhang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost--
}

func (p *pool) vacateHung() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost--
	p.freePlace()
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
	if p.closed == nil || errors.Is(err, ErrClosed) {
		p.closed = err
	}
	for _, w := range p.waiters {
		w.refused = p.closed
		close(w.granted)
	}
	p.waiters = nil
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
}

func (p *pool) stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Size: p.limit, Open: p.taken + len(p.free), InUse: p.taken, Waiting: len(p.waiters), Lost: p.lost}
}
