// Package pubkey is the public half of signing keys: their kinds, the signature algorithms that go with each, their DER form
// (SubjectPublicKeyInfo, RFC 5280), and the verification of signatures in Go. It knows neither tokens nor KMS.
//
// Curves of NIST and RSA are the standard library's. The curve secp256k1 is not in it; github.com/decred/dcrd/dcrec/secp256k1
// verifies for it: pure Go without further dependencies, maintained, and strict in what it takes for a key or a signature.
package pubkey

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"fmt"
	"slices"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// Spec is a kind of key pair. The zero value is none.
type Spec uint8

// The kinds of key pairs.
const (
	RSA2048 Spec = iota + 1
	RSA3072
	RSA4096
	P256
	P384
	P521
	SECP256K1
	Edwards25519
)

// specInfo is one row of the table below: bits for RSA, the rest for elliptic curves.
type specInfo struct {
	name       string
	bits       int
	curve      elliptic.Curve // of NIST; nil for the others
	edwards    bool           // signs by EdDSA
	oid        asn1.ObjectIdentifier
	fieldBytes int // of a coordinate, and of r and s of ECDSA
	algorithms []Algorithm
}

var specTable = [...]specInfo{
	RSA2048: {name: "RSA-2048", bits: 2048, algorithms: rsaAlgorithms},
	RSA3072: {name: "RSA-3072", bits: 3072, algorithms: rsaAlgorithms},
	RSA4096: {name: "RSA-4096", bits: 4096, algorithms: rsaAlgorithms},
	P256: {name: "P-256", curve: elliptic.P256(), oid: asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, fieldBytes: 32,
		algorithms: []Algorithm{ECDSASHA256}},
	P384: {name: "P-384", curve: elliptic.P384(), oid: asn1.ObjectIdentifier{1, 3, 132, 0, 34}, fieldBytes: 48,
		algorithms: []Algorithm{ECDSASHA384}},
	P521: {name: "P-521", curve: elliptic.P521(), oid: asn1.ObjectIdentifier{1, 3, 132, 0, 35}, fieldBytes: 66,
		algorithms: []Algorithm{ECDSASHA512}},
	SECP256K1: {name: "secp256k1", oid: asn1.ObjectIdentifier{1, 3, 132, 0, 10}, fieldBytes: 32,
		algorithms: []Algorithm{ECDSASHA256}},
	Edwards25519: {name: "edwards25519", edwards: true, oid: asn1.ObjectIdentifier{1, 3, 101, 112},
		algorithms: []Algorithm{Ed25519SHA512, Ed25519phSHA512}},
}

// Specs returns every Spec, RSA first.
func Specs() []Spec {
	return []Spec{RSA2048, RSA3072, RSA4096, P256, P384, P521, SECP256K1, Edwards25519}
}

// Valid reports whether s is one of the constants.
func (s Spec) Valid() bool { return s >= RSA2048 && int(s) < len(specTable) }

func (s Spec) info() specInfo {
	if !s.Valid() {
		return specInfo{name: fmt.Sprintf("Spec(%d)", uint8(s))}
	}
	return specTable[s]
}

// String returns the usual name, like "RSA-2048" or "P-256".
func (s Spec) String() string { return s.info().name }

// RSABits returns the length of the modulus, or 0 for an elliptic curve.
func (s Spec) RSABits() int { return s.info().bits }

// Edwards tells whether the kind is an Edwards curve, which signs by EdDSA (RFC 8032) and not by ECDSA.
func (s Spec) Edwards() bool { return s.info().edwards }

// Approved tells whether the kind is approved for digital signatures (FIPS 186-5, SP 800-186): all but secp256k1, which the
// Go Cryptographic Module does not have either.
func (s Spec) Approved() bool { return s.Valid() && s != SECP256K1 }

// FieldBytes returns the length of a coordinate of the curve, which is also that of r and of s of ECDSA; 0 for RSA and Edwards
// curves.
func (s Spec) FieldBytes() int { return s.info().fieldBytes }

// Algorithms returns the signature algorithms of the kind of key. The caller may keep it.
func (s Spec) Algorithms() []Algorithm { return append([]Algorithm(nil), s.info().algorithms...) }

// Allows tells whether the signature algorithm goes with the kind of key.
func (s Spec) Allows(a Algorithm) bool { return slices.Contains(s.info().algorithms, a) }

// CurveParameters returns the DER ECParameters of the curve: its object identifier (RFC 5480 2.1.1, RFC 8410 3); nil for RSA.
func (s Spec) CurveParameters() []byte {
	oid := s.info().oid
	if oid == nil {
		return nil
	}
	der, err := asn1.Marshal(oid)
	if err != nil {
		panic(err) // the table above is wrong
	}
	return der
}

// Key is a public key that was checked. It is never changed.
type Key struct {
	spec Spec
	der  []byte
	rsa  *rsa.PublicKey
	ec   *ecdsa.PublicKey
	koba *secp256k1.PublicKey
	ed   ed25519.PublicKey
}

// Spec returns the kind of key.
func (k *Key) Spec() Spec { return k.spec }

// DER returns a copy of the key's SubjectPublicKeyInfo.
func (k *Key) DER() []byte { return append([]byte(nil), k.der...) }
