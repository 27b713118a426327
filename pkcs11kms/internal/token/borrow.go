package token

import (
	"context"
	"errors"
	"time"

	"github.com/miekg/pkcs11"
)

// do runs an operation on a session of the pool. If the session or the device fails under it, the device is asked whether it is there.
// An operation that may be repeated is repeated once on a fresh session, when the device is there again, and also when the module has
// answered with what may pass; and once more if the module had lost sight of the token's objects and has found them again.
func (t *Token) do(ctx context.Context, o *operation) error {
	end := time.Now().Add(t.timeout) // of all waiting
	err := t.with(ctx, o, end)
	if looksLost(err) && !errors.Is(err, ErrGone) {
		gone := t.examine(ctx, err, time.Until(end))
		switch {
		case o.repeatable() && (gone == nil || errors.Is(gone, ErrGone)):
			err = t.with(ctx, o, end)
		case gone != nil:
			err = gone
		}
	} else if passing(err) && o.repeatable() {
		err = t.with(ctx, o, end)
	}
	for range regainTries {
		if !t.mayRegain(err) {
			return err
		}
		if err := t.regain(ctx, o, err); err != nil {
			return err
		}
		err = t.with(ctx, o, end)
	}
	return err
}

// regainTries bounds how often an operation is repeated that may have failed for objects that were lost sight of. The first time, nobody
// may have looked for them: the token was lost, and came back by new sessions.
const regainTries = 2

// lend waits for a session until end. An outage is waited for as well, but only while it is younger than Config.CallTimeout: whoever
// waited for an older one would take up room in vain, and is answered with ErrGone at once.
func (t *Token) lend(ctx context.Context, end time.Time) (*session, error) {
	for {
		if o := t.outage.Load(); o != nil {
			if last := o.since.Add(t.timeout); last.Before(end) {
				end = last
			}
			if !time.Now().Before(end) {
				return nil, o.err()
			}
		}
		s, err := t.pool.acquire(ctx, time.Until(end))
		if err != nil {
			if o := t.outage.Load(); o != nil && errors.Is(err, ErrBusy) {
				err = o.err()
			}
			return nil, err
		}
		if t.lostCause() == nil {
			return s, nil
		}
		s.end(true)
	}
}

// with lends a session for one operation and takes it back, whatever comes of it.
func (t *Token) with(ctx context.Context, o *operation, end time.Time) error {
	for {
		s, err := t.lend(ctx, end)
		if err != nil {
			return err
		}
		err = s.call(ctx, o, t.timeout+o.longer)
		if err == nil && o.keep != nil {
			o.keep(s)
			return nil
		}
		if !t.outOfSessions(err) {
			t.giveBack(s, err)
			return err
		}
		others := t.pool.shrink()
		t.log.Warn("the token has no more sessions to give, so the pool goes on with fewer", "sessions", t.pool.stats().Size)
		t.giveBack(s, err)
		if !others {
			return errors.Join(ErrBusy, err)
		}
	}
}

func (t *Token) outOfSessions(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Func == "C_OpenSession" && e.is(pkcs11.CKR_SESSION_COUNT)
}

// giveBack returns a session after a call that ended with err, or throws it away.
func (t *Token) giveBack(s *session, err error) {
	if _, hung := errors.AsType[*HungError](err); hung {
		return // its goroutine gives the place back when the call does
	}
	if keepsSession(err) && s.open && t.pool.give(s, err == nil) {
		return
	}
	s.end(true)
}

// errNotBegun marks a call whose context had ended before its session was touched.
var errNotBegun = errors.New("the call was not begun")

// keepsSession reports whether a session can be used again after an operation that ended with err.
func keepsSession(err error) bool {
	if errors.Is(err, errReused) {
		return false
	}
	if err == nil || errors.Is(err, ErrKeyMissing) || errors.Is(err, ErrKeyAmbiguous) || errors.Is(err, ErrKeyExists) ||
		errors.Is(err, errNotBegun) || errors.Is(err, ErrKeyForeign) {
		return true
	}
	var e *Error
	return errors.As(err, &e) && e.leavesSessionClean()
}

// semaphore counts places; a slot in the channel is one that is taken.
type semaphore chan struct{}

func newSemaphore(n int) semaphore { return make(semaphore, n) }

func (s semaphore) take() { s <- struct{}{} }

// tryTake takes a place if there is one.
func (s semaphore) tryTake() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

// takeWithin waits until ctx ends or wait is over, then it returns ErrBusy.
func (s semaphore) takeWithin(ctx context.Context, wait time.Duration) error {
	select {
	case s <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errors.Join(ErrBusy, ctx.Err())
	case <-timer.C:
		return ErrBusy
	}
}

func (s semaphore) release() { <-s }
