package token

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// What a token promises of keys that must not leave it is tried on keys that are thrown away. NSS, also in FIPS mode, breaks the second
// promise: an imported public key wraps every key, and who has its private half reads the value.

// Promises are what Token.TryPromises has found.
type Promises struct {
	// Wrap is nil if C_WrapKey refuses a key with CKA_EXTRACTABLE false, by a public key that was brought along or by a secret key:
	// whichever could be tried. ErrUntriable: neither could. ErrLeaves: the key came out.
	Wrap error
	// Duplicates says what becomes of two keys with one CKA_ID.
	Duplicates Duplicates
}

// Duplicates is what becomes of two keys with one CKA_ID.
type Duplicates int

// The values of Duplicates.
const (
	DuplicatesUntried  Duplicates = iota // no two keys could be made
	DuplicatesStay                       // there are two
	DuplicatesReplace                    // the second one replaces the first
	DuplicatesAreError                   // the second one is refused
)

var (
	// ErrUntriable says that a promise could not be tried on the token.
	ErrUntriable = errors.New("it could not be tried")
	// ErrLeaves says that a key which must not leave the token left it.
	ErrLeaves = errors.New("a key that is not extractable was wrapped all the same, and its value can be read outside the token")
)

// TryPromises tries what the token promises, on session objects that are gone afterwards.
func (t *Token) TryPromises(ctx context.Context) (p Promises, err error) {
	err = t.do(ctx, &operation{name: "C_WrapKey", longer: pairTimeout, run: func(*session, []byte) error {
		p = Promises{Wrap: t.tryWrap(), Duplicates: t.tryDuplicates()}
		return nil
	}})
	return p, err
}

// tryWrap wraps a throw-away key by whatever the token takes.
func (t *Token) tryWrap() error {
	result := ErrUntriable
	for _, wrap := range []func(*session, pkcs11.ObjectHandle) error{wrapByPublicKey, wrapBySecretKey} {
		err := t.withAnyKey(func(s *session, key pkcs11.ObjectHandle) error { return wrap(s, key) })
		switch {
		case errors.Is(err, ErrLeaves):
			return err
		case err == nil:
			result = nil
		}
	}
	return result
}

// withAnyKey makes a throw-away HMAC key of the first kind that the token can do, and returns what use does.
func (t *Token) withAnyKey(use func(*session, pkcs11.ObjectHandle) error) error {
	for _, found := range t.facts().caps.HMAC {
		if found.Err() != nil {
			continue
		}
		var used error
		err := t.withProbeKey(found.Hash, found.Hash.KeyBytes(), nil, func(s *session, key pkcs11.ObjectHandle) { used = use(s, key) })
		return errors.Join(err, used)
	}
	return ErrUntriable
}

// wrapByPublicKey brings a public key along whose private half is known here. It returns nil if the wrapping was refused.
func wrapByPublicKey(s *session, key pkcs11.ObjectHandle) error {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := s.token.c.CreateObject(s.handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, private.N.Bytes()),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(pubkey.Exponent).Bytes()),
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntriable, wrapRV("C_CreateObject", err))
	}
	defer s.discard(public)
	return s.refusesToWrap(pkcs11.CKM_RSA_PKCS, public, key)
}

// wrapBySecretKey has the token make a wrapping key.
func wrapBySecretKey(s *session, key pkcs11.ObjectHandle) error {
	generate := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}
	wrapping, err := s.token.c.GenerateKey(s.handle, generate, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntriable, wrapRV("C_GenerateKey", err))
	}
	defer s.discard(wrapping)
	return s.refusesToWrap(pkcs11.CKM_AES_KEY_WRAP, wrapping, key)
}

// refusesToWrap returns nil if the token refuses because of the key, ErrLeaves if it does not refuse, and ErrUntriable if it refuses
// for another reason.
func (s *session) refusesToWrap(mechanism uint, wrapping, key pkcs11.ObjectHandle) error {
	wrapped, err := s.token.c.WrapKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, wrapping, key)
	clear(wrapped)
	err = wrapRV("C_WrapKey", err)
	switch {
	case err == nil:
		return ErrLeaves
	case isRV(err, pkcs11.CKR_KEY_UNEXTRACTABLE, pkcs11.CKR_KEY_NOT_WRAPPABLE, pkcs11.CKR_ACTION_PROHIBITED,
		pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED):
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUntriable, err)
}

// tryDuplicates makes two session keys of one CKA_ID, as all keys of the probe have.
func (t *Token) tryDuplicates() Duplicates {
	found := DuplicatesUntried
	_ = t.withAnyKey(func(_ *session, first pkcs11.ObjectHandle) error {
		err := t.withAnyKey(func(s *session, second pkcs11.ObjectHandle) (err error) {
			found, err = s.countTwins(first, second)
			return err
		})
		if e, answered := errors.AsType[*Error](err); answered && e.Func == "C_GenerateKey" {
			found = DuplicatesAreError
		}
		return err
	})
	return found
}

// countTwins tells what became of two keys that were made with one CKA_ID.
func (s *session) countTwins(first, second pkcs11.ObjectHandle) (Duplicates, error) {
	id, err := s.attributes(second, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, nil)})
	if err != nil {
		return DuplicatesUntried, err
	}
	both, err := s.search([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_ID, id[0].Value)}, 3)
	switch {
	case err != nil:
		return DuplicatesUntried, err
	case len(both) == 1 || first == second:
		return DuplicatesReplace, nil
	}
	return DuplicatesStay, nil
}
