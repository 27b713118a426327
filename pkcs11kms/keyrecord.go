package pkcs11kms

import (
	"context"
	"sync"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// key is a key as the operations see it. It is never changed: a change of the record makes a new one.
type key struct {
	*keyring.Key
	policy func() (*policy.Document, error) // compiled when it is first asked for
}

// key returns the key that the API may show by this name, or keystore.ErrNotFound.
func (b *Bridge) key(ctx context.Context, ref keystore.Ref, fresh bool) (*key, error) {
	find := records.CachedOrFresh[*key]
	if fresh {
		find = records.Fresh[*key]
	}
	return find(ctx, b.core.Cache, ref, func(rec keystore.Record) (*key, error) {
		if k, ok := b.core.Cache.Peek(ref).(*key); ok && k.Version == rec.Version {
			return k, nil // with its policy compiled
		}
		return b.decodeKey(rec)
	})
}

// decodeKey reads a key record. One that is between two of its steps is answered with keystore.ErrNotFound.
func (b *Bridge) decodeKey(rec keystore.Record) (*key, error) {
	held, err := b.core.Keys.Decode(rec)
	if err != nil {
		return nil, err
	}
	k := &key{held, func() (*policy.Document, error) { return b.defaultPolicyFor(held.Record.Account) }}
	if held.Record.Policy != "" {
		k.policy = sync.OnceValues(func() (*policy.Document, error) { return policy.ParseKeyPolicy(held.Record.Policy) })
	}
	return k, nil
}

// hmac is the material of a key that fits a request for a MAC, and pair of one that fits a request for a signature.
func (k *key) hmac() *keyring.HMAC { return k.Material.(*keyring.HMAC) }
func (k *key) pair() *keyring.Pair { return k.Material.(*keyring.Pair) }

// curve tells whether the key is one of an elliptic curve.
func (k *key) curve() bool {
	pair, ok := k.Material.(*keyring.Pair)
	return ok && pair.Curve()
}
