package token

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// connection is one time that the device is there, from the login to the loss, when its context ends.
type connection struct {
	context.Context
	end context.CancelFunc
}

func newConnection() *connection {
	ctx, end := context.WithCancel(context.Background())
	return &connection{ctx, end}
}

// outage is one loss of the device, from the moment that it is declared until the device is back.
type outage struct {
	since time.Time
	first error         // why it was declared
	anew  bool          // new sessions will not do: the module has to be initialised anew. Only bringBack uses it, and again
	again int           // how often that was done
	over  chan struct{} // closed when the device is back
	retry chan struct{} // of one place, see Retry
	tried chan error    // of one place: what the latest attempt met, for Open

	mu    sync.Mutex    // guards the rest
	last  error         // why the latest attempt to bring it back has failed; nil before the first
	step  string        // what the attempt under way waits for; empty between two
	began time.Time     // of step
	left  []leftSession // to be closed when the device is back
	ended bool
}

func newOutage(cause error, anew bool) *outage {
	return &outage{since: time.Now(), first: cause, anew: anew,
		over: make(chan struct{}), retry: make(chan struct{}, 1), tried: make(chan error, 1)}
}

// err says that the token is gone, why, and what is waited for.
func (o *outage) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	waiting := ""
	if o.step != "" && time.Since(o.began) > slowStep {
		waiting = fmt.Sprintf("; waiting for %s since %s", o.step, o.began.UTC().Format(time.RFC3339))
	}
	if o.last == nil {
		return fmt.Errorf("%w: %w%s", ErrGone, o.first, waiting)
	}
	return fmt.Errorf("%w: %w; bringing it back: %w%s", ErrGone, o.first, o.last, waiting)
}

// slowStep is how long a step may take before it is told.
const slowStep = time.Second

// do notes what is being done; "" between two attempts.
func (o *outage) do(step string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.step, o.began = step, time.Now()
}

// failed notes why an attempt has failed, and reports whether that is news.
func (o *outage) failed(err error) (news bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	news = o.last == nil || o.last.Error() != err.Error()
	o.last = err
	select {
	case o.tried <- err:
	default:
	}
	return news
}

// hasFailed reports whether an attempt has failed.
func (o *outage) hasFailed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last != nil
}

// waitsFor returns the step that takes long, and since when; "" if none does.
func (o *outage) waitsFor() (step string, since time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.step == "" || time.Since(o.began) < slowStep {
		return "", time.Time{}
	}
	return o.step, o.began
}

// leave keeps a session for closing when the device is back; false if it is.
func (o *outage) leave(s leftSession) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return false
	}
	o.left = append(o.left, s)
	return true
}

// takeLeft returns the sessions that were left so far.
func (o *outage) takeLeft() []leftSession {
	o.mu.Lock()
	defer o.mu.Unlock()
	left := o.left
	o.left = nil
	return left
}

// end lets nobody leave a session any more, tells that the device is back, and returns what was left in the last moment.
func (o *outage) end() []leftSession {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	close(o.over)
	return o.left
}

// State tells whether the device is there.
type State struct {
	Up bool
	// Since is when it was lost or came back; zero if it was never lost.
	Since time.Time
	// Err is ErrGone with why it is lost and what keeps it from coming back; nil while it is up.
	Err error
	// Waiting names the call of the module, or what else, that has taken long, since WaitingSince: a call that hangs. Empty if none does.
	Waiting      string
	WaitingSince time.Time
	// Hangs says that nothing is answered before what Waiting names comes back.
	Hangs bool
	// Losses counts the times that it was lost, Reinitialized how often the module was initialised anew to bring it back.
	Losses, Reinitialized uint64
}

// Mistaken counts the attempts to bring the device back that found another token in its place.
func (t *Token) Mistaken() uint64 { return t.mistaken.Load() }

// State returns the state of the connection. It asks nothing of the device.
func (t *Token) State() State {
	s := State{Up: true, Losses: t.losses.Load(), Reinitialized: t.reinitialized.Load()}
	if back := t.back.Load(); back != nil {
		s.Since = *back
	}
	hung, all := t.pool.oldestHung()
	if check := t.hungCheck.Load(); check != nil && check.running() && (hung == nil || check.since.Before(hung.since)) {
		hung = check
	}
	if hung != nil && hung.stays() {
		s.Waiting, s.WaitingSince, s.Hangs = hung.Func, hung.since, all
	}
	if o := t.outage.Load(); o != nil {
		s.Up, s.Since, s.Err = false, o.since, o.err()
		if step, since := o.waitsFor(); s.Waiting == "" && step != "" {
			s.Waiting, s.WaitingSince = step, since
		}
		s.Hangs = s.Waiting != ""
	}
	return s
}
