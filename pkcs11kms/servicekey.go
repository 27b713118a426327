package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// secretsKey makes the secrets of access keys.
const secretsKey = keyring.ServicePrefix + "access-keys"

// serviceRegions are the configured regions, open or not, in which a service key may be: the default region first.
func (b *Bridge) serviceRegions() []string { return b.defaultFirst(maps.Keys(b.cfg.Regions)) }

// findServiceKey returns the service key, in whatever region it is, or keystore.ErrNotFound.
func (b *Bridge) findServiceKey(ctx context.Context, name string) (*key, error) {
	for _, region := range b.serviceRegions() {
		k, err := b.key(ctx, keystore.KeyRef(region, "", name), false)
		if !errors.Is(err, keystore.ErrNotFound) {
			return k, err
		}
	}
	return nil, keystore.ErrNotFound
}

// serviceKey returns a service key, making it when it is not there. Two who begin at once cannot make two: the record has a fixed
// name, so that one of them waits for the other, and there must be none in another region.
func (b *Bridge) serviceKey(ctx context.Context, name string) (*key, error) {
	home := b.regions[b.cfg.DefaultRegion]
	ref := keystore.KeyRef(home.name, "", name)
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	ctx, cancel := context.WithTimeout(ctx, b.cfg.CallTimeout)
	defer cancel()
	for {
		k, err := b.findServiceKey(ctx, name)
		if err == nil || !errors.Is(err, keystore.ErrNotFound) {
			return k, err
		}
		at, err := b.servicePlace(ctx, ref)
		if err == nil {
			k, err = b.makeKey(ctx, home, keyring.MACSpecOf(types.KeySpecHmac256), newKeyRecord(home, "", name), at, nil)
		}
		if !errors.Is(err, keystore.ErrConflict) {
			return k, err
		}
		// Somebody else is at it, or died over it.
		_, _ = b.tidyOnce(ctx) // logs what fails
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the service key %s: %w", name, ctx.Err())
		}
	}
}

// servicePlace is the place of a service key at ref, if no other region has it.
func (b *Bridge) servicePlace(ctx context.Context, ref keystore.Ref) (at place, err error) {
	for _, region := range b.serviceRegions() {
		other := keystore.KeyRef(region, "", ref.ID)
		version, err := b.abandoned(ctx, other)
		if err != nil {
			return place{}, err
		}
		if other == ref {
			at.expect = version
			continue
		}
		at.others = append(at.others, keystore.Change{Op: keystore.Check, Ref: other, Expect: version})
	}
	return at, nil
}

// abandoned returns the version of a half-made record that the janitor cannot finish, since nothing proves that its maker
// is dead: it may be replaced, whereby its object, if there is one, is left alone. 0 when there is no record.
func (b *Bridge) abandoned(ctx context.Context, ref keystore.Ref) (uint64, error) {
	rec, err := b.store.Get(ctx, ref)
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
	free, err := b.store.TakeOver(ctx, record.Instance)
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
