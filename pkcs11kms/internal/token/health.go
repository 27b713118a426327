package token

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// The health of a token is asked on the session that stays open and not on one of the pool, so that a token all of whose
// sessions are in use is told from one that does not answer.

// healthMessage is what a check signs; the result is thrown away.
var healthMessage = []byte("a check of the health of this token")

// Healthy makes a round trip to the token. It returns ErrGone if the device is lost, and ErrBusy if the check itself did
// not get its turn but the token answers others or is making a key.
func (t *Token) Healthy(ctx context.Context) error { return t.check(ctx, nil) }

// HealthyMAC is Healthy with a MAC by the key, as MAC makes it, whose errors it returns.
func (t *Token) HealthyMAC(ctx context.Context, k *Key) error {
	if err := t.owns(k); err != nil {
		return err
	}
	return t.check(ctx, func(s *session) error {
		_, err := s.mac(k, healthMessage)
		return err
	})
}

// HealthySignature is Healthy with a signature by the pair, as Sign makes it, whose errors it returns.
func (t *Token) HealthySignature(ctx context.Context, p *Pair, a pubkey.Algorithm) error {
	if err := t.ownsPair(p); err != nil {
		return err
	}
	if gap := t.AlgorithmGap(p.spec, a); gap != nil {
		return gap
	}
	return t.check(ctx, func(s *session) error {
		return s.withObject(&p.named, func(object pkcs11.ObjectHandle) error {
			_, err := s.signBy(p, object, a, healthMessage, false)
			return err
		})
	})
}

// check makes a round trip and runs try; if the module has lost sight of the objects and finds them again, once more.
func (t *Token) check(ctx context.Context, try func(*session) error) error {
	if t.closing.Err() != nil {
		return ErrClosed
	}
	if err := t.wrong(); err != nil {
		return err
	}
	served := t.pool.successes()
	generation, err := t.tryOnKeeper(ctx, try)
	if errors.Is(err, errTogether) { // the token itself is well
		generation, err = t.tryWhenBack(ctx, try)
	} else if looksLost(err) && !errors.Is(err, ErrGone) || passing(err) { // once more, as a call would
		generation, err = t.tryOnKeeper(ctx, try)
	}
	for range regainTries {
		if !t.mayRegain(err) {
			break
		}
		if err = t.regain(ctx, &operation{generation: generation}, err); err == nil {
			generation, err = t.tryWhenBack(ctx, try)
		}
	}
	_, hung := errors.AsType[*HungError](err)
	if !hung && !errors.Is(err, ErrBusy) {
		return err
	}
	if t.making.Load() > 0 || t.pool.successes() != served {
		return fmt.Errorf("%w: the check waits behind other calls, which are answered", ErrBusy)
	}
	if !hung {
		err = newHungError("an earlier check") // ErrBusy would say that trying again is enough
	}
	return err
}

// Await waits while the device is lost, as every call does: until the outage is as old as Config.CallTimeout. It returns ErrGone if it is
// lost still. After it has returned nil once, Info and Capabilities are known.
func (t *Token) Await(ctx context.Context) error {
	o := t.outage.Load()
	if o == nil {
		return nil
	}
	timer := time.NewTimer(time.Until(o.since.Add(t.timeout)))
	defer timer.Stop()
	select {
	case <-o.over:
		return nil
	case <-t.closing.Done():
		return ErrClosed
	case <-ctx.Done():
	case <-timer.C:
	}
	return o.err()
}

func (t *Token) tryWhenBack(ctx context.Context, try func(*session) error) (generation uint64, err error) {
	if err := t.Await(ctx); err != nil {
		return 0, err
	}
	return t.tryOnKeeper(ctx, try)
}

// tryOnKeeper asks the device and runs try. It returns the generation of before.
func (t *Token) tryOnKeeper(ctx context.Context, try func(*session) error) (generation uint64, err error) {
	tried := make(chan error, 1) // the call can go on after we have gone
	tried <- nil
	generation = t.generation.Load()
	err = t.ask(ctx, t.timeout, func(s *session) {
		if try == nil {
			return
		}
		err := try(s)
		if !keepsSession(err) { // an operation may have been left active
			err = errors.Join(err, s.renew())
		}
		<-tried
		tried <- err
	})
	switch {
	case err == nil:
		err = <-tried
	case looksLost(err) && !errors.Is(err, ErrGone):
		err = cmp.Or(t.loseIn(generation, err), err)
	}
	return generation, err
}
