package main

import (
	"context"
	"runtime"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// Go takes a processor away from a call of C after 20 us at the earliest, so that calls that take a token long hold up those that are to
// begin: with two processors 64 calls of a millisecond get two thirds of the rate that they could have, and with eight nearly all of it.
// Such calls wait in the token and need no processor, so that more of them cost nothing.
const (
	slowMAC       = 500 * time.Microsecond // far more than a token takes that computes on our own processors
	processorsFor = 4                      // calls of a slow token, for each of the machine's
	mostForSlow   = 32
	paceLook      = time.Second
)

// watchPace gives Go more processors when a token turns out to be slow, unless GOMAXPROCS in the environment says how many there are to
// be. It ends with ctx, or when that was done.
func (s *serving) watchPace(ctx context.Context, bridge *pkcs11kms.Bridge) {
	if envProcessors.value() != "" {
		return
	}
	more := min(processorsFor*runtime.NumCPU(), mostForSlow)
	if more <= runtime.GOMAXPROCS(0) {
		return
	}
	lookEach(ctx, paceLook, func() (done bool) {
		for region, took := range bridge.Stats().MACTimes {
			if took >= slowMAC {
				runtime.GOMAXPROCS(more)
				s.log.Info("the token takes long for a MAC, so Go gets more processors", "region", region,
					"mac", took.Round(time.Microsecond), "GOMAXPROCS", more)
				return true
			}
		}
		return false
	})
}
