package token

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// This file is the one place that decides that the device is lost, and the one that would bring it back: it owns the
// generation of the connection, and handles are worth nothing in another generation.

// keeper is the session that stays open and logged in for good: PKCS#11 ends the login with the last session. The holder
// of busy may use the session, to ask the device whether it is there.
type keeper struct {
	busy    semaphore
	session *session
}

func (k keeper) release() { k.busy.release() }

// errFinalized is the cause when the module was initialised anew under an open Token.
var errFinalized = errors.New("another part of the process has finalized the PKCS#11 module")

// loss is why the device cannot be used.
type loss struct {
	err     error // ErrGone with its cause
	passing bool  // regain may end it
}

// lostCause returns ErrGone with its cause while the device is lost, and nil otherwise.
func (t *Token) lostCause() error {
	// Twice, since another goroutine may have been initialising the module anew between the first two looks.
	for range 2 {
		if gone := t.gone.Load(); gone != nil {
			return gone.err
		}
		if t.loaded.epoch.Load() == t.epoch.Load() {
			return nil
		}
	}
	return t.lose(errFinalized)
}

// lose declares the device lost for good: the generation rises, so that no handle is used any more, and nobody gets a
// session.
func (t *Token) lose(cause error) error {
	gone := &loss{err: fmt.Errorf("%w: %w", ErrGone, cause)}
	if !t.gone.CompareAndSwap(nil, gone) {
		if other := t.gone.Load(); other != nil {
			return other.err
		}
		return gone.err // it was passing, and has passed
	}
	t.generation.Add(1)
	t.log.Error("the token is lost", "cause", cause)
	t.retire(t.pool.close(gone.err))
	return gone.err
}

// looksLost reports whether err may mean that the device, or only a session, is lost.
func looksLost(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.DeviceLost()
}

// examine asks the device after an error that looks like its loss. It returns nil if the device answers, so that the
// error was the session's; the sessions that lie idle are then dropped, since they are likely to be of the same age and
// fate. Otherwise it returns ErrGone with the cause, or what kept it from asking.
func (t *Token) examine(ctx context.Context, cause error) error {
	err := t.ask(ctx, nil)
	if err == nil {
		t.log.Warn("a session of the token failed; the token itself answers", "error", cause)
		t.retire(t.pool.dropFree())
		return nil
	}
	if looksLost(err) && !errors.Is(err, ErrGone) {
		return t.lose(cause)
	}
	return err
}

// ask makes a round trip to the device on the session that stays open, and then runs try there, unless it is nil. It
// returns the error of the round trip alone.
func (t *Token) ask(ctx context.Context, try func(*session)) error {
	if err := t.takeKeeper(ctx); err != nil {
		return err
	}
	err := t.lostCause()
	if err == nil {
		err = t.keeper.session.call(ctx, &operation{name: "C_GetSessionInfo", run: func(s *session, _ []byte) error {
			err := s.answers()
			if err == nil && try != nil {
				try(s)
			}
			return err
		}}, t.timeout)
	}
	if _, hung := errors.AsType[*HungError](err); !hung {
		t.keeper.release()
	}
	return err
}

// takeKeeper waits for the session that stays open, as long as for any other. Close takes it for good, so whoever waits for it
// then is told at once.
func (t *Token) takeKeeper(ctx context.Context) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.closing, cancel)()
	err := t.keeper.busy.takeWithin(waiting, t.timeout)
	if t.closing.Err() == nil {
		return err
	}
	if err == nil {
		t.keeper.release()
	}
	return ErrClosed
}

// freshTries is on how many fresh sessions the device is asked before it counts as lost.
const freshTries = 2

// answers makes a round trip. A device that answers with an error is asked again on fresh sessions, one of which takes the place of
// this one: the error may be the session's, or one that passes. This is the one rule by which a device is lost, for the check of its health
// and for whoever met an error alike.
func (s *session) answers() error {
	err := s.token.roundTrip(s)
	for range freshTries {
		if !looksLost(err) {
			return err
		}
		err = s.renew()
		if isRV(err, pkcs11.CKR_SESSION_COUNT) { // there is no other session to be had
			err = s.token.roundTrip(s)
		}
	}
	return err
}

// renew puts another session in the place of a broken one.
func (s *session) renew() error {
	fresh := &session{token: s.token}
	if err := fresh.run(&operation{run: func(s *session, _ []byte) error { return s.token.roundTrip(s) }}, nil); err != nil {
		fresh.close()
		return err
	}
	broken := &session{token: s.token, handle: s.handle, epoch: s.epoch, open: s.open}
	s.handle, s.epoch, s.open = fresh.handle, fresh.epoch, true
	broken.close() // after the other is open: the last one ends the login
	return nil
}

// roundTrip checks that the session is logged in, and asks for random bytes, which few modules can answer without their device.
func (t *Token) roundTrip(s *session) error {
	info, err := t.c.GetSessionInfo(s.handle)
	if err != nil {
		return wrapRV("C_GetSessionInfo", err)
	}
	if info.State != pkcs11.CKS_RW_USER_FUNCTIONS {
		return &Error{Func: "C_GetSessionInfo", RV: pkcs11.CKR_USER_NOT_LOGGED_IN}
	}
	_, err = t.c.GenerateRandom(s.handle, 8)
	if err = wrapRV("C_GenerateRandom", err); isRV(err, pkcs11.CKR_RANDOM_NO_RNG, pkcs11.CKR_FUNCTION_NOT_SUPPORTED) {
		return nil
	}
	return err
}
