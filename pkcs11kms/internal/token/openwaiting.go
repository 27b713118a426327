package token

import (
	"context"
	"errors"
	"time"
)

// errNotReached is the cause of the first outage of a Token that was opened with Config.Wait.
var errNotReached = errors.New("it was not reached yet")

// openWaiting is Open with Config.Wait: the Token begins lost, and is brought to its first connection as it would be brought back.
func openWaiting(ctx context.Context, cfg Config) (*Token, error) {
	t, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	o := newOutage(errNotReached, false)
	t.outage.Store(o)
	t.disconnected()
	t.goroutines.Go(func() { t.bringBack(o) })
	if err = t.awaitFirst(ctx, o); err == nil {
		return t, nil
	}
	if ctx.Err() == nil {
		return nil, errors.Join(err, t.Close())
	}
	hung := newHungError("opening the token")
	hung.cause = ctx.Err()
	go func() {
		defer close(hung.done)
		_ = t.Close() // nobody is left to tell
	}()
	return nil, hung
}

// awaitFirst waits for the first connection, as long as that may take a device that is there. It returns what a person must mend.
func (t *Token) awaitFirst(ctx context.Context, o *outage) error {
	timer := time.NewTimer(t.timeout)
	defer timer.Stop()
	for first := true; ; first = false {
		select {
		case <-o.over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case err := <-o.tried:
			if wrongSetup(err) {
				return err
			}
			if first {
				timer.Reset(restartLimit) // errors of the moment have passed by then, see connect
			}
			continue
		case <-timer.C:
		}
		t.log.Error("the token cannot be reached; going on without it until it can be", "token", t.name(), "error", o.err())
		return nil
	}
}

// tellSlow returns what the steps of Open are named to, and what ends it. A step that takes long is logged, once.
func (t *Token) tellSlow() (step func(string), done func()) {
	var slow *time.Timer
	done = func() {
		if slow != nil {
			slow.Stop()
		}
	}
	return func(name string) {
		done()
		slow = time.AfterFunc(slowStep, func() {
			t.log.Warn("opening the token takes long", "token", t.uri.String(), "waiting_for", name)
		})
	}, done
}

// wrongSetup reports whether an error is not one of a device that is away, but of what it was told or of what is in its place.
func wrongSetup(err error) bool {
	if needsPerson(err) || isAnother(err) {
		return true
	}
	e, ok := errors.AsType[*OpenError](err)
	if !ok {
		return false
	}
	switch e.Reason {
	case ModuleMissing, TokenAmbiguous, SerialMismatch:
		return true
	}
	return false
}
