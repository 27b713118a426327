// Package guard is the one way that every call of every operation takes, whatever service it belongs to: the form of the input,
// what it is about, whether the caller may, how often, whether the state and the kind of it allow that, then the operation, then
// the answer and the audit log. This is the order of checks of the real service. There is no way past it, and nothing to plug in.
package guard

import (
	"context"
	"errors"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// RecheckInterval is how old a permission may get while a call lasts. With the age that a cache allows it stays within the second
// and a half after which a key that was disabled must be at rest everywhere.
const RecheckInterval = 500 * time.Millisecond

// Call is one call of an operation, about a subject of type S: a key, a principal, or nothing. Its methods are what services
// differ in. They are called by one goroutine, in the order in which they stand here.
type Call[S any] interface {
	Now() time.Time

	// Check says what can be said before anything is looked up: nobody may do nothing, and a name has a form.
	Check() error
	// Bind notes what every change that the call makes must be bound to: whatever permits it, as it is now.
	Bind(ctx context.Context) error
	// Cached returns the subject as it is known without asking the store; ok tells whether it is.
	Cached(ctx context.Context) (s S, ok bool, err error)
	// Stored asks the store. missing is the answer for those who may know that there is no such subject.
	Stored(ctx context.Context) (s S, missing error, err error)
	// Authorise decides whether the caller may. With cached, nothing may be asked of the store.
	Authorise(ctx context.Context, s S, cached bool) error
	// Throttle takes one request from the caller's rate.
	Throttle(s S) error
	// Fits refuses what the state or the kind of the subject does not allow.
	Fits(ctx context.Context, s S) error

	// Answer turns an error into what the caller gets. What it returns for nil is nil.
	Answer(ctx context.Context, s S, err error) error
	// Event describes the call for the audit log; that of one that writes has the same RequestID each time.
	Event(s S) audit.Event
	// DryRun tells whether the call changes nothing although the operation would.
	DryRun() bool
	// TakeBack undoes what the call has created under a name of the service's own choice, where that cannot be recorded and so is not
	// answered: who repeats the call must not get it twice. It tells whether there was anything.
	TakeBack(ctx context.Context) bool
}

// takeBackTime is how long TakeBack may take: a destruction in the token, and what goes before and after it in the store.
const takeBackTime = 30 * time.Second

// Perform makes a call. form is what is wrong with the form of the input, or nil; run is the operation itself. An error of
// keystore.ErrConflict from run of an operation that writes means that somebody else was faster: the call is decided anew.
func Perform[S any](ctx context.Context, op *ops.Operation, c Call[S], log audit.Writer, form error,
	run func(context.Context, S) error) error {
	var s S
	var intended bool
	if op.Writes {
		ctx = audit.CollectWrites(ctx)
	}
	err := form
	if err == nil {
		s, intended, err = attempt(ctx, op, c, log, run)
	}
	err = c.Answer(ctx, s, err)
	e := c.Event(s)
	e.Intended, e.Err, e.Wrote = intended, err, audit.WritesOf(ctx)
	failure := log.Record(ctx, e)
	if failure == nil {
		return err
	}
	unrecorded := c.Answer(ctx, s, failure)
	if intended && err == nil {
		takeBack(ctx, c, log, e, unrecorded)
	}
	return unrecorded
}

// takeBack undoes what a call has created whose outcome was not recorded. Its record tells that, if it can be written by now; if not, the
// intent stays open, which doctor lists.
func takeBack[S any](ctx context.Context, c Call[S], log audit.Writer, e audit.Event, answer error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTime)
	defer cancel()
	if c.TakeBack(ctx) {
		e.Err, e.Wrote = answer, audit.WritesOf(ctx)
		_ = log.Record(ctx, e)
	}
}

// attempt makes the call, and tells whether the audit log was asked and agreed.
func attempt[S any](ctx context.Context, op *ops.Operation, c Call[S], log audit.Writer,
	run func(context.Context, S) error) (s S, intended bool, err error) {
	if err := c.Check(); err != nil {
		return s, false, err
	}
	for charged := false; ; {
		began := c.Now()
		s, err = permitted(ctx, op, c)
		if err == nil && !charged {
			charged, err = true, c.Throttle(s)
		}
		if err == nil {
			err = c.Fits(ctx, s)
		}
		if err == nil && op.Writes && !intended && !c.DryRun() {
			e := c.Event(s)
			e.Kind = audit.Intent
			err = log.Intend(ctx, e)
			intended = err == nil
		}
		if err == nil {
			err = run(ctx, s)
		}
		// A token that is busy or hangs can take longer than a permission may get old. Then the result counts only if
		// the key may still be used.
		if took := c.Now().Sub(began); err == nil && op.States == ops.EnabledOnly && (took < 0 || took >= RecheckInterval) {
			err = MayStill(ctx, op, c)
		}
		if !op.Writes || !errors.Is(err, keystore.ErrConflict) || ctx.Err() != nil {
			return s, intended, err
		}
	}
}

// MayStill asks again whether the caller may make a call that is under way. It takes no second request from the caller's rate.
func MayStill[S any](ctx context.Context, op *ops.Operation, c Call[S]) error {
	s, err := permitted(ctx, op, c)
	if err == nil {
		err = c.Fits(ctx, s)
	}
	return err
}

// permitted returns the subject if the caller may run the operation on it. What is cached counts only where it permits; a
// refusal is decided on what the store says now.
func permitted[S any](ctx context.Context, op *ops.Operation, c Call[S]) (S, error) {
	var none S
	if op.Writes {
		if err := c.Bind(ctx); err != nil {
			return none, err
		}
	} else {
		s, ok, err := c.Cached(ctx)
		if err != nil {
			return none, err
		}
		if ok && c.Authorise(ctx, s, true) == nil {
			return s, nil
		}
	}
	s, missing, err := c.Stored(ctx)
	if err != nil {
		return s, err
	}
	if err := c.Authorise(ctx, s, false); err != nil {
		return s, err
	}
	return s, missing
}
