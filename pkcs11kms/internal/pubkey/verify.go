package pubkey

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"

	koblitz "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
)

// ErrInvalid says that a signature is not the key's over the digest by the algorithm.
var ErrInvalid = errors.New("the signature is not valid")

// VerifyMessage returns nil if the signature is the key's over the message, and ErrInvalid if it is not. An algorithm of another
// kind of key is an error of its own.
func (k *Key) VerifyMessage(a Algorithm, message, signature []byte) error {
	switch {
	case !k.spec.Allows(a):
		return fmt.Errorf("verifying a signature: %v is no algorithm of %v", a, k.spec)
	case !a.OfMessage():
		return k.Verify(a, a.Digest(message), signature)
	case !k.verifiesEdwards(a, message, signature):
		return ErrInvalid
	}
	return nil
}

func (k *Key) verifiesEdwards(a Algorithm, message, signature []byte) bool {
	if a.Scheme == Ed25519ph {
		return ed25519.VerifyWithOptions(k.ed, a.Digest(message), signature, &ed25519.Options{Hash: crypto.SHA512}) == nil
	}
	return ed25519.Verify(k.ed, message, signature) // false for a signature of another length
}

// Verify is VerifyMessage for a message of which the caller has the digest. A digest of another length than the algorithm's, and
// an algorithm that does not sign digests, are errors of their own.
func (k *Key) Verify(a Algorithm, digest, signature []byte) error {
	if !k.spec.Allows(a) {
		return fmt.Errorf("verifying a signature: %v is no algorithm of %v", a, k.spec)
	}
	if a.OfMessage() {
		return fmt.Errorf("verifying a signature: %v is of a message, not of a digest", a)
	}
	if len(digest) != a.Hash.Size() {
		return fmt.Errorf("verifying a signature: the digest has %d bytes instead of %d", len(digest), a.Hash.Size())
	}
	if !k.verifies(a, digest, signature) {
		return ErrInvalid
	}
	return nil
}

func (k *Key) verifies(a Algorithm, digest, signature []byte) bool {
	switch {
	case a.Scheme == PKCS1v15:
		return rsa.VerifyPKCS1v15(k.rsa, a.Hash, digest, signature) == nil
	case a.Scheme == PSS:
		return rsa.VerifyPSS(k.rsa, a.Hash, digest, signature, &rsa.PSSOptions{SaltLength: a.Hash.Size()}) == nil
	case k.spec == SECP256K1:
		parsed, err := koblitz.ParseDERSignature(signature)
		return err == nil && parsed.Verify(digest, k.koba)
	}
	return ecdsa.VerifyASN1(k.ec, digest, signature)
}

// SignatureDER turns r||s, as PKCS#11 gives it (CKM_ECDSA, PKCS #11 2.3.1), into a DER ECDSA-Sig-Value (RFC 3279 2.2.3).
// It refuses what has another length than the curve asks for, and a zero.
func SignatureDER(s Spec, raw []byte) ([]byte, error) {
	n := s.FieldBytes()
	if n == 0 || len(raw) != 2*n {
		return nil, fmt.Errorf("reading an ECDSA signature of %v: it has %d bytes instead of %d", s, len(raw), 2*n)
	}
	body := make([]byte, 0, 2*n+6)
	for _, half := range [][]byte{raw[:n], raw[n:]} {
		for len(half) > 0 && half[0] == 0 {
			half = half[1:]
		}
		if len(half) == 0 {
			return nil, fmt.Errorf("reading an ECDSA signature of %v: r or s is zero", s)
		}
		pad := half[0] >> 7 // a leading bit would make it negative
		body = append(body, 0x02, byte(len(half))+pad)
		body = append(append(body, make([]byte, pad)...), half...)
	}
	der := make([]byte, 0, len(body)+3)
	der = append(der, 0x30)
	if len(body) > 127 {
		der = append(der, 0x81)
	}
	return append(append(der, byte(len(body))), body...), nil
}
