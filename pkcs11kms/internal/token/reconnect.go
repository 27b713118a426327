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

// lostCause returns ErrGone with its cause once the device is lost, and nil before.
func (t *Token) lostCause() error {
	if gone := t.gone.Load(); gone != nil {
		return *gone
	}
	if t.loaded.epoch.Load() != t.epoch {
		return t.lose(errFinalized)
	}
	return nil
}

// lose declares the device lost: the generation rises, so that no handle is used any more, and nobody gets a session.
func (t *Token) lose(cause error) error {
	gone := fmt.Errorf("%w: %w", ErrGone, cause)
	if !t.gone.CompareAndSwap(nil, &gone) {
		return *t.gone.Load()
	}
	t.generation.Add(1)
	t.log.Error("the token is lost", "cause", cause)
	t.retire(t.pool.close(gone))
	return gone
}

// looksLost reports whether err may mean that the device, or only a session, is lost.
func looksLost(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.DeviceLost()
}

// examine asks the device after an error that looks like its loss. It returns nil if the device answers, so that the
// error was the session's; the sessions that lie idle are then dropped, since they are likely to be of the same age and
// fate. Otherwise it returns ErrGone with the cause, or what kept it from asking.
func (t *Token) examine(ctx context.Context, cause error) error {
	err := t.ask(ctx)
	if err == nil {
		t.log.Warn("a session of the token failed; the token itself answers", "error", cause)
		t.retire(t.pool.dropFree())
		return nil
	}
	if looksLost(err) {
		return t.lose(cause)
	}
	return err
}

// Healthy makes a round trip to the token, on the session that stays open: it does not wait for the pool, so it tells a
// lost or hanging device from a busy one. If the device is lost, it returns ErrGone.
func (t *Token) Healthy(ctx context.Context) error {
	if t.closing.Err() != nil {
		return ErrClosed
	}
	if err := t.lostCause(); err != nil {
		return err
	}
	err := t.ask(ctx)
	if looksLost(err) {
		return t.lose(err)
	}
	return err
}

// ask makes the round trip. If only the keeper's session is broken, another takes its place.
func (t *Token) ask(ctx context.Context) error {
	if err := t.keeper.busy.takeWithin(ctx, t.timeout); err != nil {
		return err
	}
	if t.closing.Err() != nil {
		t.keeper.release()
		return ErrClosed
	}
	err := t.keeper.session.call(ctx, &operation{name: "C_GetSessionInfo", run: func(s *session, _ []byte) error {
		err := t.roundTrip(s)
		var e *Error
		if !errors.As(err, &e) || !e.SessionLost() {
			return err
		}
		fresh := &session{token: t}
		if err := fresh.run(&operation{run: func(s *session, _ []byte) error { return t.roundTrip(s) }}, nil); err != nil {
			fresh.close()
			return err
		}
		s.handle = fresh.handle
		return nil
	}}, t.timeout)
	var hung *HungError
	if !errors.As(err, &hung) {
		t.keeper.release()
	}
	return err
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
