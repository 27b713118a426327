package token

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Some tokens take messages up to a length that is less than what an application may send: those of the YubiHSM2 up to 3,136 bytes, at
// once or in parts. Others take a longer one in parts.

// ErrMessageTooLong says that the token does not take messages of this length. It takes shorter ones.
var ErrMessageTooLong = errors.New("the message is longer than the token takes")

// messagePart is how much of a message that is too long for C_Sign goes into one C_SignUpdate.
const messagePart = 1 << 10

// signMessage signs a message in one part or, where the token refuses its length, in several if the mechanism and the module can.
func (s *session) signMessage(m []*pkcs11.Mechanism, object pkcs11.ObjectHandle, message []byte, inParts bool) ([]byte, error) {
	signature, err := s.signOnce(m, object, message)
	if err == nil || !isRV(err, pkcs11.CKR_DATA_LEN_RANGE) || len(message) < 2 || s.abandoned() {
		return signature, err
	}
	if signature, again := s.signAgain(m, object, message); again == nil { // it was a passing error
		return signature, nil
	}
	if _, other := s.signAgain(m, object, message[:1]); other != nil {
		return nil, err // so that it is not the length
	}
	if inParts {
		if signature, err = s.signParts(m, object, message); err == nil {
			return signature, nil
		}
		if !isRV(err, pkcs11.CKR_DATA_LEN_RANGE) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: %d bytes: %w", ErrMessageTooLong, len(message), err)
}

// signAgain is signOnce, on a fresh session if the refused call has left its operation active.
func (s *session) signAgain(m []*pkcs11.Mechanism, object pkcs11.ObjectHandle, data []byte) ([]byte, error) {
	signature, err := s.signOnce(m, object, data)
	if !isRV(err, pkcs11.CKR_OPERATION_ACTIVE) {
		return signature, err
	}
	if err := s.renew(); err != nil {
		return nil, err
	}
	return s.signOnce(m, object, data)
}

// signParts signs in several parts.
func (s *session) signParts(m []*pkcs11.Mechanism, object pkcs11.ObjectHandle, message []byte) ([]byte, error) {
	c := s.token.c
	if err := c.SignInit(s.handle, m, object); err != nil {
		return nil, wrapRV("C_SignInit", err)
	}
	for len(message) > 0 {
		part := message[:min(len(message), messagePart)]
		if err := c.SignUpdate(s.handle, part); err != nil {
			return nil, wrapRV("C_SignUpdate", err)
		}
		message = message[len(part):]
	}
	signature, err := c.SignFinal(s.handle)
	return signature, wrapRV("C_SignFinal", err)
}

// LongestMessage finds out by MACs with the key how long a message may be that the token takes: at most most.
func (t *Token) LongestMessage(ctx context.Context, k *Key, most int) (int, error) {
	taken, refused := 0, most+1
	for n := most; taken+1 < refused; n = (taken + refused) / 2 {
		_, err := t.MAC(ctx, k, make([]byte, n))
		switch {
		case err == nil:
			taken = n
		case errors.Is(err, ErrMessageTooLong):
			refused = n
		default:
			return 0, err
		}
	}
	return taken, nil
}
