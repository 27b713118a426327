package token

import (
	"sync/atomic"
	"time"
)

// pace is how long a MAC takes the token, as far as it was looked at: the first MAC of each session, and then one in paceEvery, so that
// the clock costs next to nothing.
type pace struct{ average atomic.Int64 } // nanoseconds; 0: not known

// paceEvery is a power of two. paceWeight is how many MACs the average is of.
const (
	paceEvery  = 64
	paceWeight = 8
)

// note takes a MAC's time into the average. Of two that come at once one may be lost.
func (p *pace) note(took time.Duration) {
	average := p.average.Load()
	if average == 0 {
		average = int64(took)
	}
	p.average.Store(max(1, average+(int64(took)-average)/paceWeight))
}

// MACTime is how long a MAC takes the token, about; 0 while none was made.
func (t *Token) MACTime() time.Duration { return time.Duration(t.pace.average.Load()) }

// paced notes the time of a MAC that began then; the zero time is of one that is not looked at.
func (p *pace) paced(began time.Time, err error) {
	if err == nil && !began.IsZero() {
		p.note(time.Since(began))
	}
}

// looked is the time of now, where the session's next MAC is one that is looked at.
func (s *session) looked() (began time.Time) {
	if s.macs++; s.macs%paceEvery == 1 {
		began = time.Now()
	}
	return began
}
