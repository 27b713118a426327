package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// ServicePrefix begins the ids of service keys: HMAC keys of the bridge's own. One is made in the token of the default region and
// stays where it was made, whichever region is the default one later, or for one command. Its record is a key record of no
// account, so that no KeyId can name it, and its id, which is also the CKA_LABEL, says what it is for.
const ServicePrefix = "pkcs11kms/service/"

// SecretsKey is the service key that makes the secrets of access keys.
const SecretsKey = ServicePrefix + "access-keys"

// ServiceMAC makes the HMAC-SHA-256 of a message by a service key, which is made when it is not there.
func (r *Ring) ServiceMAC(ctx context.Context, name string, message []byte) ([]byte, error) {
	key, err := r.service(ctx, name)
	if err != nil {
		return nil, err
	}
	return key.MAC(ctx, message)
}

// service returns a service key, making it when it is not there. Two who begin at once cannot make two: the record has a fixed
// name, so that one of them waits for the other, and there must be none in another region.
func (r *Ring) service(ctx context.Context, name string) (*HMAC, error) {
	home := r.regions[r.cfg.Regions[0]]
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	ctx, cancel := context.WithTimeout(ctx, r.cfg.CallTimeout)
	defer cancel()
	for {
		key, err := r.findService(ctx, name)
		if !errors.Is(err, keystore.ErrNotFound) {
			return key, err
		}
		key, err = r.makeService(ctx, home, name)
		if !errors.Is(err, keystore.ErrConflict) {
			return key, err
		}
		_, _ = r.Tidy(ctx) // logs what fails
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the service key %s: %w", name, ctx.Err())
		}
	}
}

// findService returns the service key, in whatever region it is, or keystore.ErrNotFound.
func (r *Ring) findService(ctx context.Context, name string) (*HMAC, error) {
	for _, region := range r.cfg.Regions {
		key, err := r.serviceIn(ctx, region, name)
		if !errors.Is(err, keystore.ErrNotFound) {
			return key, err
		}
	}
	return nil, keystore.ErrNotFound
}

func (r *Ring) serviceIn(ctx context.Context, region, name string) (*HMAC, error) {
	k, err := records.CachedOrFresh(ctx, r.cache, keystore.KeyRef(region, "", name), r.Decode)
	if err != nil {
		return nil, err
	}
	key, ok := k.Material.(*HMAC)
	if !ok {
		return nil, fmt.Errorf("the service key %s has the spec %s", name, k.Record.Spec)
	}
	return key, nil
}

// makeService makes the service key, or returns keystore.ErrConflict when somebody else is at it, or died over it.
func (r *Ring) makeService(ctx context.Context, home *Region, name string) (*HMAC, error) {
	at, err := r.servicePlace(ctx, keystore.KeyRef(home.Name, "", name))
	if err != nil {
		return nil, err
	}
	spec := MACSpecOf(types.KeySpecHmac256)
	if gap := spec.Gap(home.Token); gap != nil {
		return nil, fmt.Errorf("the token of %s makes no %s keys, and so not the service key %s: %w", home.Name, spec.Name, name, gap)
	}
	k, err := r.make(ctx, home, spec, home.NewRecord("", name), at, nil)
	if err != nil {
		return nil, err
	}
	return k.Material.(*HMAC), nil
}

// servicePlace is the place of a service key at ref, if no other region has it.
func (r *Ring) servicePlace(ctx context.Context, ref keystore.Ref) (at place, err error) {
	for _, region := range r.cfg.Regions {
		other := keystore.KeyRef(region, "", ref.ID)
		version, err := r.abandoned(ctx, other)
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
