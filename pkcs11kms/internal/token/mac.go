package token

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// MAC computes the HMAC of a message with a key of this token. It returns ErrKeyMissing if the key's object is gone. The
// message may be changed as soon as MAC has returned, even with a *HungError.
func (t *Token) MAC(ctx context.Context, k *Key, message []byte) ([]byte, error) {
	if err := t.owns(k); err != nil {
		return nil, err
	}
	o := &operation{name: "C_Sign", often: true, input: message, mac: k}
	if err := t.do(ctx, o); err != nil {
		return nil, err
	}
	return o.tag, nil
}

// errForeignKey is a mistake of the caller: handles mean nothing to another token.
var errForeignKey = errors.New("using a key: it is not a key of this token")

func (t *Token) owns(k *Key) error {
	if k == nil || k.token != t {
		return errForeignKey
	}
	if !k.hash.Valid() {
		return fmt.Errorf("using a key: %v is no hash function of this package", k.hash)
	}
	return nil
}

// mac signs in one part.
func (s *session) mac(k *Key, message []byte) (tag []byte, err error) {
	err = s.withObject(&k.named, func(object pkcs11.ObjectHandle) error {
		tag, err = s.signWith(k.hash, object, message)
		return err
	})
	return tag, err
}

// signInit begins a MAC in several parts, and returns the handle by which. After errReused the session has one active by another key:
// throw it away and try again.
func (s *session) signInit(k *Key) (used *keyHandle, err error) {
	err = s.withHandle(&k.named, func(h *keyHandle) error {
		used = h
		return s.used(&k.named, h, func() error {
			return wrapRV("C_SignInit", s.token.c.SignInit(s.handle, signMechanisms[k.hash], h.object))
		})
	})
	return used, err
}

func (s *session) signWith(h Hash, object pkcs11.ObjectHandle, message []byte) ([]byte, error) {
	began := s.looked()
	tag, err := s.signMessage(signMechanisms[h], object, message, !s.token.facts().quirk.noStream)
	s.token.pace.paced(began, err)
	if err != nil {
		return nil, err
	}
	return tag, checkTag(h, tag)
}

// signOnce signs in one part.
func (s *session) signOnce(m []*pkcs11.Mechanism, object pkcs11.ObjectHandle, data []byte) ([]byte, error) {
	if functions := s.token.functions; functions != nil {
		return s.signDirectly(functions, m[0], object, data)
	}
	c := s.token.c
	if err := c.SignInit(s.handle, m, object); err != nil {
		return nil, wrapRV("C_SignInit", err)
	}
	signature, err := c.Sign(s.handle, data)
	return signature, wrapRV("C_Sign", err)
}

// checkTag refuses a tag of a wrong length, which could otherwise come to be compared with another short one.
func checkTag(h Hash, tag []byte) error {
	if len(tag) != h.TagBytes() {
		return fmt.Errorf("computing a MAC: %w: %d bytes instead of %d", ErrMalformed, len(tag), h.TagBytes())
	}
	return nil
}

// ErrNoRandom says that the token has no random number generator that an application could use.
var ErrNoRandom = errors.New("the token gives no random bytes")

// Random returns n bytes from the token's random number generator, or ErrNoRandom.
func (t *Token) Random(ctx context.Context, n int) ([]byte, error) {
	if n <= 0 {
		return nil, nil
	}
	var random []byte
	err := t.do(ctx, &operation{name: "C_GenerateRandom", run: func(s *session, _ []byte) error {
		b, err := t.c.GenerateRandom(s.handle, n)
		if err == nil && len(b) != n {
			return fmt.Errorf("asking for %d random bytes: %w: %d bytes", n, ErrMalformed, len(b))
		}
		if err == nil {
			random = b
		}
		if err = wrapRV("C_GenerateRandom", err); isRV(err, noRandom...) {
			err = fmt.Errorf("%w: %w", ErrNoRandom, err)
		}
		return err
	}})
	if err != nil {
		return nil, err
	}
	return random, nil
}
