package pkcs11kms

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/smithy-go"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// Access keys are what callers of the server sign their requests with. The secret of an access key is stored nowhere: it
// is made anew, whenever it is needed, by the service key secretsKey from the account, the owner and the id. So whoever
// may use the home token and this store can make every secret; showing one once is a convention, not a protection.

// AccessKey is an access key as the calls of AWS IAM return it. Secret is set by CreateAccessKey alone.
type AccessKey struct {
	ID      string
	Secret  string
	Status  keystore.AccessKeyStatus
	Created time.Time
}

// maxAccessKeys bounds the access keys of one principal, so that a list of them is one page.
const maxAccessKeys = 1000

// CreateAccessKey makes an active access key of the account's root, with its secret.
func (b *Bridge) CreateAccessKey(ctx context.Context) (AccessKey, error) {
	have, err := b.ListAccessKeys(ctx)
	if err != nil {
		return AccessKey{}, err
	}
	if len(have) >= maxAccessKeys {
		return AccessKey{}, limitExceeded(fmt.Sprintf("Cannot exceed quota for AccessKeysPerUser: %d", maxAccessKeys))
	}
	record := keystore.AccessKey{
		ID:      newAccessKeyID(),
		Account: b.cfg.AccountID,
		Owner:   b.cfg.AccountID,
		Status:  keystore.AccessKeyActive,
		Created: b.cfg.Now().UTC().Truncate(time.Second),
	}
	// The secret first: an access key without one would be of no use.
	secret, err := b.secretOf(ctx, record)
	if err != nil {
		return AccessKey{}, err
	}
	if _, err := b.cache.commit(ctx, record.Put(0)); err != nil {
		return AccessKey{}, err
	}
	return AccessKey{ID: record.ID, Secret: secret, Status: record.Status, Created: record.Created}, nil
}

// newAccessKeyID returns AKIA and 80 random bits.
func newAccessKeyID() string {
	random := make([]byte, 10)
	rand.Read(random) // never fails, see crypto/rand
	return "AKIA" + base32.StdEncoding.EncodeToString(random)
}

// ListAccessKeys returns the access keys of the account's root, ordered by id, without their secrets.
func (b *Bridge) ListAccessKeys(ctx context.Context) ([]AccessKey, error) {
	owner := keystore.OwnerValue(b.cfg.AccountID, b.cfg.AccountID)
	recs, err := b.store.Lookup(ctx, keystore.IndexAccessKeyOwner, owner, keystore.Ref{}, maxAccessKeys)
	if err != nil {
		return nil, err
	}
	keys := make([]AccessKey, len(recs))
	for i, rec := range recs {
		record, err := keystore.DecodeAccessKey(rec)
		if err != nil {
			return nil, err
		}
		keys[i] = AccessKey{ID: record.ID, Status: record.Status, Created: record.Created}
	}
	return keys, nil
}

// UpdateAccessKey sets the status to Active or Inactive. Every process refuses an inactive key within a second.
func (b *Bridge) UpdateAccessKey(ctx context.Context, id string, status keystore.AccessKeyStatus) error {
	if status != keystore.AccessKeyActive && status != keystore.AccessKeyInactive {
		return validationError(fmt.Sprintf("1 validation error detected: Value '%s' at 'status' failed to satisfy constraint: "+
			"Member must satisfy enum value set: [Active, Inactive]", status))
	}
	return b.changeAccessKey(ctx, id, status)
}

// DeleteAccessKey ends an access key for good. Its id is never used again.
func (b *Bridge) DeleteAccessKey(ctx context.Context, id string) error {
	return b.changeAccessKey(ctx, id, keystore.AccessKeyDeleted)
}

func (b *Bridge) changeAccessKey(ctx context.Context, id string, status keystore.AccessKeyStatus) error {
	for {
		rec, err := b.store.Get(ctx, keystore.AccessKeyRef(id))
		if errors.Is(err, keystore.ErrNotFound) {
			return noSuchAccessKey(id)
		}
		if err != nil {
			return err
		}
		record, err := keystore.DecodeAccessKey(rec)
		if err != nil {
			return err
		}
		if record.Status == keystore.AccessKeyDeleted || record.Account != b.cfg.AccountID {
			return noSuchAccessKey(id)
		}
		record.Status = status
		_, err = b.cache.commit(ctx, record.Put(rec.Version))
		if !errors.Is(err, keystore.ErrConflict) {
			return err
		}
	}
}

func noSuchAccessKey(id string) error {
	return &smithy.GenericAPIError{Code: "NoSuchEntity", Message: fmt.Sprintf("The Access Key with id %s cannot be found.", id), Fault: smithy.FaultClient}
}

// ErrUnknownAccessKey says that no active access key has the id.
var ErrUnknownAccessKey = errors.New("no active access key has this id")

// credential is an active access key and the signing keys that were made from its secret.
type credential struct {
	record keystore.AccessKey
	caller Caller

	mu      sync.Mutex          // guards signing
	signing map[scope]sigv4.Key // at most maxScopes
}

type scope struct{ date, region string }

// maxScopes is more than the days and regions that a clock skew and a few tokens make.
const maxScopes = 16

// SigningKey returns the key that requests of an access key are signed with on a date (yyyymmdd), for a region and the
// service kms, and the Caller that the access key stands for. Unknown and inactive ids are ErrUnknownAccessKey, and the
// token is not asked for them. Failures of store and token are errors of the API, as operations return them. What it knows is cached as key records are: confirmed within the last second, or refused.
func (b *Bridge) SigningKey(ctx context.Context, accessKeyID, date, region string) (sigv4.Key, Caller, error) {
	cred, err := cachedRecord(ctx, b.cache, keystore.AccessKeyRef(accessKeyID), false, b.decodeCredential)
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
		return signing, cred.caller, nil
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
	return signing, cred.caller, nil
}

// authenticationFailed is the answer when store or token fail before it is known who asks.
func (b *Bridge) authenticationFailed(ctx context.Context, err error) error {
	return (&Client{bridge: b}).answer(ctx, "authentication", "", err)
}

func (b *Bridge) decodeCredential(rec keystore.Record) (*credential, error) {
	record, err := keystore.DecodeAccessKey(rec)
	if err != nil {
		return nil, err
	}
	if record.Status != keystore.AccessKeyActive || record.Account != b.cfg.AccountID || record.Owner != b.cfg.AccountID {
		return nil, keystore.ErrNotFound
	}
	return &credential{record: record, caller: b.Root(), signing: map[scope]sigv4.Key{}}, nil
}

// secretOf makes the secret of an access key: the first 30 bytes, in base64, of an HMAC-SHA-256 by the service key.
func (b *Bridge) secretOf(ctx context.Context, k keystore.AccessKey) (string, error) {
	service, err := b.serviceKey(ctx, secretsKey)
	if err != nil {
		return "", err
	}
	mac, err := service.token.MAC(ctx, service.object, lengthPrefixed("pkcs11kms secret v1", k.Account, k.Owner, k.ID))
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
