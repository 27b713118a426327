package token

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// operation is one thing to do on a session.
type operation struct {
	name   string // the C_ function that it is about, for errors
	input  []byte // copied before the call if the caller may go away first
	run    func(s *session, input []byte) error
	mac    *Key             // in place of run: makes the MAC of input, which is tag then
	tag    []byte           // of the last run that succeeded
	undo   func(s *session) // called if run succeeded after its caller had gone; may be nil
	once   bool             // must not be repeated once it has begun, when a session or the device has failed
	begun  bool             // set by run, where once: from here on something may have changed in the token
	often  bool             // callers can run it at any rate, on a missing key too: see regain
	goesOn bool             // goes on with what an earlier call has begun on the session, which must be of this connection
	// longer is how much longer than Config.CallTimeout it may take.
	longer     time.Duration
	generation uint64           // of the connection in which it was run last, set by session.run
	keep       func(s *session) // takes the session over after success, instead of giving it back; may be nil
}

// repeatable reports whether the operation, which has come back with an error, may be run again.
func (o *operation) repeatable() bool { return !o.once || !o.begun }

// The states of a session's call, which decide who handles its end: the caller or the session's goroutine.
const (
	callIdle int32 = iota
	callRunning
	callAbandoned
)

// session is a PKCS#11 session with one user at a time: its borrower owns every field. Only state and hung are touched by
// the borrower and the session's own goroutine at once, and state orders the accesses to hung.
type session struct {
	token      *Token
	place      *pool // where its place is; nil for the session that stays open, see keeper
	handle     pkcs11.SessionHandle
	epoch      uint64    // of the module, when the session was opened
	generation uint64    // of the connection, when the session was opened
	crossing   *crossing // made at the first signature
	open       bool      // opened lazily by the first operation, under that operation's deadline
	claim      *claim    // to the handle
	macs       uint32    // that were begun on it, see pace

	// What follows serves calls that can be abandoned; it is made at the first of them.
	work  chan *operation
	done  chan error
	timer *time.Timer
	buf   []byte // the input of the call; stays with the session if the caller goes
	state atomic.Int32
	hung  *HungError
	// vacates says that the place is to be given back when the goroutine has ended; set before work is closed.
	vacates bool
}

// call runs the operation, directly if ctx cannot end. Otherwise it returns a *HungError as soon as ctx or the time limit
// ends; the session then belongs to its goroutine, and the caller must not touch it again.
func (s *session) call(ctx context.Context, o *operation, limit time.Duration) error {
	if ctx.Done() == nil {
		return s.run(o, o.input)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", errNotBegun, err)
	}
	s.start()
	s.buf = append(s.buf[:0], o.input...)
	s.state.Store(callRunning)
	s.timer.Reset(limit)
	s.work <- o
	var cause error
	select {
	case err := <-s.done:
		s.timer.Stop()
		return err
	case <-ctx.Done():
		s.timer.Stop()
		cause = ctx.Err()
	case <-s.timer.C:
	}
	return s.abandon(o.name, cause)
}

// abandon leaves the running call to the session's goroutine, unless it has answered in the last moment.
func (s *session) abandon(name string, cause error) error {
	hung := newHungError(name)
	hung.cause = cause
	s.hung = hung
	if s.place != nil {
		s.place.hang(hung) // before the goroutine can take it back
	}
	if s.state.CompareAndSwap(callRunning, callAbandoned) {
		return hung
	}
	if s.place != nil {
		s.place.unhang(hung)
	}
	return <-s.done
}

func (s *session) start() {
	if s.work != nil {
		return
	}
	s.work = make(chan *operation)
	s.done = make(chan error, 1)
	s.timer = time.NewTimer(time.Hour)
	s.timer.Stop()
	s.token.goroutines.Add(1)
	go s.loop()
}

// loop is the session's goroutine. It ends with end, or when an abandoned call has come back.
func (s *session) loop() {
	defer s.token.goroutines.Done()
	for o := range s.work {
		err := s.run(o, s.buf)
		clear(s.buf)
		if s.state.CompareAndSwap(callRunning, callIdle) {
			s.done <- err
			continue
		}
		if err == nil && o.undo != nil {
			o.undo(s)
		}
		if !s.comeBack() {
			return
		}
	}
	s.close()
	if s.vacates {
		s.place.vacate()
	}
}

// comeBack ends an abandoned call: a session of the pool is closed and its place given back, since nobody can say what
// state the late call has left it in. It reports whether the session goes on.
func (s *session) comeBack() bool {
	defer close(s.hung.done)
	if s.place == nil {
		s.state.Store(callIdle)
		s.token.keeper.release()
		return true
	}
	s.close()
	s.place.vacateHung(s.hung)
	return false
}

// end closes a session for good, and gives its place back if it had one. No call may be running. The session's goroutine
// does it where there is one, since the closing of a broken session may hang as well.
func (s *session) end(vacate bool) {
	if s.work != nil {
		s.vacates = vacate
		close(s.work)
		return
	}
	s.close()
	if vacate {
		s.place.vacate()
	}
}

// abandoned reports whether the caller has gone, so that an operation of several C calls can stop between them.
func (s *session) abandoned() bool { return s.state.Load() == callAbandoned }

// run runs the operation on the session, which it opens if it is not, or is of an earlier connection.
func (s *session) run(o *operation, input []byte) error {
	generation := s.token.generation.Load()
	o.generation = generation
	if s.open && s.generation != generation {
		if o.goesOn {
			return fmt.Errorf("%w: the connection was lost meanwhile", ErrGone)
		}
		s.close()
	}
	if !s.open {
		if err := s.begin(generation); err != nil {
			return err
		}
	}
	err := o.on(s, input)
	// Also with an error, since a key may be missing in the token of another session alone, but not where a PIN is at stake.
	if s.claim.lost.Load() && !needsPerson(err) {
		return &Error{Func: o.name, RV: pkcs11.CKR_SESSION_HANDLE_INVALID} // whose answer it is, nobody knows
	}
	return err
}

// on does what the operation is for. The way of every MAC is without a closure, which is an allocation or two.
func (o *operation) on(s *session, input []byte) (err error) {
	if o.mac == nil {
		return o.run(s, input)
	}
	tag, err := s.mac(o.mac, input)
	if err == nil {
		o.tag = tag
	}
	return err
}

// begin opens the session at the token.
func (s *session) begin(generation uint64) error {
	t := s.token
	h, err := t.c.OpenSession(uint(t.slot.Load()), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return wrapRV("C_OpenSession", err)
	}
	s.handle, s.open, s.generation, s.epoch = h, true, generation, t.loaded.epoch.Load()
	s.claim = t.loaded.claims.make(h)
	if other, ok := t.unclosed.take(); ok {
		t.closeLeft(other)
	}
	return nil
}

// close closes the session at the token. While the device is lost, that is left to whoever brings it back.
func (s *session) close() {
	if !s.open {
		return
	}
	left := s.takeOff()
	if o := s.token.outage.Load(); o == nil || !o.leave(left) {
		s.token.closeLeft(left)
	}
}

// takeOff takes the module's session off an open session, which opens another one when it is used again.
func (s *session) takeOff() leftSession {
	s.open = false
	return leftSession{handle: s.handle, epoch: s.epoch, claim: s.claim}
}

// leftSession is a session that nobody uses any more, and that the module may still have open.
type leftSession struct {
	handle pkcs11.SessionHandle
	epoch  uint64
	claim  *claim
}

// closeLeft closes a session, unless its handle is worth nothing any more: another session has it, or the module was initialised
// anew. One that the device did not get to closing is closed when it is in a better state.
func (t *Token) closeLeft(s leftSession) {
	if !t.loaded.restarting.TryRLock() {
		return // C_Finalize closes it
	}
	defer t.loaded.restarting.RUnlock()
	if s.epoch != t.loaded.epoch.Load() || !t.loaded.claims.release(s.handle, s.claim) {
		return
	}
	err := wrapRV("C_CloseSession", t.c.CloseSession(s.handle))
	if err == nil {
		return
	}
	t.log.Debug("closing a session", "error", err)
	if e, ok := errors.AsType[*Error](err); ok && !e.SessionLost() && t.loaded.claims.restore(s.handle, s.claim) {
		t.unclosed.add(s)
	}
}

// mostUnclosed bounds the sessions that are tried again: a module may refuse to close what it has closed by itself.
const mostUnclosed = 64

// unclosed are sessions that could not be closed when it was time, oldest first. One of them is tried again with each that is opened.
type unclosed struct {
	mu       sync.Mutex // guards sessions
	sessions []leftSession
}

func (u *unclosed) add(s leftSession) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sessions = append(u.sessions, s)
	u.sessions = u.sessions[max(0, len(u.sessions)-mostUnclosed):]
}

func (u *unclosed) take() (s leftSession, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.sessions) == 0 {
		return s, false
	}
	s, u.sessions = u.sessions[0], u.sessions[1:]
	return s, true
}

// takeAll returns all of them, each to be tried once more.
func (u *unclosed) takeAll() []leftSession {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := u.sessions
	u.sessions = nil
	return all
}
