package iam

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"regexp"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// Access keys are what callers of the server sign their requests with.

// AccessKey is an access key as the calls of AWS IAM return it. Secret is set by CreateAccessKey alone.
type AccessKey struct {
	Owner   PrincipalName
	ID      string
	Secret  string
	Status  keystore.AccessKeyStatus
	Created time.Time

	LastUsed AccessKeyLastUsed // set by ListAccessKeys alone
}

// shown is an access key as the audit log shows what was made: without its secret.
func (k AccessKey) shown() map[string]any {
	return ownerInput(k.Owner, input{"accessKeyId": k.ID, "status": string(k.Status), "createDate": k.Created})
}

// The access keys that an owner may have. Those of users and roles are AWS IAM's number. The root's only bound a list to
// one page: every client had a key of the root's before there were users, and they are not counted in a record.
const (
	maxAccessKeys     = 2
	maxRootAccessKeys = 1000
)

var accessKeyIDPattern = regexp.MustCompile(`^\w+$`)

func checkAccessKeyID(id string) error {
	var v form.Violations
	v.Text("accessKeyId", id, 16, 128, accessKeyIDPattern)
	return invalid(v)
}

// checkOwner checks the name of an owner; the zero PrincipalName is the account's root, or says nothing.
func checkOwner(name PrincipalName) error {
	switch {
	case name.root():
		return nil
	case !name.Type.IsCaller():
		return failure(validationError, "A %s has no access keys.", name.Type)
	}
	return name.check()
}

// ownerInput is the input that names an owner, and more if it is there.
func ownerInput(name PrincipalName, more input) input {
	in := input{}
	if !name.root() {
		in = name.input()
	}
	maps.Copy(in, more)
	return in
}

// ownerID is the owner that the records of its access keys name.
func (s subject) ownerID() string {
	if s.root {
		return s.record.Account
	}
	return s.record.ID
}

// counted returns the change of a user's or role's number of access keys; of others none. It goes into the Commit that
// changes the key, so the quota holds for all processes at once, and a key and the deletion of its owner cannot pass each
// other.
func (s subject) counted(n int) []keystore.Change {
	if s.version == 0 {
		return nil
	}
	record := s.record
	record.AccessKeys = max(0, record.AccessKeys+n)
	return []keystore.Change{record.Put(s.version)}
}

// CreateAccessKey makes an active access key, with its secret, of a user or role, or of the account's root, which the zero
// PrincipalName names. LimitExceeded beyond two; the root may have 1,000.
func (c *Client) CreateAccessKey(ctx context.Context, owner PrincipalName) (made AccessKey, err error) {
	req := request{input: ownerInput(owner, nil), form: checkOwner(owner), find: c.about(owner), rootOnly: true}
	err = c.perform(ctx, ops.CreateAccessKey, req, func(ctx context.Context, x *call, s subject) error {
		made, err = x.createAccessKey(ctx, owner, s)
		x.output = map[string]any{"accessKey": made.shown()}
		return err
	})
	return answered(made, err)
}

func (c *call) createAccessKey(ctx context.Context, name PrincipalName, owner subject) (AccessKey, error) {
	if name.Type == keystore.PrincipalRole && c.dir.cfg.NoRoleAccessKeys {
		return AccessKey{}, failure(validationError, "This service makes no access keys of roles (role-access-keys): assume the role.")
	}
	if err := c.admitAccessKey(ctx, name, owner); err != nil {
		return AccessKey{}, err
	}
	epoch, holds, err := c.dir.cfg.Newest(ctx)
	if err != nil {
		return AccessKey{}, err
	}
	record := keystore.AccessKey{
		ID:      "AKIA" + randomBase32(16),
		Account: c.caller.account,
		Owner:   owner.ownerID(),
		Status:  keystore.AccessKeyActive,
		Created: c.Now().UTC().Truncate(time.Second),
	}
	if epoch > 1 {
		record.Epoch = epoch
	}
	// The secret first: an access key without one would be of no use.
	secret, err := c.dir.secretOf(ctx, record)
	if err != nil {
		return AccessKey{}, err
	}
	if err := c.commit(ctx, append(owner.counted(1), record.Put(0), holds)...); err != nil {
		return AccessKey{}, err
	}
	c.created = record.ID
	return AccessKey{Owner: name, ID: record.ID, Secret: secret, Status: record.Status, Created: record.Created}, nil
}

// takeBackAccessKey ends an access key that nobody was told of.
func (c *call) takeBackAccessKey(ctx context.Context, id string) error {
	return records.RetryConflicts(ctx, func() error {
		key, version, err := c.readKey(ctx, id)
		if err != nil || version == 0 {
			return err
		}
		owner, err := c.ownerOf(ctx, key)
		if err != nil {
			return err
		}
		key.Status = keystore.AccessKeyDeleted
		_, err = c.dir.cfg.Cache.Commit(ctx, append(owner.counted(-1), key.Put(version))...)
		return err
	})
}

// admitAccessKey returns LimitExceeded when the owner has as many access keys as it may have.
func (c *call) admitAccessKey(ctx context.Context, name PrincipalName, owner subject) error {
	if !owner.root {
		if owner.record.AccessKeys >= maxAccessKeys {
			return quotaExceeded("AccessKeysPer"+kindOf(name.Type).entity, maxAccessKeys)
		}
		return nil
	}
	have, err := c.accessKeysOf(ctx, name, owner)
	if err == nil && len(have) >= maxRootAccessKeys {
		err = quotaExceeded("AccessKeysPerUser", maxRootAccessKeys)
	}
	return err
}

// ListAccessKeys returns the access keys of a user or role, or of the account's root, ordered by id, without their secrets and
// with their last uses.
func (c *Client) ListAccessKeys(ctx context.Context, owner PrincipalName) (keys []AccessKey, err error) {
	req := request{input: ownerInput(owner, nil), form: checkOwner(owner), find: c.about(owner), rootOnly: true}
	err = c.perform(ctx, ops.ListAccessKeys, req, func(ctx context.Context, x *call, s subject) error {
		keys, err = x.accessKeysOf(ctx, owner, s)
		for i := range keys {
			if err == nil {
				keys[i].LastUsed, err = c.lastUse(ctx, keys[i].ID)
			}
		}
		return err
	})
	return answered(keys, err)
}

func (c *call) accessKeysOf(ctx context.Context, name PrincipalName, owner subject) ([]AccessKey, error) {
	value := keystore.OwnerValue(c.caller.account, owner.ownerID())
	recs, err := c.dir.cfg.Store.Lookup(ctx, keystore.IndexAccessKeyOwner, value, keystore.Ref{}, maxRootAccessKeys)
	if err != nil {
		return nil, err
	}
	keys := make([]AccessKey, len(recs))
	for i, rec := range recs {
		record, err := keystore.DecodeAccessKey(rec)
		if err != nil {
			return nil, err
		}
		keys[i] = AccessKey{Owner: name, ID: record.ID, Status: record.Status, Created: record.Created}
	}
	return keys, nil
}

// UpdateAccessKey sets the status to Active or Inactive. Every process refuses an inactive key within a second. The key
// must be owner's, unless that is the zero PrincipalName: then it may be anybody's.
func (c *Client) UpdateAccessKey(ctx context.Context, owner PrincipalName, id string, status keystore.AccessKeyStatus) error {
	var wrong error
	if status != keystore.AccessKeyActive && status != keystore.AccessKeyInactive {
		wrong = failure(validationError, "1 validation error detected: Value '%s' at 'status' failed to satisfy constraint: "+
			"Member must satisfy enum value set: [Active, Inactive]", status)
	}
	in := ownerInput(owner, input{"accessKeyId": id, "status": string(status)})
	return c.changeAccessKey(ctx, ops.UpdateAccessKey, request{input: in, form: wrong}, owner, id, status)
}

// DeleteAccessKey ends an access key for good. Its id is never used again. The key must be owner's, unless that is the
// zero PrincipalName: then it may be anybody's.
func (c *Client) DeleteAccessKey(ctx context.Context, owner PrincipalName, id string) error {
	in := ownerInput(owner, input{"accessKeyId": id})
	return c.changeAccessKey(ctx, ops.DeleteAccessKey, request{input: in}, owner, id, keystore.AccessKeyDeleted)
}

func (c *Client) changeAccessKey(
	ctx context.Context, op *ops.Operation, req request, owner PrincipalName, id string, status keystore.AccessKeyStatus,
) error {
	req.form = cmp.Or(req.form, checkAccessKeyID(id), checkOwner(owner))
	req.find, req.rootOnly = c.aboutKey(owner, id), true
	return c.perform(ctx, op, req, func(ctx context.Context, x *call, s subject) error {
		record := s.key
		record.Status = status
		changes := []keystore.Change{record.Put(s.keyVersion)}
		switch {
		case status == keystore.AccessKeyDeleted:
			changes = append(changes, s.counted(-1)...)
		case s.version > 0: // the owner's path and tags were decided on
			changes = append(changes, keystore.Change{Op: keystore.Check, Ref: s.record.Ref(), Expect: s.version})
		}
		return x.commit(ctx, changes...)
	})
}

// aboutKey returns what finds an access key that is not deleted, and whose it is: of that owner, unless it is the zero PrincipalName.
// It costs the same calls of the store whether there is one or not, and whosever it is.
func (c *Client) aboutKey(owner PrincipalName, id string) func(context.Context) (s subject, missing, err error) {
	return func(ctx context.Context) (s subject, missing, err error) {
		if !owner.root() {
			if s, missing, err = c.about(owner)(ctx); err != nil {
				return s, nil, err
			}
		}
		key, version, err := c.readKey(ctx, id)
		if err == nil && owner.root() {
			s, err = c.ownerOf(ctx, key)
			s.shown = "access key " + id // whose it is, if there is one, is told to those who may know
		}
		if missing == nil && (version == 0 || !owner.root() && key.Owner != s.record.ID) {
			missing = noSuchAccessKey(id)
		}
		s.key, s.keyVersion = key, version
		return s, missing, err
	}
}

// readKey reads an access key of the account that is not deleted; its version is 0 when there is none.
func (c *Client) readKey(ctx context.Context, id string) (keystore.AccessKey, uint64, error) {
	rec, err := c.dir.cfg.Store.Get(ctx, keystore.AccessKeyRef(id))
	if errors.Is(err, keystore.ErrNotFound) {
		return keystore.AccessKey{}, 0, nil
	}
	if err != nil {
		return keystore.AccessKey{}, 0, err
	}
	key, err := keystore.DecodeAccessKey(rec)
	if err != nil || key.Account != c.caller.account || key.Status == keystore.AccessKeyDeleted {
		return keystore.AccessKey{}, 0, err
	}
	return key, rec.Version, nil
}

// ownerOf reads the owner of an access key. One that is gone has no name, and counts nothing; nor has that of a key that there is not.
func (c *Client) ownerOf(ctx context.Context, key keystore.AccessKey) (s subject, err error) {
	rec, err := c.dir.cfg.Store.Get(ctx, keystore.PrincipalRef(c.caller.account, cmp.Or(key.Owner, "none")))
	switch {
	case key.Owner == c.caller.account:
		return c.root(), nil
	case errors.Is(err, keystore.ErrNotFound):
		return subject{arn: "*"}, nil
	case err != nil:
		return subject{}, err
	}
	record, err := keystore.DecodePrincipal(rec)
	return subject{arn: c.dir.principalARN(record), record: record, version: rec.Version}, err
}
