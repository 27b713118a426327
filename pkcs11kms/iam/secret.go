package iam

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// The secret of an access key is stored nowhere: it is made anew, whenever it is needed, by Config.MAC from the account, the
// owner and the id. So whoever may use that key and this store can make every secret; showing one once is a convention, not a
// protection.

// ErrUnknownAccessKey says that no active access key has the id.
var ErrUnknownAccessKey = errors.New("no active access key has this id")

// credential is an active access key and the signing keys that were made from its secret. Whether its owner is still there
// is not part of it: that is looked at on every use.
type credential struct {
	record keystore.AccessKey

	mu      sync.Mutex          // guards signing
	signing map[scope]sigv4.Key // at most maxScopes
}

type scope struct{ date, region, service string }

// maxScopes is more than the days, regions and services that a clock skew and a few tokens make.
const maxScopes = 16

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
	s := scope{date, region, service}
	cred.mu.Lock()
	signing, ok := cred.signing[s]
	cred.mu.Unlock()
	if ok {
		return signing, caller, nil
	}
	secret, err := d.secretOf(ctx, cred.record)
	if err != nil {
		return sigv4.Key{}, Caller{}, err
	}
	signing = sigv4.SigningKey(secret, date, region, service)
	cred.mu.Lock()
	defer cred.mu.Unlock()
	if len(cred.signing) >= maxScopes {
		clear(cred.signing)
	}
	cred.signing[s] = signing
	return signing, caller, nil
}

func (d *Directory) decodeCredential(rec keystore.Record) (*credential, error) {
	record, err := keystore.DecodeAccessKey(rec)
	if err != nil {
		return nil, err
	}
	if record.Status != keystore.AccessKeyActive || !d.answersFor(record.Account) {
		return nil, keystore.ErrNotFound
	}
	return &credential{record: record, signing: map[scope]sigv4.Key{}}, nil
}

// keyCaller returns the Caller that an access key stands for, or keystore.ErrNotFound when it was removed.
func (d *Directory) keyCaller(ctx context.Context, key keystore.AccessKey) (Caller, error) {
	if key.Owner == key.Account {
		return d.Root(key.Account), nil
	}
	p, err := d.principal(ctx, key.Account, key.Owner)
	if err != nil {
		return Caller{}, err
	}
	return p.caller, nil
}

// secretOf makes the secret of an access key: the first 30 bytes of the MAC, in base64.
func (d *Directory) secretOf(ctx context.Context, k keystore.AccessKey) (string, error) {
	mac, err := d.cfg.MAC(ctx, lengthPrefixed("pkcs11kms secret v1", k.Account, k.Owner, k.ID))
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
