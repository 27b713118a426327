package pkcs11kms

import (
	"context"
	"errors"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// Whether a key is there is none of the business of a caller who may not use it. So a refusal is the same for a key that is
// there and for one that is not, and costs the same calls of the store: one for the alias, if there is one in the request,
// and one for the key.

// subject is what a KeyId named: a key, or the place where one would be.
type subject struct {
	name    keyID // as the caller wrote it: a key or an alias
	id      string
	key     *key  // nil: there is none
	missing error // what a caller is told then who might have used it
}

// noKey is the id of no key. An alias that is not there leads to it.
const noKey = "00000000-0000-0000-0000-000000000000"

// arn is that of the key, or nothing when there is none.
func (s subject) arn() string {
	if s.key == nil {
		return ""
	}
	return s.key.ARN
}

// cachedSubject finds the key without asking the store for records. Its key is nil when that does not find it.
func (c *Client) cachedSubject(ctx context.Context, name keyID) (subject, error) {
	s := subject{name: name, id: name.id}
	if name.alias != "" {
		alias, ok, err := records.Cached[*aliasRecord](ctx, c.bridge.core.Cache, keystore.AliasRef(name.region, name.account, name.alias))
		if err != nil || !ok {
			return s, err
		}
		s.id = alias.record.Target
	}
	var err error
	s.key, _, err = records.Cached[*key](ctx, c.bridge.core.Cache, keystore.KeyRef(name.region, name.account, s.id))
	return s, err
}

// readSubject asks the store.
func (c *Client) readSubject(ctx context.Context, name keyID) (subject, error) {
	s := subject{name: name, id: name.id, missing: apierr.NotFound("Key '%s' does not exist", c.arn(name))}
	if name.alias != "" {
		s.missing = apierr.AliasNotFound(c.arn(name))
		alias, err := records.Fresh(ctx, c.bridge.core.Cache, keystore.AliasRef(name.region, name.account, name.alias), decodeAlias)
		switch {
		case errors.Is(err, keystore.ErrNotFound):
			s.id = noKey
		case err != nil:
			return s, err
		default:
			s.id = alias.record.Target
		}
	}
	k, err := c.bridge.key(ctx, keystore.KeyRef(name.region, name.account, s.id), true)
	if errors.Is(err, keystore.ErrNotFound) {
		return s, nil
	}
	s.key, s.missing = k, nil
	return s, err
}
