package jwt

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
)

// Claimed returns the claims of a token as it has them, of which nothing is proved: to find the keys by which it can be verified. Its
// errors are ErrInvalidToken.
func Claimed(token string) (json.RawMessage, error) {
	p, err := parse(token)
	if err != nil {
		return nil, err
	}
	return p.claims, nil
}

// Open returns the claims of a token that a key of the set has signed by one of the methods. Nothing of what they say was looked at:
// whoever asks must compare times, issuer and audience, which a Verifier can do. No KMS is asked. A token that does not verify is
// ErrInvalidToken, and beside it ErrUnknownKey or ErrAlgorithm where that is why; every other error is of the set.
func (s *KeySet) Open(token string, methods ...*Method) (json.RawMessage, error) {
	p, err := parse(token)
	if err != nil {
		return nil, err
	}
	wanted := func(m *Method) bool { return m.name == p.alg && m.mac == "" }
	if !slices.ContainsFunc(methods, wanted) {
		return nil, invalid(ErrAlgorithm)
	}
	keys, _, err := newFixedKeys(s, false)
	if errors.Is(err, ErrNoUsableKey) {
		return nil, invalid(ErrUnknownKey)
	}
	if err != nil {
		return nil, err
	}
	method, key, err := (&Verifier{keys: keys}).keyOf(context.Background(), p)
	if err != nil {
		return nil, err
	}
	if err := verifySignature(method, key, p); err != nil {
		return nil, err
	}
	return p.claims, nil
}
