package audit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
)

// The algorithms of seals.
const (
	SealECDSA = "ECDSA_SHA_256"
	SealRSA   = "RSASSA_PKCS1_V1_5_SHA_256"
	SealHMAC  = "HMAC_SHA_256" // where the token makes no key pairs: nobody verifies it without the token
)

// SealKeys are public keys by which seals are verified. See ParseSealKeys.
type SealKeys map[string]crypto.PublicKey // by Signature.Key

// ParseSealKeys reads one or more public keys in PEM ("PUBLIC KEY", SubjectPublicKeyInfo).
func ParseSealKeys(text []byte) (SealKeys, error) {
	keys := SealKeys{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("it has a %q, which is no public key", block.Type)
		}
		one, err := SealKeyOf(block.Bytes)
		if err != nil {
			return nil, err
		}
		maps.Copy(keys, one)
	}
	if len(keys) == 0 {
		return nil, errors.New("it has no public key in PEM")
	}
	return keys, nil
}

// SealKeyOf reads one public key, a SubjectPublicKeyInfo.
func SealKeyOf(der []byte) (SealKeys, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	return SealKeys{SealKeyID(der): key}, err
}

// SealKeyID is Signature.Key of the pair that has a public key, a SubjectPublicKeyInfo.
func SealKeyID(der []byte) string { return hexOf(sha256.Sum256(der)) }

// Errors of Check.
var (
	ErrWrongSignature = errors.New("its signature is wrong")
	ErrNoSuchKey      = errors.New("it is by a key that was not given")
)

// Check tells whether a signature of a seal's text is one of these keys'. It is for Known.Check.
func (k SealKeys) Check(text []byte, s Signature) error {
	sum := sha256.Sum256(text)
	switch key := k[s.Key].(type) {
	case nil:
		return fmt.Errorf("%w: %s by %s", ErrNoSuchKey, s.Algorithm, visibleKeyID(s.Key))
	case *ecdsa.PublicKey:
		if s.Algorithm == SealECDSA && ecdsa.VerifyASN1(key, sum[:], s.Value) {
			return nil
		}
	case *rsa.PublicKey:
		if s.Algorithm == SealRSA && rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], s.Value) == nil {
			return nil
		}
	}
	return ErrWrongSignature
}

// visibleKeyID is what may be shown of what a file has as the id of a key.
func visibleKeyID(id string) string {
	if _, err := hex.DecodeString(id); err != nil || len(id) > 2*sha256.Size {
		return "a key without a name"
	}
	return id
}
