package guard

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// Rates holds how many requests a second accounts make of each class, in one process. The zero Rates is ready, and safe for concurrent use.
type Rates struct {
	limiters sync.Map // rateKey -> *rate.Limiter
}

type rateKey struct {
	account, region string
	class           *ops.Rate
}

// Take takes one request from the rate of an account in a region, and tells whether there was one left.
func (r *Rates) Take(account, region string, class *ops.Rate, now time.Time) bool {
	name := rateKey{account, region, class}
	limiter, ok := r.limiters.Load(name)
	if !ok {
		fresh := rate.NewLimiter(rate.Limit(class.PerSecond), max(1, int(class.PerSecond)))
		limiter, _ = r.limiters.LoadOrStore(name, fresh)
	}
	return limiter.(*rate.Limiter).AllowN(now, 1)
}

// Clear gives all accounts all of their rates again.
func (r *Rates) Clear() { r.limiters.Clear() }
