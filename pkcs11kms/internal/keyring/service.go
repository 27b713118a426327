package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// ServicePrefix begins the ids of service keys: keys of the bridge's own. The record of one is a key record of no account, so that no
// KeyId can name it, and its id, which is also the CKA_LABEL, says what it is for.
const ServicePrefix = "pkcs11kms/service/"

// serviceKey says which service key is meant.
type serviceKey struct {
	name string
	// regions are those that can have it, of which at most one does. It is made in the first, which must be open.
	regions []string
	spec    *Spec // that it is made of
}

// pairPatience is how much longer the making of a key pair may take: smart cards search for the primes of an RSA key for many seconds.
const pairPatience = time.Minute

// service returns a service key, making it when it is not there. Two who begin at once cannot make two: the record has a fixed
// name, so that one of them waits for the other, and there must be none in another region.
func (r *Ring) service(ctx context.Context, want serviceKey) (*Key, error) {
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	wait := r.cfg.CallTimeout
	if want.spec.Pair.Valid() {
		wait += pairPatience
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		k, err := r.tryService(ctx, want)
		if !errors.Is(err, keystore.ErrConflict) {
			if err != nil && ctx.Err() != nil {
				err = fmt.Errorf("waiting for the service key %s: %w", want.name, err)
			}
			return k, err
		}
		_, _ = r.Tidy(ctx) // logs what fails
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the service key %s: %w", want.name, ctx.Err())
		}
	}
}

// tryService returns the service key, or makes it; keystore.ErrConflict when somebody else is at it.
func (r *Ring) tryService(ctx context.Context, want serviceKey) (*Key, error) {
	k, err := r.findService(ctx, want)
	if errors.Is(err, keystore.ErrNotFound) {
		k, err = r.makeService(ctx, want)
	}
	return k, err
}

// findService returns the service key, in whatever region it is, or keystore.ErrNotFound.
func (r *Ring) findService(ctx context.Context, want serviceKey) (*Key, error) {
	for _, region := range want.regions {
		k, err := r.serviceIn(ctx, region, want.name)
		if !errors.Is(err, keystore.ErrNotFound) {
			return k, err
		}
	}
	return nil, keystore.ErrNotFound
}

func (r *Ring) serviceIn(ctx context.Context, region, name string) (*Key, error) {
	return records.CachedOrFresh(ctx, r.cache, keystore.KeyRef(region, "", name), r.Decode)
}

// makeService makes the service key, or returns keystore.ErrConflict when somebody else is at it, or died over it.
func (r *Ring) makeService(ctx context.Context, want serviceKey) (*Key, error) {
	at, err := r.servicePlace(ctx, want)
	if err != nil {
		return nil, err
	}
	home := r.regions[want.regions[0]]
	if gap := want.spec.Gap(home.Token); gap != nil {
		return nil, fmt.Errorf("the token of %s makes no %s keys, and so not the service key %s: %w", home.Name, want.spec.Name, want.name, gap)
	}
	return r.make(ctx, home, want.spec, home.NewRecord("", want.name), at, nil)
}

// servicePlace is the place of a service key in the first of its regions, if no other region has it.
func (r *Ring) servicePlace(ctx context.Context, want serviceKey) (at place, err error) {
	for i, region := range want.regions {
		ref := keystore.KeyRef(region, "", want.name)
		version, err := r.abandoned(ctx, ref)
		if err != nil {
			return place{}, err
		}
		if i == 0 {
			at.expect = version
			continue
		}
		at.others = append(at.others, keystore.Change{Op: keystore.Check, Ref: ref, Expect: version})
	}
	return at, nil
}

// abandoned returns the version of a half-made record that the janitor cannot finish, since nothing proves that its maker
// is dead: it may be replaced, whereby its object, if there is one, is left alone. 0 when there is no record.
func (r *Ring) abandoned(ctx context.Context, ref keystore.Ref) (uint64, error) {
	rec, err := r.cfg.Store.Get(ctx, ref)
	if errors.Is(err, keystore.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	record, err := keystore.DecodeKey(rec)
	if err != nil || !record.State.Unfinished() {
		return 0, err
	}
	free, err := r.cfg.Store.TakeOver(ctx, record.Instance)
	switch {
	case err == nil:
		free(false)
		return 0, nil
	case errors.Is(err, keystore.ErrUndecided):
		return rec.Version, nil
	case errors.Is(err, keystore.ErrAlive):
		return 0, nil
	}
	return 0, err
}
