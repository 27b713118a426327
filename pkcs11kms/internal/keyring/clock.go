package keyring

import (
	"context"
	"fmt"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// The store remembers the latest time that a process went by when it destroyed keys, so that a clock that went back does
// not count as the time it shows.
const (
	ClockCounter   = "clock"     // seconds since 1970
	clockPrecision = time.Hour   // how far the time must have moved to be written again
	clockTolerance = time.Minute // how far clocks of one machine are apart
)

// LatestTime is the latest time that the store has seen; the zero Time where it has seen none.
func (r *Ring) LatestTime(ctx context.Context) (time.Time, error) {
	latest, version, err := records.ReadCounter(ctx, r.cfg.Store, "", "", ClockCounter)
	if err != nil || version == 0 {
		return time.Time{}, err
	}
	return time.Unix(int64(latest.N), 0), nil
}

// checkClock refuses a clock that is behind the store's, and moves the store's on.
func (r *Ring) checkClock(ctx context.Context, now time.Time) error {
	return records.RetryConflicts(ctx, func() error {
		latest, version, err := records.ReadCounter(ctx, r.cfg.Store, "", "", ClockCounter)
		if err != nil {
			return err
		}
		seen := time.Unix(int64(latest.N), 0)
		switch {
		case now.Before(seen.Add(-clockTolerance)):
			return fmt.Errorf("the clock shows %s, but the store has seen %s: no key is destroyed",
				now.UTC().Format(time.RFC3339), seen.UTC().Format(time.RFC3339))
		case now.Before(seen.Add(clockPrecision)):
			return nil
		}
		latest.N = int(now.Unix())
		_, err = r.cache.Commit(ctx, latest.Put(version))
		return err
	})
}
