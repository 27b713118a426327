package iam

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// Signing keys are kept, so that not every request needs the token, and that requests can be authenticated while it is away: those of
// the day, and those of the day after, which are made of the same secret. The store still says whether the access key is good.

// credential is an active access key and the signing keys that were made from its secret. Whether its owner is still there
// is not part of it: that is looked at on every use.
type credential struct {
	record keystore.AccessKey

	mu      sync.Mutex           // guards the rest
	signing map[scope]signingKey // at most maxScopes
	epoch   Epoch                // of signing
}

// signingKey is the key of one scope, and that of the day after, which is made of the same secret: so that requests can still be
// authenticated after midnight when the token is away.
type signingKey struct {
	key, coming sigv4.Key
	hasComing   bool
}

type scope struct{ date, region, service string }

// maxScopes is more than the days, regions and services that a clock skew and a few tokens make.
const maxScopes = 64

// SigningKey returns the key that requests of an access key are signed with on a date (yyyymmdd), for a region and a service by
// its signing name, and the Caller that the access key stands for. Unknown and inactive ids, and those of an owner that was
// removed, are ErrUnknownAccessKey, and no secret is made for them. What it knows is cached as key records are: confirmed within
// the last second, or refused.
func (d *Directory) SigningKey(ctx context.Context, accessKeyID, date, region, service string) (sigv4.Key, Caller, error) {
	cred, err := records.CachedOrFresh(ctx, d.cfg.Cache, keystore.AccessKeyRef(accessKeyID), d.decodeCredential)
	var caller Caller
	if err == nil {
		caller, err = d.keyCaller(ctx, cred.record)
	}
	if errors.Is(err, keystore.ErrNotFound) {
		return sigv4.Key{}, Caller{}, ErrUnknownAccessKey
	}
	if err != nil {
		return sigv4.Key{}, Caller{}, err
	}
	epoch, err := d.cfg.Epoch(ctx, cred.record.Epoch)
	if err != nil {
		return sigv4.Key{}, Caller{}, err
	}
	s := scope{date, region, service}
	signing, ok := cred.known(s, epoch)
	if !ok {
		if signing, err = d.derive(ctx, cred, s, epoch); err != nil {
			return sigv4.Key{}, Caller{}, err
		}
	} else if !signing.hasComing {
		d.derivedLater(cred, s)
	}
	return signing.key, caller, nil
}

// known returns the key of a scope if it was made, also if it was made the day before.
func (c *credential) known(s scope, epoch Epoch) (signingKey, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch {
		clear(c.signing)
		c.epoch = epoch
		return signingKey{}, false
	}
	if signing, ok := c.signing[s]; ok {
		return signing, true
	}
	before, ok := c.signing[scope{dayAfter(s.date, -1), s.region, s.service}]
	if !ok || !before.hasComing {
		return signingKey{}, false
	}
	signing := signingKey{key: before.coming}
	c.keep(s, signing)
	return signing, true
}

// keep remembers the key of a scope. The caller holds mu.
func (c *credential) keep(s scope, signing signingKey) {
	if _, ok := c.signing[s]; !ok && len(c.signing) >= maxScopes {
		clear(c.signing)
	}
	c.signing[s] = signing
}

// derive makes the keys of a scope and of the day after. The epoch is of before.
func (d *Directory) derive(ctx context.Context, cred *credential, s scope, epoch Epoch) (signingKey, error) {
	secret, err := d.secretOf(ctx, cred.record)
	if err != nil {
		return signingKey{}, err
	}
	signing := signingKey{key: sigv4.SigningKey(secret, s.date, s.region, s.service)}
	if next := dayAfter(s.date, 1); next != "" {
		signing.coming, signing.hasComing = sigv4.SigningKey(secret, next, s.region, s.service), true
	}
	cred.mu.Lock()
	defer cred.mu.Unlock()
	if cred.epoch == epoch {
		cred.keep(s, signing)
	}
	return signing, nil
}

// dayAfter returns the date (yyyymmdd) so many days after another, or "" for what is no date.
func dayAfter(date string, days int) string {
	const layout = "20060102"
	t, err := time.Parse(layout, date)
	if err != nil {
		return ""
	}
	return t.AddDate(0, 0, days).Format(layout)
}

// comingKeys bounds how many keys wait to be made for the day after. One that finds no place comes again with the next request.
const comingKeys = 64

// comingPause is between two attempts that fail, since the token is away then.
const comingPause = time.Minute

// later is a scope whose key of the day after is to be made.
type later struct {
	cred  *credential
	scope scope
}

// derivedLater has the key of the day after made, which no request waits for.
func (d *Directory) derivedLater(cred *credential, s scope) {
	select {
	case d.coming <- later{cred, s}:
	default:
	}
}

// deriveComing makes keys of the day after until ctx ends.
func (d *Directory) deriveComing(ctx context.Context) {
	for {
		var next later
		select {
		case next = <-d.coming:
		case <-ctx.Done():
			return
		}
		if d.deriveNext(ctx, next) == nil {
			continue
		}
		pause := time.NewTimer(comingPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

// deriveNext makes the key of the day after, unless it was made or is of no use any more.
func (d *Directory) deriveNext(ctx context.Context, next later) error {
	epoch, err := d.cfg.Epoch(ctx, next.cred.record.Epoch)
	if err != nil {
		return err
	}
	if signing, ok := next.cred.known(next.scope, epoch); !ok || signing.hasComing {
		return nil
	}
	_, err = d.derive(ctx, next.cred, next.scope, epoch)
	return err
}

func (d *Directory) decodeCredential(rec keystore.Record) (*credential, error) {
	record, err := keystore.DecodeAccessKey(rec)
	if err != nil {
		return nil, err
	}
	if record.Status != keystore.AccessKeyActive {
		return nil, keystore.ErrNotFound
	}
	return &credential{record: record, signing: map[scope]signingKey{}}, nil
}
