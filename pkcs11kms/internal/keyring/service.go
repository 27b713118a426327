package keyring

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// ServicePrefix begins the ids of service keys: keys of the bridge's own. The record of one is a key record of no account, so that no
// KeyId can name it, and its id, which is also the CKA_LABEL, says what it is for.
const ServicePrefix = "pkcs11kms/service/"

// SecretsKey is the service key that makes the secrets of access keys. It is made in the token of the default region, unless that makes no
// HMAC keys and another one's does, and stays where it was made, whichever region is the default one later, or for one command. Where no
// token makes HMAC keys it is an RSA pair.
const SecretsKey = ServicePrefix + "access-keys"

// serviceKey says which service key is meant.
type serviceKey struct {
	name string
	// regions are those that can have it, of which at most one does. It is made in the first, which must be open.
	regions []string
	spec    *Spec // that it is made of
}

// pairPatience is how much longer the making of a key pair may take: smart cards search for the primes of an RSA key for many seconds.
const pairPatience = time.Minute

// secretsAlgorithm is by which an RSA pair stands in for an HMAC key: PKCS#1 v1.5, whose signature of a message is always the same one. One
// of an elliptic curve is another each time.
var secretsAlgorithm = pubkey.PKCS1SHA256

// SecretsMAC makes 32 bytes of a message that nobody can make without the service key of access keys, which is made when it is not there:
// its HMAC-SHA-256 or, by an RSA pair, the SHA-256 of its signature.
func (r *Ring) SecretsMAC(ctx context.Context, message []byte) ([]byte, error) {
	k, err := r.service(ctx, r.secretsKey())
	if err != nil {
		return nil, err
	}
	switch key := k.Material.(type) {
	case *HMAC:
		return key.MAC(ctx, message)
	case *Pair:
		if key.Makes(secretsAlgorithm) && key.Spec.Pair.RSABits() > 0 {
			signature, err := key.Sign(ctx, secretsAlgorithm, message)
			sum := sha256.Sum256(signature)
			return sum[:], err
		}
	}
	return nil, fmt.Errorf("the service key %s has the spec %s", k.Record.ID, k.Record.Spec)
}

// secretsKey says of what and where the service key of access keys is made when it is not there.
func (r *Ring) secretsKey() serviceKey {
	mac := MACSpecOf(types.KeySpecHmac256)
	home := serviceKey{SecretsKey, r.cfg.Regions, mac}
	for _, spec := range []*Spec{mac, SignSpecOf(types.KeySpecRsa2048, types.KeyUsageTypeSignVerify)} {
		for i, name := range r.cfg.Regions {
			in := r.regions[name]
			switch {
			case in == nil:
			case i == 0 && in.Token.Info() == token.Info{}:
				return home // nobody knows yet what it can do
			case in.Token.Info() != token.Info{} && spec.Gap(in.Token) == nil:
				return serviceKey{SecretsKey, slices.Concat(r.cfg.Regions[i:], r.cfg.Regions[:i]), spec}
			}
		}
	}
	return home
}

// RenewSecretsKey makes the service key of access keys anew if its object is gone from its region's token. It reports whether it did: then
// the secret of every access key is another than before.
func (r *Ring) RenewSecretsKey(ctx context.Context) (renewed bool, err error) {
	want := r.secretsKey()
	k, err := r.findService(ctx, want)
	if errors.Is(err, keystore.ErrNotFound) {
		return false, nil // it is made when it is needed
	}
	if err != nil {
		return false, err
	}
	in, spec := r.regions[k.Record.Region], MACSpecOf(types.KeySpec(k.Record.Spec))
	if spec == nil {
		return false, nil // a pair is looked for otherwise
	}
	if _, err := in.Token.Describe(ctx, k.Record.CKAID); !errors.Is(err, token.ErrKeyMissing) {
		return false, err
	}
	_, err = r.make(ctx, in, spec, in.NewRecord("", want.name), place{expect: k.Version}, nil)
	return err == nil, err
}

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
		k, err := r.findService(ctx, want)
		if !errors.Is(err, keystore.ErrNotFound) {
			return k, err
		}
		k, err = r.makeService(ctx, want)
		if !errors.Is(err, keystore.ErrConflict) {
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
