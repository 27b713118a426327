package main

import (
	"context"
	"fmt"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// What serve does when calls into a token's PKCS#11 module do not come back. No call can be ended but by ending the process.
const (
	hangWait = "wait"
	hangExit = "exit"
)

// hangError ends a server whose token hangs, so that the service manager starts another.
type hangError struct {
	region, waiting string
	since           time.Time
}

func (e *hangError) Error() string {
	return fmt.Sprintf("the token of region %s hangs: %s has not come back since %s", e.region, e.waiting, e.since.UTC().Format(time.RFC3339))
}

func (e *hangError) Hint() string {
	return "see what keeps the token or its PKCS#11 module from answering"
}

// hangLook is how often the tokens are looked at.
const hangLook = 250 * time.Millisecond

// watchHangs ends the run when a token has hung for so long that it is not to be waited for. It ends with ctx.
func (s *serving) watchHangs(ctx context.Context, bridge *pkcs11kms.Bridge) {
	lookEach(ctx, hangLook, func() (done bool) {
		for region, t := range bridge.Stats().Tokens {
			if t.Hangs && time.Since(t.WaitingSince) > s.hangTime {
				s.stop(&hangError{region, t.Waiting, t.WaitingSince})
				return true
			}
		}
		return false
	})
}

// lookEach calls look at each interval until it is done, or ctx ends.
func lookEach(ctx context.Context, interval time.Duration, look func() (done bool)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if look() {
			return
		}
	}
}
