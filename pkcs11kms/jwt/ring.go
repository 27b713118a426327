package jwt

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// reloadPause is how long an unknown kid does not make a ring ask KMS again: whoever sends tokens chooses their kid.
const reloadPause = 10 * time.Second

// ring is the keys of a Verifier as KMS tells them.
type ring struct {
	client Client
	ids    []string
	askKMS bool
	maxAge time.Duration
	now    func() time.Time

	current atomic.Pointer[loaded]
	turn    chan struct{} // has room for one: whoever put something in may ask KMS, and touch what follows
	tried   time.Time
	failure error // of that try; it is no verdict on a token
}

// loaded is what KMS told at a time. It is never changed.
type loaded struct {
	keys     map[string]*Key // by key id
	unusable error           // about the names that stand for no key in use, or for none that may be used
	at       time.Time
}

func newRing(cfg VerifierConfig) *ring {
	return &ring{client: cfg.Client, ids: append([]string(nil), cfg.KeyIDs...), askKMS: cfg.AskKMS, maxAge: cfg.MaxAge, now: cfg.Now,
		turn: make(chan struct{}, 1)}
}

// find returns the key of a kid. It asks KMS when what is known is too old, or does not have the kid.
func (r *ring) find(ctx context.Context, kid string, _ *Method) (*Key, error) {
	if l := r.fresh(); l != nil && l.keys[kid] != nil {
		return l.keys[kid], nil
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l := r.fresh() // somebody else may have asked meanwhile
	if l == nil || l.keys[kid] == nil && !between(r.tried, r.now(), reloadPause) {
		l, r.failure = r.load(ctx)
		if err := r.failure; err != nil {
			if ctx.Err() != nil {
				r.failure = errCutOff // the end of one call's context is no news for others
			}
			return nil, err
		}
	}
	switch {
	case l.keys[kid] != nil:
		return l.keys[kid], nil
	case r.failure != nil:
		return nil, r.failure
	case l.unusable != nil:
		return nil, invalid(fmt.Errorf("%w; of those that may: %w", ErrUnknownKey, l.unusable))
	}
	return nil, invalid(ErrUnknownKey)
}

var errCutOff = errors.New("asking for the keys was cut off, and is not repeated for a few seconds")

// fresh returns what is known, or nil when that is too old or nothing.
func (r *ring) fresh() *loaded {
	if l := r.current.Load(); l != nil && between(l.at, r.now(), r.maxAge) {
		return l
	}
	return nil
}

// load asks KMS for all keys. One that is disabled or gone does not keep the others from verifying, nor does one that KMS
// does not allow: whoever may use certain keys and no others is told the same of an alias that is not there. When KMS does
// not answer or allows none, what is known stays.
func (r *ring) load(ctx context.Context) (*loaded, error) {
	r.tried = r.now()
	l := &loaded{keys: map[string]*Key{}, at: r.tried}
	var problems []error
	refused := false
	for _, id := range r.ids {
		key, err := r.key(ctx, id)
		switch {
		case unusable(err), denied(err):
			problems = append(problems, err)
			refused = refused || denied(err)
		case err != nil:
			return nil, err
		case l.keys[key.id] == nil:
			l.keys[key.id] = key
		}
	}
	l.unusable = errors.Join(problems...)
	if refused && len(l.keys) == 0 {
		return nil, l.unusable
	}
	r.current.Store(l)
	return l, nil
}

func (r *ring) key(ctx context.Context, id string) (*Key, error) {
	key, err := Resolve(ctx, r.client, id)
	if err != nil {
		return nil, err
	}
	if _, pair := pairSpecs[key.spec]; !pair || r.askKMS {
		return key, nil
	}
	return key.withPublicKey(ctx)
}
