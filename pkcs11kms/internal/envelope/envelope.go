// Package envelope closes and opens the envelopes in which key material is imported (AWS KMS, GetParametersForImport): RSAES-OAEP of the
// material itself, or of an AES key of 256 bits, followed by the material under that key (RFC 5649).
package envelope

import (
	"crypto/aes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // OAEP does not rest on its collisions, and the API has it
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
)

// Algorithm is one of the envelopes.
type Algorithm struct {
	Name string // of the API: WrappingAlgorithm
	SHA1 bool   // the hash of OAEP and of its mask is SHA-1, else SHA-256; the label is empty
	AES  bool   // the material is under an AES key, which is what the RSA key wraps
}

// Algorithms are the envelopes that there are.
var Algorithms = []Algorithm{
	{Name: "RSAES_OAEP_SHA_1", SHA1: true},
	{Name: "RSAES_OAEP_SHA_256"},
	{Name: "RSA_AES_KEY_WRAP_SHA_1", SHA1: true, AES: true},
	{Name: "RSA_AES_KEY_WRAP_SHA_256", AES: true},
}

// Find returns the envelope of that name; ok is false for what this service does not have.
func Find(name string) (a Algorithm, ok bool) {
	for _, known := range Algorithms {
		if known.Name == name {
			return known, true
		}
	}
	return a, false
}

// NewHash returns the hash function of OAEP.
func (a Algorithm) NewHash() hash.Hash {
	if a.SHA1 {
		return sha1.New() //nolint:gosec // see the import
	}
	return sha256.New()
}

// MaxMaterial is the most key material in bytes that is to be had of an envelope: AWS KMS takes HMAC keys of 1,024 bits at most.
const MaxMaterial = 128

const aesBytes = 32

// ErrFits says that a blob cannot be an envelope of the kind: its length alone tells.
var ErrFits = errors.New("the length is not that of such an envelope")

// Split takes a blob apart: what the RSA key of that many bytes opens, and what is under the AES key, nil without one. most is the most
// key material, in bytes.
func (a Algorithm) Split(blob []byte, rsaBytes, most int) (head, tail []byte, err error) {
	switch {
	case !a.AES && len(blob) == rsaBytes:
		return blob, nil, nil
	case !a.AES || len(blob) < rsaBytes:
		return nil, nil, ErrFits
	}
	head, tail = blob[:rsaBytes], blob[rsaBytes:]
	if len(tail) < 16 || len(tail)%8 != 0 || len(tail) > (most+7)/8*8+8 {
		return nil, nil, ErrFits
	}
	return head, tail, nil
}

// Seal closes an envelope around key material.
func (a Algorithm) Seal(public *rsa.PublicKey, material []byte) ([]byte, error) {
	if !a.AES {
		return rsa.EncryptOAEP(a.NewHash(), rand.Reader, public, material, nil)
	}
	key := make([]byte, aesBytes)
	defer clear(key)
	rand.Read(key) // never fails, see crypto/rand
	head, err := rsa.EncryptOAEP(a.NewHash(), rand.Reader, public, key, nil)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return append(head, wrap(block, material)...), nil
}

// ErrClosed is the one error for whatever keeps an envelope from being opened: it must not be known what.
var ErrClosed = errors.New("the envelope could not be opened")

// Open opens an envelope, given what the RSA key has made of its head (RSADP: the encoded message, with its leading zeros), which it
// clears. It returns key material that the caller clears, or ErrClosed. What is under an AES key is opened by some key in any case, so that
// the time tells nothing of the head.
func (a Algorithm) Open(encoded, tail []byte) ([]byte, error) {
	defer clear(encoded)
	message, ok := decodeOAEP(a.NewHash(), encoded)
	if !a.AES {
		if ok != 1 {
			clear(message)
			return nil, ErrClosed
		}
		return message, nil
	}
	defer clear(message)
	key := make([]byte, aesBytes)
	defer clear(key)
	if len(message) == aesBytes {
		copy(key, message)
	} else {
		ok = 0
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, ErrClosed
	}
	material, opened := unwrap(block, tail)
	if ok&opened != 1 {
		clear(material)
		return nil, ErrClosed
	}
	return material, nil
}

// Wrap is Seal by the names of the API: an algorithm, and a public key as DER SubjectPublicKeyInfo.
func Wrap(name string, public, material []byte) ([]byte, error) {
	a, ok := Find(name)
	if !ok {
		return nil, fmt.Errorf("wrapping key material: the algorithm %q is not one of this service", name)
	}
	parsed, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("wrapping key material: %w", err)
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("wrapping key material: the public key is not of RSA")
	}
	if len(material) == 0 {
		return nil, errors.New("wrapping key material: it is empty")
	}
	return a.Seal(key, material)
}
