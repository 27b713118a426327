package token

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// Opening says how a pair opens envelopes: in the token, or by what the token makes of an RSA ciphertext for this process.
type Opening int

// The openings. No pair is for both: by one that decrypts, the material that another's envelope has brought could be read.
const (
	Unwraps  Opening = iota // CKA_UNWRAP, and nothing else
	Decrypts                // CKA_DECRYPT, and nothing else
)

func (o Opening) use() uint {
	if o == Decrypts {
		return pkcs11.CKA_DECRYPT
	}
	return pkcs11.CKA_UNWRAP
}

func (o Opening) mechanism() uint {
	if o == Decrypts {
		return pkcs11.CKM_RSA_X_509
	}
	return pkcs11.CKM_RSA_PKCS_OAEP
}

// notForWrapping is what no pair for envelopes may be for.
var notForWrapping = []uint{pkcs11.CKA_SIGN, pkcs11.CKA_UNWRAP, pkcs11.CKA_DECRYPT}

// errLooseWrapping says that the token has made a pair for envelopes that can do more than it may.
var errLooseWrapping = errors.New("the private key can be used for more than it was made for, or be read")

// GenerateWrappingPair makes an RSA pair for envelopes, whose private key can be neither read nor exported and does one thing. It returns
// the public key as DER SubjectPublicKeyInfo. Otherwise it is as GenerateKeyPair.
func (t *Token) GenerateWrappingPair(ctx context.Context, spec pubkey.Spec, o Opening, id []byte, label string) (public []byte, err error) {
	if spec.RSABits() == 0 {
		return nil, fmt.Errorf("making a pair for envelopes: %v is not of RSA", spec)
	}
	var key *pubkey.Key
	pair := t.KeyPair(spec, id)
	op := &operation{name: "C_GenerateKeyPair", longer: pairTimeout}
	err = t.make(ctx, op, &pair.named, func(s *session) ([]pkcs11.ObjectHandle, error) {
		made, err := s.generateWrapping(spec, o, id, label, true)
		if err != nil {
			return nil, err
		}
		read, err := s.publicKey(spec, made.public)
		if err != nil {
			return nil, errors.Join(err, s.destroyPair(made))
		}
		key = read
		return []pkcs11.ObjectHandle{made.private, made.public}, nil
	})
	if err != nil {
		return nil, err
	}
	return key.DER(), nil
}

// generateWrapping makes the objects of a pair for envelopes, and destroys what is not as it should be.
func (s *session) generateWrapping(spec pubkey.Spec, o Opening, id []byte, label string, onToken bool) (made pairHandles, err error) {
	t := s.token
	made.public, made.private, err = t.c.GenerateKeyPair(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pairMechanism(spec), nil)},
		wrappingPublic(spec, id, label, onToken), t.wrappingPrivate(o, spec, id, label, onToken))
	if err = wrapRV("C_GenerateKeyPair", err); err != nil {
		return made, err
	}
	if err = s.guarded(made.private, o); err != nil {
		return made, errors.Join(err, s.destroyPair(made))
	}
	return made, nil
}

// guarded makes sure that a private key for envelopes is as it was asked for.
func (s *session) guarded(private pkcs11.ObjectHandle, o Opening) error {
	asked := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, nil), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, nil)}
	for _, use := range notForWrapping {
		asked = append(asked, pkcs11.NewAttribute(use, nil))
	}
	values, err := s.attributes(private, asked)
	if err != nil {
		return err
	}
	if len(values) != len(asked) {
		return fmt.Errorf("reading a pair for envelopes: %w: %d attributes instead of %d", ErrMalformed, len(values), len(asked))
	}
	sound := truth(values[0].Value) && !truth(values[1].Value)
	for i, use := range notForWrapping {
		sound = sound && truth(values[2+i].Value) == (use == o.use())
	}
	if !sound {
		return errLooseWrapping
	}
	return nil
}

func (t *Token) wrappingPrivate(o Opening, spec pubkey.Spec, id []byte, label string, onToken bool) []*pkcs11.Attribute {
	template := append(pairTemplate(pkcs11.CKO_PRIVATE_KEY, spec, id, label, onToken),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false))
	for _, use := range notForWrapping {
		template = append(template, pkcs11.NewAttribute(use, use == o.use()))
	}
	if !t.noRecover.Load() {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false))
	}
	if t.facts().caps.AllowedMechanisms {
		template = append(template, mechanismList(o.mechanism()))
	}
	return template
}

func wrappingPublic(spec pubkey.Spec, id []byte, label string, onToken bool) []*pkcs11.Attribute {
	return append(append(pairTemplate(pkcs11.CKO_PUBLIC_KEY, spec, id, label, onToken), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false)),
		append(switchedOff([]uint{pkcs11.CKA_VERIFY, pkcs11.CKA_ENCRYPT, pkcs11.CKA_WRAP}),
			pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, spec.RSABits()),
			pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(pubkey.Exponent).Bytes()))...)
}

// DecryptRaw has a pair for envelopes that decrypts make of an RSA ciphertext the encoded message, of as many bytes (RSADP, RFC 8017). The
// caller clears it. ErrEnvelope says that the token refuses the ciphertext.
func (t *Token) DecryptRaw(ctx context.Context, pairID, ciphertext []byte) ([]byte, error) {
	var encoded []byte
	pairID, ciphertext = append([]byte(nil), pairID...), append([]byte(nil), ciphertext...)
	err := t.do(ctx, &operation{name: "C_Decrypt", run: func(s *session, _ []byte) error {
		private, err := s.find(pkcs11.CKO_PRIVATE_KEY, pairID)
		if err != nil {
			return err
		}
		plain, err := s.decryptRaw(private, ciphertext)
		if err == nil && !s.abandoned() {
			encoded = plain
		}
		return err
	}})
	if err != nil {
		return nil, err
	}
	return encoded, nil
}

func (s *session) decryptRaw(private pkcs11.ObjectHandle, ciphertext []byte) ([]byte, error) {
	c := s.token.c
	if err := c.DecryptInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_X_509, nil)}, private); err != nil {
		return nil, wrapRV("C_DecryptInit", err)
	}
	plain, err := c.Decrypt(s.handle, ciphertext)
	if err != nil {
		return nil, s.opened(wrapRV("C_Decrypt", err))
	}
	defer clear(plain)
	if len(plain) > len(ciphertext) {
		return nil, fmt.Errorf("decrypting: %w: %d bytes of %d", ErrMalformed, len(plain), len(ciphertext))
	}
	encoded := make([]byte, len(ciphertext)) // some tokens leave the leading zeros out
	copy(encoded[len(encoded)-len(plain):], plain)
	return encoded, nil
}

// rsaPublic is the public half of a pair for envelopes as the standard library has it.
func rsaPublic(key *pubkey.Key) (*rsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(key.DER())
	public, ok := parsed.(*rsa.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("reading a pair for envelopes: %w: it is not of RSA", ErrMalformed)
	}
	return public, nil
}
