package jwt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/strictjson"
)

// KeySet is a JWK Set (RFC 7517 section 5) of public keys. encoding/json writes it; ParseKeySet reads it.
type KeySet struct {
	Keys []JWK `json:"keys"`
	// Ignored are the keys of the document that ParseKeySet could not use. They are not among Keys.
	Ignored []IgnoredKey `json:"-"`
}

// IgnoredKey is a key of a set that does not serve, and why.
type IgnoredKey struct {
	Position int    // among the keys of the document, from 1
	Kid      string // as it stands there: somebody else's text; empty if there is none
	Reason   error
}

// String names the key and the reason, like: key 2 ("2026-01"): its e is no base64url without padding.
func (k IgnoredKey) String() string {
	if k.Kid == "" {
		return fmt.Sprintf("key %d: %v", k.Position, k.Reason)
	}
	return fmt.Sprintf("key %d (%q): %v", k.Position, brief(k.Kid), k.Reason)
}

// PublicKeySet returns the public keys of signing keys, for a consumer's KeySet or for a document that others fetch. keyIDs
// are as for Resolve. It needs kms:DescribeKey and kms:GetPublicKey. HMAC keys are refused with ErrAlgorithm: they have no
// public half. So is a key that is disabled, with KMS's error.
func PublicKeySet(ctx context.Context, client Client, keyIDs ...string) (*KeySet, error) {
	set := &KeySet{Keys: []JWK{}}
	for _, id := range keyIDs {
		key, err := Resolve(ctx, client, id)
		if err != nil {
			return nil, err
		}
		if _, pair := pairSpecs[key.spec]; !pair {
			return nil, fmt.Errorf("%w: the key %q is an %s key, which has no public half", ErrAlgorithm, id, key.spec)
		}
		if key, err = key.withPublicKey(ctx); err != nil {
			return nil, err
		}
		jwk, err := key.jwk()
		if err != nil {
			return nil, err
		}
		if !set.has(jwk.Kid) { // two aliases may point to one key
			set.Keys = append(set.Keys, jwk)
		}
	}
	return set, nil
}

func (s *KeySet) has(kid string) bool {
	for _, jwk := range s.Keys {
		if jwk.Kid == kid {
			return true
		}
	}
	return false
}

// The most that ParseKeySet reads: bytes of the document, and keys in it.
const (
	maxKeySet     = 1 << 20
	maxKeysOfASet = 1000
)

// ParseKeySet reads a JWK Set that anybody made. As RFC 7517 section 5 asks, a key that is of no use here does not disturb
// the others: one of another kind, curve, use or algorithm than this package's, with a private or malformed part, an RSA key
// that has another length than 2048, 3072 or 4096 bits or another exponent than 65537. Such keys are in Ignored, and so are a
// key that stands there twice, and keys of one kid that cannot be told apart by the algorithm. A set with no key left is
// ErrNoUsableKey; a document that is no JWK Set, with more than a MiB or 1,000 keys, is an error as well.
func ParseKeySet(doc []byte) (*KeySet, error) {
	set, err := parseKeySet(doc)
	if err != nil {
		return nil, fmt.Errorf("reading a key set: %w", err)
	}
	return set, nil
}

func parseKeySet(doc []byte) (*KeySet, error) {
	if len(doc) > maxKeySet {
		return nil, fmt.Errorf("it is longer than %d bytes", maxKeySet)
	}
	members, err := strictjson.Members(doc)
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(members["keys"], &list); err != nil || list == nil {
		return nil, errors.New("it has no list of keys")
	}
	if len(list) > maxKeysOfASet {
		return nil, fmt.Errorf("it has more than %d keys", maxKeysOfASet)
	}
	jwks, wrong := make([]JWK, len(list)), make([]error, len(list))
	for i, text := range list {
		jwks[i], wrong[i] = parseJWK(text)
	}
	sortOut(jwks, wrong)
	set := &KeySet{Keys: []JWK{}}
	for i, jwk := range jwks {
		if wrong[i] == nil {
			set.Keys = append(set.Keys, jwk)
		} else {
			set.Ignored = append(set.Ignored, IgnoredKey{i + 1, jwk.Kid, wrong[i]})
		}
	}
	if len(set.Keys) == 0 {
		return nil, noUsableKey(set.Ignored)
	}
	return set, nil
}

// noUsableKey says what is wrong with all keys of a set, or the first of them.
func noUsableKey(ignored []IgnoredKey) error {
	if len(ignored) == 0 {
		return fmt.Errorf("%w: it has no keys", ErrNoUsableKey)
	}
	const most = 5
	var reasons []string
	for i, key := range ignored {
		if i == most {
			reasons = append(reasons, fmt.Sprintf("and so on with %d more", len(ignored)-most))
			break
		}
		reasons = append(reasons, key.String())
	}
	return fmt.Errorf("%w: %s", ErrNoUsableKey, strings.Join(reasons, "; "))
}

var (
	errTwice = errors.New("the same key stands there before")
	errTwins = errors.New("another key has the same kid and may have the same algorithm")
	errNoKid = errors.New("it has no kid, and tokens without a kid are not allowed")
)

// sortOut returns the keys that serve, and notes in wrong what keeps the others from it; in either, the index is that in jwks.
// What is in wrong already stays out.
func sortOut(jwks []JWK, wrong []error) []*Key {
	keys := make([]*Key, len(jwks))
	for i, jwk := range jwks {
		if wrong[i] == nil {
			keys[i], wrong[i] = jwk.key()
		}
	}
	sound := func(i int) bool { return keys[i] != nil && (wrong[i] == nil || wrong[i] == errTwins) }
	for i, key := range keys {
		for j := 0; j < i && sound(i); j++ {
			switch {
			case !sound(j) || keys[j].id != key.id:
			case keys[j].equal(key):
				wrong[i] = errTwice
			case key.id != "" && keys[j].mistakenFor(key):
				wrong[i], wrong[j] = errTwins, errTwins
			}
		}
	}
	for i := range keys {
		if wrong[i] != nil {
			keys[i] = nil
		}
	}
	return keys
}

// equal tells whether two public keys are one and the same, for the same algorithms.
func (k *Key) equal(other *Key) bool { return k.sameMaterial(other) && k.only == other.only }

func (k *Key) sameMaterial(other *Key) bool { return bytes.Equal(k.public.DER(), other.public.DER()) }

// mistakenFor tells whether a signature by the one key may have to be verified with either.
func (k *Key) mistakenFor(other *Key) bool {
	if k.sameMaterial(other) {
		return false
	}
	for _, m := range methods {
		if k.allows(m) == nil && other.allows(m) == nil {
			return true
		}
	}
	return false
}

// fixedKeys are keys that no KMS was asked for.
type fixedKeys []*Key

// newFixedKeys makes keys of a set; those without a kid only if that is allowed. It also returns what it left out, with the
// positions of the document that the set was read from.
func newFixedKeys(set *KeySet, withoutKid bool) (fixedKeys, []IgnoredKey, error) {
	wrong := make([]error, len(set.Keys))
	for i, jwk := range set.Keys {
		if jwk.Kid == "" && !withoutKid {
			wrong[i] = errNoKid
		}
	}
	var keys fixedKeys
	ignored, before := []IgnoredKey{}, set.Ignored
	position := 0
	for i, key := range sortOut(set.Keys, wrong) {
		for position++; len(before) > 0 && before[0].Position == position; position++ {
			ignored, before = append(ignored, before[0]), before[1:]
		}
		if key != nil {
			keys = append(keys, key)
		} else {
			ignored = append(ignored, IgnoredKey{position, set.Keys[i].Kid, wrong[i]})
		}
	}
	ignored = append(ignored, before...)
	if len(keys) == 0 {
		return nil, nil, noUsableKey(ignored)
	}
	return keys, ignored, nil
}

// find returns the key of a kid, the one that has the method if there are several.
func (f fixedKeys) find(_ context.Context, kid string, m *Method) (*Key, error) {
	var found *Key
	for _, key := range f {
		if key.id == kid && (found == nil || key.allows(m) == nil) {
			found = key
		}
	}
	if found == nil {
		return nil, invalid(ErrUnknownKey)
	}
	return found, nil
}

// only returns the one key that has the method.
func (f fixedKeys) only(m *Method) (*Key, error) {
	var found *Key
	for _, key := range f {
		switch {
		case key.allows(m) != nil:
		case found != nil && !found.sameMaterial(key):
			return nil, invalidf(ErrUnknownKey, "it has none, and several keys fit its alg")
		default:
			found = key
		}
	}
	if found == nil {
		return nil, invalidf(ErrUnknownKey, "it has none, and no key fits its alg")
	}
	return found, nil
}
