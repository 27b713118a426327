package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/miekg/pkcs11"
)

// This file brings a lost device back. While it is lost, nobody but the goroutine of bringBack calls the module, apart from calls that
// were inside when it was lost. First the token gets new sessions and a login of its own, which is enough where the device was away and
// the module has noticed. Otherwise the module is initialised anew (measured: p11-kit needs it), which takes every token of the module
// along, so that is done when all of them in this process are lost; or, when one stays lost beside others that work, in a pause that
// these are asked to make. C_Finalize is never called while a call of ours is inside.

const (
	firstBackoff = 5 * time.Millisecond
	lastBackoff  = 250 * time.Millisecond
	// flapping is how long a device must have been back for the next outage to begin with the first back-off again.
	flapping = time.Second
	// disturbEvery is how often the working tokens of a module are asked for a pause, and pauseLimit how long one may take.
	disturbEvery = time.Minute
	pauseLimit   = time.Second
	// anotherBackoff is the longest pause where another token stands in the place of the one that is meant: each attempt is a login to it.
	anotherBackoff = 30 * time.Second
	// loginPause is between two attempts to log in that are neither good nor refused: a token could count them as wrong PINs.
	loginPause = 500 * time.Millisecond
)

// bringBack tries until the device is back or the Token is closed. It is the goroutine of one outage.
func (t *Token) bringBack(o *outage) {
	if back := t.back.Load(); back == nil || o.since.Sub(*back) > flapping {
		t.backoff = firstBackoff
	}
	t.retire(t.pool.dropFree()) // which leaves them with the outage
	for {
		err := t.attempt(o)
		if err == nil || t.closing.Err() != nil {
			return // without another look at the Token: the next outage has its own goroutine
		}
		t.asked = false
		if isAnother(err) {
			t.mistaken.Add(1)
		}
		if o.failed(err) {
			t.log.Warn("the token is not there yet", "token", t.name(), "error", err, "waits_for_a_person", needsPerson(err))
		}
		if !t.waitForNext(o, err) {
			return
		}
	}
}

// waitForNext waits until the next attempt is due; false if there is none, since the Token is closed.
func (t *Token) waitForNext(o *outage, err error) bool {
	var due <-chan time.Time
	if !needsPerson(err) {
		last := lastBackoff
		if isAnother(err) {
			last = anotherBackoff
		}
		pause := t.backoff + rand.N(t.backoff/4+1)
		t.backoff = min(2*t.backoff, last)
		timer := time.NewTimer(min(pause, last))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-t.closing.Done():
		return false
	case <-o.retry:
		t.asked = true
	case <-due:
	}
	return true
}

// Retry makes a lost token try at once to come back, also after its PIN was refused, as Config.TryLowPIN says, but not by the PIN file that
// was refused: for a person who has mended something. A token that is up goes on.
func (t *Token) Retry() {
	if o := t.outage.Load(); o != nil {
		select {
		case o.retry <- struct{}{}:
		default:
		}
	}
}

// needsPerson reports whether trying again by itself would do harm, since each attempt costs one of the PIN, or a half-written file
// could be taken for it.
func needsPerson(err error) bool {
	e, ok := errors.AsType[*OpenError](err)
	if !ok {
		return false
	}
	switch e.Reason {
	case PINRefused, PINLocked, PINAttemptUnsafe, PINSource, BadURI, ConfigConflict:
		return true
	}
	return false
}

// attempt tries once to bring the device back.
func (t *Token) attempt(o *outage) (err error) {
	defer o.do("")
	o.do("another part of the process that opens or closes a token of the module")
	if err := t.loaded.lock(t.closing); err != nil {
		return err
	}
	defer t.loaded.unlock()
	o.do("a check of the device that is under way")
	if err := t.takeKeeperAlone(t.closing, min(t.timeout, pauseLimit)); err != nil {
		return err
	}
	defer t.keeper.release()
	if err := t.enter(o); err != nil {
		return err
	}
	if !o.anew {
		if err = t.comeBack(o); err == nil || needsPerson(err) {
			return err
		}
	}
	if refused := t.reinitialize(o); refused != nil {
		return errors.Join(err, refused)
	}
	o.anew = false
	return t.comeBack(o)
}

// takeKeeperAlone is takeKeeper for whoever brings a device back.
func (t *Token) takeKeeperAlone(ctx context.Context, wait time.Duration) error {
	err := t.keeper.busy.takeWithin(ctx, wait)
	if err == nil && t.closing.Err() != nil {
		t.keeper.release()
		err = ErrClosed
	}
	if errors.Is(err, ErrBusy) {
		err = errors.New("a check of the device has not come back")
	}
	return err
}

// enter makes sure that the module is initialised, and that this Token counts as its user.
func (t *Token) enter(o *outage) error {
	o.do("C_Initialize")
	err := t.loaded.acquire(t)
	if epoch := t.loaded.epoch.Load(); t.epoch.Swap(epoch) != epoch {
		o.anew = false // somebody has done it since
	}
	return err
}

// comeBack connects by new sessions, and ends the outage. The caller holds the module's lock and keeper.busy.
func (t *Token) comeBack(o *outage) error {
	t.keeper.session.close() // which leaves it with the outage: the last session that is closed ends the login
	err := t.attach(t.closing, o.do)
	if isRV(err, pkcs11.CKR_SESSION_COUNT) {
		t.closeAllLeft(o) // they may be what is in the way
		err = t.attach(t.closing, o.do)
	}
	if err != nil {
		t.leave() // so that attempts in vain use up no sessions
		return err
	}
	o.do("C_CloseSession of the sessions from before")
	t.closeAllLeft(o)
	// A call that was under way may have opened a session and found handles since the loss was declared, in a login that is over by now.
	t.keeper.session.generation = t.generation.Add(1)
	if o.again > 0 && t.facts().quirk.losesSight { // otherwise what is not seen may be so because sight of it was lost
		t.noteUnseen()
	}
	now := time.Now()
	t.back.Store(&now)
	t.asked = false
	t.connection.Store(newConnection())
	t.outage.Store(nil)
	late := o.end()
	t.pool.resume()
	for _, s := range late {
		t.closeLeft(s)
	}
	if errors.Is(o.first, errNotReached) {
		level := slog.LevelDebug
		if o.hasFailed() {
			level = slog.LevelInfo
		}
		t.log.Log(t.closing, level, "the token was reached", "token", t.name(), "after", now.Sub(o.since).Round(time.Millisecond))
		return nil
	}
	t.log.Warn("the token is back", "token", t.name(), "lost_for", now.Sub(o.since).Round(time.Millisecond), "module_initialised", o.again)
	return nil
}

// closeAllLeft closes the sessions of the connection before, whose handles the module may still keep.
func (t *Token) closeAllLeft(o *outage) {
	for _, s := range t.pool.dropFree() {
		s.end(false) // which leaves it with the outage
	}
	for _, s := range o.takeLeft() {
		t.closeLeft(s)
	}
	for _, s := range t.unclosed.takeAll() {
		t.closeLeft(s)
	}
}

// Errors that say why the module is not initialised anew.
var (
	errHostOwned = errors.New("new sessions do not help, and only the application can initialise the module anew, since it has done so first")
	errWorking   = errors.New("new sessions do not help, and other tokens of the module work in this process, " +
		"so the module is not initialised anew now")
	errTogether = errors.New("the PKCS#11 module was initialised anew for another token that was lost")
)

// reinitialize finalizes and initialises the module. The caller holds its lock and keeper.busy.
func (t *Token) reinitialize(o *outage) error {
	if t.loaded.hostOwned {
		return errHostOwned
	}
	o.do("calls inside the module")
	if err := t.quiet(t.closing, pauseLimit); err != nil {
		return err
	}
	others, working := t.loaded.others(t)
	if working {
		if time.Since(o.since) < t.timeout || time.Since(t.disturbed) < disturbEvery {
			return errWorking
		}
		t.disturbed = time.Now()
	}
	resume, err := pauseAll(t.closing, others)
	defer resume()
	if err != nil {
		return err
	}
	o.do("C_Finalize and C_Initialize")
	if err := t.loaded.restart(t); err != nil {
		return err
	}
	t.reinitialized.Add(1)
	t.epoch.Store(t.loaded.epoch.Load())
	for _, other := range others {
		_ = other.lose(errTogether, false)
	}
	o.again++
	if working {
		t.log.Warn("the tokens of the PKCS#11 module were asked for a pause, and it was initialised anew, to bring a token back",
			"token", t.name(), "module", t.loaded.path)
	}
	return nil
}

// quiet waits a moment until no call of the Token's sessions is inside the module. Its pool must be held.
func (t *Token) quiet(ctx context.Context, wait time.Duration) error {
	empty := t.pool.empty()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	if hung, _ := t.pool.oldestHung(); hung != nil {
		return fmt.Errorf("%s is inside the module since %s, so it cannot be initialised anew", hung.Func, hung.since.UTC().Format(time.RFC3339))
	}
	return errors.New("calls are inside the module, so it cannot be initialised anew")
}

// pauseAll keeps other Tokens of the module from calling it, until resume.
func pauseAll(ctx context.Context, others []*Token) (resume func(), err error) {
	var undo []func()
	resume = func() {
		for _, f := range undo {
			f()
		}
	}
	for _, other := range others {
		if hung, _ := other.pool.oldestHung(); hung != nil {
			return resume, fmt.Errorf("a call of the token %s hangs inside the module, so it cannot be initialised anew", other.name())
		}
	}
	for _, other := range others {
		other.pool.hold()
		undo = append(undo, other.pool.resume)
	}
	end := time.Now().Add(pauseLimit)
	for _, other := range others {
		if err := other.quiet(ctx, time.Until(end)); err != nil {
			return resume, err
		}
		if err := other.takeKeeperAlone(ctx, time.Until(end)); err != nil {
			return resume, err
		}
		undo = append(undo, other.keeper.release)
	}
	return resume, nil
}
