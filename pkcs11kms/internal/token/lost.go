package token

import (
	"context"
	"errors"
	"time"

	"github.com/miekg/pkcs11"
)

// This file is the one place that decides that the device is lost; reconnect.go brings it back.

// keeper is the session that stays open and logged in for good: PKCS#11 ends the login with the last session. The holder
// of busy may use the session, to ask the device whether it is there.
type keeper struct {
	busy    semaphore
	session *session
}

func (k keeper) release() { k.busy.release() }

// shortestCall is what the module gets to answer, however long the wait for it was.
const shortestCall = 100 * time.Millisecond

// errFinalized is the cause when the module was initialised anew under an open Token.
var errFinalized = errors.New("another part of the process has finalized the PKCS#11 module")

// lostCause returns ErrGone with its cause while the device is lost, and nil otherwise.
func (t *Token) lostCause() error {
	// Twice, since another goroutine may have been initialising the module anew between the first two looks.
	for range 2 {
		if o := t.outage.Load(); o != nil {
			return o.err()
		}
		if t.loaded.epoch.Load() == t.epoch.Load() {
			return nil
		}
	}
	return t.lose(errFinalized, false)
}

// lose declares the device lost: the generation rises, so that no handle is used any more, nobody gets a session, and a goroutine
// begins to bring the device back. anew says that new sessions will not do, and the module has to be initialised anew.
func (t *Token) lose(cause error, anew bool) error {
	o := newOutage(cause, anew)
	if !t.outage.CompareAndSwap(nil, o) {
		if other := t.outage.Load(); other != nil {
			return other.err()
		}
		return o.err() // it was lost, and is back
	}
	t.losses.Add(1)
	t.disconnected()
	t.log.Error("the token is lost", "token", t.name(), "cause", cause)
	t.goroutines.Go(func() { t.bringBack(o) })
	return o.err()
}

// disconnected makes everything worth nothing that belongs to the connection.
func (t *Token) disconnected() {
	t.generation.Add(1)
	t.holders.forget()
	t.copies.forget()
	t.pool.hold()
	t.connection.Load().end()
}

// looksLost reports whether err may mean that the device, or only a session, is lost.
func looksLost(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.DeviceLost()
}

// examine asks the device after an error that looks like its loss. It returns nil if the device answers, so that the
// error was the session's; the sessions that lie idle are then dropped, since they are likely to be of the same age and
// fate. Otherwise it returns ErrGone with the cause, or what kept it from asking.
func (t *Token) examine(ctx context.Context, cause error, wait time.Duration) error {
	generation := t.generation.Load()
	err := t.ask(ctx, wait, nil)
	if err == nil {
		t.log.Warn("a session of the token failed; the token itself answers", "error", cause)
		t.retire(t.pool.dropFree())
		return nil
	}
	if looksLost(err) && !errors.Is(err, ErrGone) {
		return t.loseIn(generation, cause)
	}
	return err
}

// loseIn declares the loss of the connection that was asked. One that was declared by another meanwhile, and may be over, is not
// declared again.
func (t *Token) loseIn(generation uint64, cause error) error {
	if t.generation.Load() != generation {
		return t.lostCause()
	}
	return t.lose(cause, false)
}

// ask makes a round trip to the device on the session that stays open, and then runs try there, unless it is nil. It
// returns the error of the round trip alone.
func (t *Token) ask(ctx context.Context, wait time.Duration, try func(*session)) error {
	return t.onKeeper(ctx, wait, &operation{name: "C_GetSessionInfo", goesOn: true, run: func(s *session, _ []byte) error {
		err := s.answers()
		if err == nil && try != nil {
			try(s)
		}
		return err
	}})
}

// onKeeper runs an operation of this connection on the session that stays open, which nobody waits for who has a session of the pool.
func (t *Token) onKeeper(ctx context.Context, wait time.Duration, o *operation) error {
	end := time.Now().Add(wait)
	if err := t.takeKeeper(ctx, wait); err != nil {
		return err
	}
	err := t.keeper.session.call(ctx, o, max(time.Until(end), shortestCall))
	if hung, ok := errors.AsType[*HungError](err); ok {
		t.hungCheck.Store(hung)
	} else {
		t.keeper.release()
	}
	return err
}

// takeKeeper waits for the session that stays open. Close takes it for good, and so does the loss of the device for a while: whoever
// waits for it then is told at once.
func (t *Token) takeKeeper(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		var err error
		taken := false
		select {
		case t.keeper.busy <- struct{}{}:
			taken = true
		case <-t.closing.Done():
		case <-t.connection.Load().Done():
		case <-ctx.Done():
			err = errors.Join(ErrBusy, ctx.Err())
		case <-timer.C:
			err = ErrBusy
		}
		if t.closing.Err() != nil {
			err = ErrClosed
		} else if gone := t.lostCause(); gone != nil {
			err = gone
		}
		if err != nil && taken {
			t.keeper.release()
		}
		if err != nil || taken {
			return err
		}
		// It was lost, and is back already: wait on.
	}
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
	broken := &session{token: s.token, handle: s.handle, epoch: s.epoch, open: s.open, claim: s.claim}
	s.handle, s.epoch, s.generation, s.open, s.claim = fresh.handle, fresh.epoch, fresh.generation, true, fresh.claim
	broken.close() // after the other is open: the last one ends the login
	return nil
}

// noRandom is what C_GenerateRandom answers where there is no generator.
var noRandom = []uint{pkcs11.CKR_RANDOM_NO_RNG, pkcs11.CKR_FUNCTION_NOT_SUPPORTED}

// roundTrip checks that the session is logged in, and asks for random bytes, which few modules can answer without their device.
func (t *Token) roundTrip(s *session) error {
	if err := s.loggedIn(); err != nil {
		return err
	}
	_, err := t.c.GenerateRandom(s.handle, 8)
	if err = wrapRV("C_GenerateRandom", err); isRV(err, noRandom...) {
		return nil
	}
	return err
}

// loggedIn checks that the session is one of the token's user. One that has lost the login sees no private object, as if all keys
// were missing.
func (s *session) loggedIn() error {
	info, err := s.token.c.GetSessionInfo(s.handle)
	if err != nil {
		return wrapRV("C_GetSessionInfo", err)
	}
	if info.State != pkcs11.CKS_RW_USER_FUNCTIONS && !(info.State == pkcs11.CKS_RW_PUBLIC_SESSION && s.token.public.Load()) {
		return &Error{Func: "C_GetSessionInfo", RV: pkcs11.CKR_USER_NOT_LOGGED_IN}
	}
	return nil
}
