package pubkey

import (
	"crypto"
	_ "crypto/sha256" // for crypto.Hash
	_ "crypto/sha512"
	"strconv"
)

// Scheme is how a digest, or for Ed25519 a message, becomes a signature. The zero value is none.
type Scheme uint8

// The schemes.
const (
	PKCS1v15  Scheme = iota + 1 // RSASSA-PKCS1-v1_5 (RFC 8017 8.2)
	PSS                         // RSASSA-PSS with MGF1 of the same hash and a salt as long as the hash (RFC 8017 8.1)
	ECDSA                       // FIPS 186-5; a signature is a DER ECDSA-Sig-Value (RFC 3279 2.2.3)
	Ed25519                     // RFC 8032 5.1.6: a signature of the message itself, 64 bytes
	Ed25519ph                   // RFC 8032 5.1: of the SHA-512 hash, with a prefix that keeps the two apart; without a context
)

// Algorithm is a signature algorithm: a scheme with a hash function.
type Algorithm struct {
	Scheme Scheme
	Hash   crypto.Hash
}

// The signature algorithms.
var (
	PKCS1SHA256 = Algorithm{PKCS1v15, crypto.SHA256}
	PKCS1SHA384 = Algorithm{PKCS1v15, crypto.SHA384}
	PKCS1SHA512 = Algorithm{PKCS1v15, crypto.SHA512}
	PSSSHA256   = Algorithm{PSS, crypto.SHA256}
	PSSSHA384   = Algorithm{PSS, crypto.SHA384}
	PSSSHA512   = Algorithm{PSS, crypto.SHA512}
	ECDSASHA256 = Algorithm{ECDSA, crypto.SHA256}
	ECDSASHA384 = Algorithm{ECDSA, crypto.SHA384}
	ECDSASHA512 = Algorithm{ECDSA, crypto.SHA512}

	Ed25519SHA512   = Algorithm{Ed25519, crypto.SHA512}
	Ed25519phSHA512 = Algorithm{Ed25519ph, crypto.SHA512}
)

var rsaAlgorithms = []Algorithm{PKCS1SHA256, PKCS1SHA384, PKCS1SHA512, PSSSHA256, PSSSHA384, PSSSHA512}

// String returns a name like "RSASSA-PSS with SHA-256".
func (a Algorithm) String() string {
	names := [...]string{PKCS1v15: "RSASSA-PKCS1-v1_5", PSS: "RSASSA-PSS", ECDSA: "ECDSA", Ed25519: "Ed25519", Ed25519ph: "Ed25519ph"}
	if a.Scheme == 0 || int(a.Scheme) >= len(names) {
		return "Scheme(" + strconv.Itoa(int(a.Scheme)) + ") with " + a.Hash.String()
	}
	return names[a.Scheme] + " with " + a.Hash.String()
}

// OfMessage tells whether signatures are made and verified of the message itself, and never of a digest that somebody else has
// made of it.
func (a Algorithm) OfMessage() bool { return a.Scheme == Ed25519 || a.Scheme == Ed25519ph }

// Digest returns the hash of the message.
func (a Algorithm) Digest(message []byte) []byte {
	h := a.Hash.New()
	h.Write(message) // never fails, see hash.Hash
	return h.Sum(nil)
}
