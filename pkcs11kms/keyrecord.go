package pkcs11kms

import (
	"context"
	"fmt"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

//lint:file-ignore SA1019 deprecated members are part of the API

// key is a key record as the operations see it. It is never changed: a change of the record makes a new one.
type key struct {
	record  keystore.Key
	version uint64
	arn     string
	token   *token.Token

	mac    *keyring.Spec // nil when the key is no HMAC key, and so is what follows
	object *token.Key

	signing *keyring.Spec // nil when the key is no signing key, and so is what follows
	pair    *token.Pair
	public  *pubkey.Key

	policy func() (*policy.Document, error) // compiled when it is first asked for
}

// key returns the key that the API may show by this name, or keystore.ErrNotFound.
func (b *Bridge) key(ctx context.Context, ref keystore.Ref, fresh bool) (*key, error) {
	find := records.CachedOrFresh[*key]
	if fresh {
		find = records.Fresh[*key]
	}
	return find(ctx, b.cache, ref, func(rec keystore.Record) (*key, error) {
		if k, ok := b.cache.Peek(ref).(*key); ok && k.version == rec.Version {
			return k, nil // with its policy compiled
		}
		return b.decodeKey(rec)
	})
}

// decodeKey reads a key record. One that is between two of its steps is answered with keystore.ErrNotFound.
func (b *Bridge) decodeKey(rec keystore.Record) (*key, error) {
	record, err := keystore.DecodeKey(rec)
	if err != nil {
		return nil, err
	}
	if record.State.Unfinished() {
		return nil, keystore.ErrNotFound
	}
	r, ok := b.regions[record.Region]
	if !ok {
		return nil, fmt.Errorf("key %s is of region %q, which is not configured", record.ID, record.Region)
	}
	k := &key{
		record:  record,
		version: rec.Version,
		arn:     "arn:" + b.cfg.Partition + ":kms:" + record.Region + ":" + record.Account + ":key/" + record.ID,
		token:   r.token,
		mac:     keyring.MACSpecOf(types.KeySpec(record.Spec)),
		signing: keyring.SignSpecOf(types.KeySpec(record.Spec), types.KeyUsageType(record.Usage)),
		policy:  func() (*policy.Document, error) { return b.defaultPolicy, nil },
	}
	if record.Policy != "" {
		k.policy = sync.OnceValues(func() (*policy.Document, error) { return policy.ParseKeyPolicy(record.Policy) })
	}
	switch {
	case k.mac != nil:
		k.object = r.object(k.mac.Hash, record)
	case k.signing != nil:
		k.pair = r.pair(k.signing.Pair, record)
		if k.public, err = pubkey.Parse(k.signing.Pair, record.PublicKey); err != nil {
			return nil, fmt.Errorf("key record %s: %w", record.ID, err)
		}
	}
	return k, nil
}

// handle returns the handle of a key's object, a *token.Key or *token.Pair: the one that is known, if it fits, or a new one.
// Handles outlive the cached records: finding an object is the slow part, and the token layer itself notices when a handle
// went stale.
func handle[T any](r *region, record keystore.Key, fits func(T) bool, named func(ckaID []byte) T) T {
	id := record.CKAID.String()
	known, _ := r.objects.Load(id)
	if h, ok := known.(T); ok && fits(h) {
		return h
	}
	h := named(record.CKAID)
	r.objects.Store(id, h)
	return h
}

// object is the handle of an HMAC key. An object that was adopted, kept and adopted anew may be used with another hash than
// before.
func (r *region) object(hash token.Hash, record keystore.Key) *token.Key {
	return handle(r, record, func(k *token.Key) bool { return k.Hash() == hash },
		func(id []byte) *token.Key { return r.token.HMACKey(hash, id) })
}

// pair is the handle of a key pair.
func (r *region) pair(spec pubkey.Spec, record keystore.Key) *token.Pair {
	return handle(r, record, func(p *token.Pair) bool { return p.Spec() == spec },
		func(id []byte) *token.Pair { return r.token.KeyPair(spec, id) })
}

// curve tells whether the key is one of an elliptic curve.
func (k *key) curve() bool { return k.signing != nil && k.signing.Pair.RSABits() == 0 }

// metadata is the KeyMetadata of CreateKey and DescribeKey, with the members that the real service sends for this
// kind of key and no others.
func (k *key) metadata() *types.KeyMetadata {
	m := &types.KeyMetadata{
		AWSAccountId:          aws.String(k.record.Account),
		KeyId:                 aws.String(k.record.ID),
		Arn:                   aws.String(k.arn),
		CreationDate:          aws.Time(k.record.Created),
		Enabled:               k.record.State == keystore.Enabled,
		Description:           aws.String(k.record.Description),
		KeyUsage:              types.KeyUsageType(k.record.Usage),
		KeyState:              types.KeyState(k.record.State),
		Origin:                types.OriginType(k.record.Origin),
		KeyManager:            types.KeyManagerTypeCustomer,
		CustomerMasterKeySpec: types.CustomerMasterKeySpec(k.record.Spec),
		KeySpec:               types.KeySpec(k.record.Spec),
		MultiRegion:           aws.Bool(false),
	}
	if k.mac != nil {
		m.MacAlgorithms = []types.MacAlgorithmSpec{k.mac.Algorithm}
	}
	if k.signing != nil {
		m.SigningAlgorithms = k.signing.Signing(k.token)
	}
	if k.record.State == keystore.PendingDeletion {
		m.DeletionDate = aws.Time(k.record.DeletionDate)
	}
	return m
}
