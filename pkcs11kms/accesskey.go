package pkcs11kms

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"regexp"
	"sync"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// Access keys are what callers of the server sign their requests with. The secret of an access key is stored nowhere: it
// is made anew, whenever it is needed, by the service key keyring.SecretsKey from the account, the owner and the id. So whoever
// may use the home token and this store can make every secret; showing one once is a convention, not a protection.

// AccessKey is an access key as the calls of AWS IAM return it. Secret is set by CreateAccessKey alone.
type AccessKey struct {
	Owner   PrincipalName
	ID      string
	Secret  string
	Status  keystore.AccessKeyStatus
	Created time.Time

	LastUsed AccessKeyLastUsed // set by ListAccessKeys alone
}

// The access keys that an owner may have. Those of users and roles are AWS IAM's number. The root's only bound a list to
// one page: every client had a key of the root's before there were users, and they are not counted in a record.
const (
	maxAccessKeys     = 2
	maxRootAccessKeys = 1000
)

// keyOwner is the principal that an access key belongs to.
type keyOwner struct {
	id      string             // as in keystore.AccessKey.Owner
	record  keystore.Principal // of a user or role
	version uint64             // of the record; 0: the account's root
}

// keyOwner reads the owner of that name.
func (b *Bridge) keyOwner(ctx context.Context, name PrincipalName) (keyOwner, error) {
	if name.root() {
		return keyOwner{id: b.cfg.AccountID}, nil
	}
	record, version, err := b.readPrincipal(ctx, name)
	return keyOwner{record.ID, record, version}, err
}

// keyOwnerByID reads the owner that an access key names. One that is gone is like the root: it counts nothing.
func (b *Bridge) keyOwnerByID(ctx context.Context, id string) (keyOwner, error) {
	if id == b.cfg.AccountID {
		return keyOwner{id: id}, nil
	}
	rec, err := b.store.Get(ctx, keystore.PrincipalRef(b.cfg.AccountID, id))
	if errors.Is(err, keystore.ErrNotFound) {
		return keyOwner{id: id}, nil
	}
	if err != nil {
		return keyOwner{}, err
	}
	record, err := keystore.DecodePrincipal(rec)
	return keyOwner{id, record, rec.Version}, err
}

// counted returns the change of a user's or role's number of access keys; of others none. It goes into the Commit that
// changes the key, so the quota holds for all processes at once, and a key and the deletion of its owner cannot pass each
// other.
func (o keyOwner) counted(n int) []keystore.Change {
	if o.version == 0 {
		return nil
	}
	record := o.record
	record.AccessKeys = max(0, record.AccessKeys+n)
	return []keystore.Change{record.Put(o.version)}
}

// CreateAccessKey makes an active access key, with its secret, of a user or role, or of the account's root. LimitExceeded
// beyond two; the root may have 1,000.
func (b *Bridge) CreateAccessKey(ctx context.Context, owner PrincipalName) (made AccessKey, err error) {
	err = records.RetryConflicts(ctx, func() error {
		made, err = b.createAccessKey(ctx, owner)
		return err
	})
	if err != nil {
		return AccessKey{}, err
	}
	return made, nil
}

func (b *Bridge) createAccessKey(ctx context.Context, name PrincipalName) (AccessKey, error) {
	owner, err := b.keyOwner(ctx, name)
	if err != nil {
		return AccessKey{}, err
	}
	if err := b.admitAccessKey(ctx, name, owner); err != nil {
		return AccessKey{}, err
	}
	record := keystore.AccessKey{
		ID:      "AKIA" + randomBase32(16),
		Account: b.cfg.AccountID,
		Owner:   owner.id,
		Status:  keystore.AccessKeyActive,
		Created: b.cfg.Now().UTC().Truncate(time.Second),
	}
	// The secret first: an access key without one would be of no use.
	secret, err := b.secretOf(ctx, record)
	if err != nil {
		return AccessKey{}, err
	}
	if _, err := b.cache.Commit(ctx, append(owner.counted(1), record.Put(0))...); err != nil {
		return AccessKey{}, err
	}
	return AccessKey{Owner: name, ID: record.ID, Secret: secret, Status: record.Status, Created: record.Created}, nil
}

// admitAccessKey returns LimitExceeded when the owner has as many access keys as it may have.
func (b *Bridge) admitAccessKey(ctx context.Context, name PrincipalName, owner keyOwner) error {
	if !name.root() {
		if owner.record.AccessKeys >= maxAccessKeys {
			return quotaExceeded("AccessKeysPer"+kindOf(name.Type).entity, maxAccessKeys)
		}
		return nil
	}
	have, err := b.accessKeysOf(ctx, name)
	if err == nil && len(have) >= maxRootAccessKeys {
		err = quotaExceeded("AccessKeysPerUser", maxRootAccessKeys)
	}
	return err
}

// ListAccessKeys returns the access keys of a user or role, or of the account's root, ordered by id, without their secrets and
// with their last uses.
func (b *Bridge) ListAccessKeys(ctx context.Context, name PrincipalName) ([]AccessKey, error) {
	keys, err := b.accessKeysOf(ctx, name)
	for i := range keys {
		if err == nil {
			keys[i].LastUsed, err = b.lastUse(ctx, keys[i].ID)
		}
	}
	if err != nil {
		return nil, err
	}
	return keys, nil
}

func (b *Bridge) accessKeysOf(ctx context.Context, name PrincipalName) ([]AccessKey, error) {
	owner, err := b.keyOwner(ctx, name)
	if err != nil {
		return nil, err
	}
	value := keystore.OwnerValue(b.cfg.AccountID, owner.id)
	recs, err := b.store.Lookup(ctx, keystore.IndexAccessKeyOwner, value, keystore.Ref{}, maxRootAccessKeys)
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
func (b *Bridge) UpdateAccessKey(ctx context.Context, owner PrincipalName, id string, status keystore.AccessKeyStatus) error {
	if status != keystore.AccessKeyActive && status != keystore.AccessKeyInactive {
		return iamError(iamValidation, "1 validation error detected: Value '%s' at 'status' failed to satisfy constraint: "+
			"Member must satisfy enum value set: [Active, Inactive]", status)
	}
	return b.changeAccessKey(ctx, owner, id, status)
}

// DeleteAccessKey ends an access key for good. Its id is never used again. The key must be owner's, unless that is the
// zero PrincipalName: then it may be anybody's.
func (b *Bridge) DeleteAccessKey(ctx context.Context, owner PrincipalName, id string) error {
	return b.changeAccessKey(ctx, owner, id, keystore.AccessKeyDeleted)
}

func (b *Bridge) changeAccessKey(ctx context.Context, owner PrincipalName, id string, status keystore.AccessKeyStatus) error {
	return records.RetryConflicts(ctx, func() error {
		record, version, err := b.readAccessKey(ctx, owner, id)
		if err != nil {
			return err
		}
		record.Status = status
		changes := []keystore.Change{record.Put(version)}
		if status == keystore.AccessKeyDeleted {
			o, err := b.keyOwnerByID(ctx, record.Owner)
			if err != nil {
				return err
			}
			changes = append(changes, o.counted(-1)...)
		}
		_, err = b.cache.Commit(ctx, changes...)
		return err
	})
}

var accessKeyIDPattern = regexp.MustCompile(`^\w+$`)

// readAccessKey reads an access key that is not deleted, of that owner unless it is the zero PrincipalName.
func (b *Bridge) readAccessKey(ctx context.Context, owner PrincipalName, id string) (record keystore.AccessKey, version uint64, err error) {
	var v form.Violations
	v.Text("accessKeyId", id, 16, 128, accessKeyIDPattern)
	if err := iamInvalid(v); err != nil {
		return keystore.AccessKey{}, 0, err
	}
	var o keyOwner
	if !owner.root() {
		if o, err = b.keyOwner(ctx, owner); err != nil {
			return keystore.AccessKey{}, 0, err
		}
	}
	rec, err := b.store.Get(ctx, keystore.AccessKeyRef(id))
	if errors.Is(err, keystore.ErrNotFound) {
		return keystore.AccessKey{}, 0, noSuchAccessKey(id)
	}
	if err == nil {
		record, err = keystore.DecodeAccessKey(rec)
	}
	if err != nil {
		return keystore.AccessKey{}, 0, err
	}
	others := record.Account != b.cfg.AccountID || !owner.root() && record.Owner != o.id
	if others || record.Status == keystore.AccessKeyDeleted {
		return keystore.AccessKey{}, 0, noSuchAccessKey(id)
	}
	return record, rec.Version, nil
}

// ErrUnknownAccessKey says that no active access key has the id.
var ErrUnknownAccessKey = errors.New("no active access key has this id")

// credential is an active access key and the signing keys that were made from its secret. Whether its owner is still there
// is not part of it: that is looked at on every use.
type credential struct {
	record keystore.AccessKey

	mu      sync.Mutex          // guards signing
	signing map[scope]sigv4.Key // at most maxScopes
}

type scope struct{ date, region string }

// maxScopes is more than the days and regions that a clock skew and a few tokens make.
const maxScopes = 16

// SigningKey returns the key that requests of an access key are signed with on a date (yyyymmdd), for a region and the
// service kms, and the Caller that the access key stands for. Unknown and inactive ids, and those of an owner that was
// removed, are ErrUnknownAccessKey, and the token is not asked for them. Failures of store and token are errors of the API,
// as operations return them. What it knows is cached as key records are: confirmed within the last second, or refused.
func (b *Bridge) SigningKey(ctx context.Context, accessKeyID, date, region string) (sigv4.Key, Caller, error) {
	cred, err := records.CachedOrFresh(ctx, b.cache, keystore.AccessKeyRef(accessKeyID), b.decodeCredential)
	var caller Caller
	if err == nil {
		caller, err = b.keyCaller(ctx, cred.record)
	}
	if errors.Is(err, keystore.ErrNotFound) {
		return sigv4.Key{}, Caller{}, ErrUnknownAccessKey
	}
	if err != nil {
		return sigv4.Key{}, Caller{}, b.authenticationFailed(ctx, err)
	}
	s := scope{date, region}
	cred.mu.Lock()
	signing, ok := cred.signing[s]
	cred.mu.Unlock()
	if ok {
		return signing, caller, nil
	}
	secret, err := b.secretOf(ctx, cred.record)
	if err != nil {
		return sigv4.Key{}, Caller{}, b.authenticationFailed(ctx, err)
	}
	signing = sigv4.SigningKey(secret, date, region, "kms")
	cred.mu.Lock()
	defer cred.mu.Unlock()
	if len(cred.signing) >= maxScopes {
		clear(cred.signing)
	}
	cred.signing[s] = signing
	return signing, caller, nil
}

func (b *Bridge) decodeCredential(rec keystore.Record) (*credential, error) {
	record, err := keystore.DecodeAccessKey(rec)
	if err != nil {
		return nil, err
	}
	if record.Status != keystore.AccessKeyActive || record.Account != b.cfg.AccountID {
		return nil, keystore.ErrNotFound
	}
	return &credential{record: record, signing: map[scope]sigv4.Key{}}, nil
}

// keyCaller returns the Caller that an access key stands for, or keystore.ErrNotFound when it was removed.
func (b *Bridge) keyCaller(ctx context.Context, key keystore.AccessKey) (Caller, error) {
	if key.Owner == b.cfg.AccountID {
		return b.Root(), nil
	}
	p, err := b.principal(ctx, key.Owner)
	if err != nil {
		return Caller{}, err
	}
	return p.caller, nil
}

// secretOf makes the secret of an access key: the first 30 bytes, in base64, of an HMAC-SHA-256 by the service key.
func (b *Bridge) secretOf(ctx context.Context, k keystore.AccessKey) (string, error) {
	mac, err := b.core.Keys.ServiceMAC(ctx, keyring.SecretsKey, lengthPrefixed("pkcs11kms secret v1", k.Account, k.Owner, k.ID))
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(mac[:30]), nil
}

// lengthPrefixed joins texts so that no two lists of them give the same bytes.
func lengthPrefixed(parts ...string) []byte {
	var b []byte
	for _, part := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return b
}
