package token

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/envelope"
)

// Errors of keys that come in envelopes, beside those of GenerateHMACKey.
var (
	// ErrEnvelope says that the token does not open the envelope: it was made for another key, or has been altered. What exactly is wrong
	// is not told, and must not be.
	ErrEnvelope = errors.New("the token does not open the envelope")
	// ErrKeyLength says that the key in the envelope is shorter or longer than its kind may be.
	ErrKeyLength = errors.New("the key has a length that its kind does not allow")
)

// Wrapped is an HMAC key in an envelope, for a pair of this token that unwraps.
type Wrapped struct {
	Pair       []byte // CKA_ID
	Algorithm  envelope.Algorithm
	Head, Tail []byte // see envelope.Algorithm.Split
}

// unwrapping is a way to open an envelope in the token. Which one a token has is tried.
type unwrapping int

const (
	notTried   unwrapping = iota
	inOneStep             // CKM_RSA_PKCS_OAEP, or CKM_RSA_AES_KEY_WRAP
	paddedWrap            // CKM_RSA_PKCS_OAEP, then CKM_AES_KEY_WRAP_PAD: measured on SoftHSM 2.6.1, where it unwraps as RFC 5649 has it
	kwpWrap               // CKM_RSA_PKCS_OAEP, then CKM_AES_KEY_WRAP_KWP
)

// unwrappings are the ways that an envelope may be opened, in the order in which they are tried.
func unwrappings(a envelope.Algorithm) []unwrapping {
	if a.AES {
		return []unwrapping{inOneStep, paddedWrap, kwpWrap}
	}
	return []unwrapping{inOneStep}
}

// ckmAESKeyWrapKWP is CKM_AES_KEY_WRAP_KWP of PKCS #11 3.0, which miekg/pkcs11 does not name.
const ckmAESKeyWrapKWP = 0x210B

func oaepParams(a envelope.Algorithm) *pkcs11.OAEPParams {
	if a.SHA1 {
		return pkcs11.NewOAEPParams(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKZ_DATA_SPECIFIED, nil)
	}
	return pkcs11.NewOAEPParams(pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, pkcs11.CKZ_DATA_SPECIFIED, nil)
}

// UnwrapHMACKey makes the token open an envelope and keep the key in it; otherwise the key is like a generated one, and the rest is as
// with GenerateHMACKey. Errors are also ErrEnvelope.
func (t *Token) UnwrapHMACKey(ctx context.Context, w Wrapped, h Hash, id []byte, label string) (*Key, error) {
	return t.makeKey(ctx, "C_UnwrapKey", h, id, func(s *session) (pkcs11.ObjectHandle, error) {
		return s.unwrapKey(w, t.restricted(t.keyTemplate(t.facts().off, h, id, label, true), h))
	})
}

// MACOfWrapped makes the HMAC of a message with the key in an envelope, which ends with the call. Errors are also ErrEnvelope and
// ErrKeyLength; a key that is too long is known only where the token tells the lengths of its keys.
func (t *Token) MACOfWrapped(ctx context.Context, w Wrapped, h Hash, message []byte) ([]byte, error) {
	message = append([]byte(nil), message...)
	return t.macOfTransient(ctx, "C_UnwrapKey", h, message, func(s *session) (pkcs11.ObjectHandle, error) {
		return s.unwrapKey(w, t.keyTemplate(t.facts().off, h, t.probeID(), probeLabel, false))
	})
}

// MACOfValue is MACOfWrapped with a key of known value, which the caller clears.
func (t *Token) MACOfValue(ctx context.Context, h Hash, value, message []byte) ([]byte, error) {
	message = append([]byte(nil), message...)
	value = append([]byte(nil), value...)
	tag, err := t.macOfTransient(ctx, "C_CreateObject", h, message, func(s *session) (pkcs11.ObjectHandle, error) {
		defer clear(value)
		template := append(t.keyTemplate(t.facts().off, h, t.probeID(), probeLabel, false), pkcs11.NewAttribute(pkcs11.CKA_VALUE, value))
		object, err := t.c.CreateObject(s.handle, template)
		return object, wrapRV("C_CreateObject", err)
	})
	clearUnlessHung(value, err)
	return tag, err
}

// clearUnlessHung clears the value of a key that no call uses any more; one that hangs clears it itself.
func clearUnlessHung(value []byte, err error) {
	if _, hung := errors.AsType[*HungError](err); !hung {
		clear(value)
	}
}

// macOfTransient makes a MAC by a session object, and destroys that.
func (t *Token) macOfTransient(ctx context.Context, name string, h Hash, message []byte,
	create func(*session) (pkcs11.ObjectHandle, error)) ([]byte, error) {
	if !h.Valid() {
		return nil, fmt.Errorf("using a key: %v is no hash function of this package", h)
	}
	var tag []byte
	o := &operation{name: name, once: true} // the value is gone after the first time
	o.run = func(s *session, _ []byte) error {
		o.begun = true
		object, err := create(s)
		if err != nil {
			return err
		}
		defer s.discard(object)
		made, err := s.macWithin(h, object, message)
		if err == nil && !s.abandoned() {
			tag = made
		}
		return err
	}
	if err := t.do(ctx, o); err != nil {
		return nil, err
	}
	return tag, nil
}

// macWithin makes a MAC by a key whose length is to be in bounds: that of the hash at least, as far as the token tells or minds.
func (s *session) macWithin(h Hash, object pkcs11.ObjectHandle, message []byte) ([]byte, error) {
	values, err := s.attributes(object, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, nil)})
	if err == nil && len(values) == 1 {
		length := int(ulong(values[0].Value)) // SoftHSM says 0 of keys that it has unwrapped
		if length != 0 && (length < h.KeyBytes() || length > envelope.MaxMaterial) {
			return nil, ErrKeyLength
		}
	}
	tag, err := s.signWith(h, object, message)
	if isRV(err, pkcs11.CKR_KEY_SIZE_RANGE) {
		err = ErrKeyLength
	}
	return tag, err
}

// unwrapKey has the token open an envelope.
func (s *session) unwrapKey(w Wrapped, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	private, err := s.find(pkcs11.CKO_PRIVATE_KEY, w.Pair)
	if err != nil {
		return 0, err
	}
	way, ok := s.token.unwraps.Load(w.Algorithm)
	if !ok {
		return 0, &EnvelopeGapError{Algorithm: w.Algorithm, Err: errNotProbed}
	}
	object, err := s.unwrapBy(way.(unwrapping), private, w, template)
	return object, s.opened(err)
}

func (s *session) unwrapBy(way unwrapping, private pkcs11.ObjectHandle, w Wrapped, template []*pkcs11.Attribute) (
	pkcs11.ObjectHandle, error) {
	c, oaep := s.token.c, oaepParams(w.Algorithm)
	head := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, oaep)}
	if !w.Algorithm.AES {
		object, err := c.UnwrapKey(s.handle, head, private, w.Head, template)
		return object, wrapRV("C_UnwrapKey", err)
	}
	if way == inOneStep {
		both := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_AES_KEY_WRAP,
			&pkcs11.RSAAESKeyWrapParams{AESKeyBits: 256, OAEPParams: *oaep})}
		object, err := c.UnwrapKey(s.handle, both, private, append(append([]byte(nil), w.Head...), w.Tail...), template)
		return object, wrapRV("C_UnwrapKey", err)
	}
	key, err := c.UnwrapKey(s.handle, head, private, w.Head, unwrappingAES)
	if err != nil {
		return 0, wrapRV("C_UnwrapKey", err)
	}
	defer s.discard(key)
	mechanism := uint(pkcs11.CKM_AES_KEY_WRAP_PAD)
	if way == kwpWrap {
		mechanism = ckmAESKeyWrapKWP
	}
	object, err := c.UnwrapKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, key, w.Tail, template)
	return object, wrapRV("C_UnwrapKey", err)
}

// unwrappingAES asks for the AES key of an envelope: it ends with the session, and unwraps.
var unwrappingAES = append(switchedOff([]uint{pkcs11.CKA_TOKEN, pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT,
	pkcs11.CKA_WRAP, pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY}),
	pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
	pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
	pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
	pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
	pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true))

// opened makes ErrEnvelope of what a token answers to an envelope that it does not open: SoftHSM answers CKR_GENERAL_ERROR, which
// elsewhere is the loss of the device. So the session is asked whether it works; if it does, it was the envelope.
func (s *session) opened(err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.StaleHandle() || e.SessionLost() || e.refusesTemplate() ||
		e.is(pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED) {
		return err
	}
	if e.DeviceLost() && s.token.roundTrip(s) != nil {
		return err
	}
	return ErrEnvelope
}
