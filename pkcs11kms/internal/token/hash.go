package token

import (
	"fmt"

	"github.com/miekg/pkcs11"
)

// Hash is the hash function of an HMAC key. The zero value is none.
type Hash uint8

// The hash functions that PKCS#11 HMAC keys are made for.
const (
	SHA224 Hash = iota + 1
	SHA256
	SHA384
	SHA512
)

// hashInfo is one row of the table below.
type hashInfo struct {
	name      string
	mechanism uint
	keyType   uint // the CKK_SHAxxx_HMAC that some tokens want instead of CKK_GENERIC_SECRET
	keyBytes  int
	tagBytes  int
}

var hashTable = [...]hashInfo{
	SHA224: {name: "SHA-224", mechanism: pkcs11.CKM_SHA224_HMAC, keyType: pkcs11.CKK_SHA224_HMAC, keyBytes: 28, tagBytes: 28},
	SHA256: {name: "SHA-256", mechanism: pkcs11.CKM_SHA256_HMAC, keyType: pkcs11.CKK_SHA256_HMAC, keyBytes: 32, tagBytes: 32},
	SHA384: {name: "SHA-384", mechanism: pkcs11.CKM_SHA384_HMAC, keyType: pkcs11.CKK_SHA384_HMAC, keyBytes: 48, tagBytes: 48},
	SHA512: {name: "SHA-512", mechanism: pkcs11.CKM_SHA512_HMAC, keyType: pkcs11.CKK_SHA512_HMAC, keyBytes: 64, tagBytes: 64},
}

// signMechanisms holds the argument of C_SignInit for each hash, made once: it is on the path of every MAC.
var signMechanisms = func() (m [len(hashTable)][]*pkcs11.Mechanism) {
	for _, h := range Hashes() {
		m[h] = []*pkcs11.Mechanism{pkcs11.NewMechanism(h.Mechanism(), nil)}
	}
	return m
}()

// isMAC reports whether a mechanism is one of them.
func isMAC(mechanism uint) bool {
	for h := SHA224; h.Valid(); h++ {
		if hashTable[h].mechanism == mechanism {
			return true
		}
	}
	return false
}

// Hashes returns every Hash, shortest tag first.
func Hashes() []Hash { return []Hash{SHA224, SHA256, SHA384, SHA512} }

// Valid reports whether h is one of the constants.
func (h Hash) Valid() bool { return h >= SHA224 && int(h) < len(hashTable) }

func (h Hash) info() hashInfo {
	if !h.Valid() {
		return hashInfo{name: fmt.Sprintf("Hash(%d)", uint8(h))}
	}
	return hashTable[h]
}

// String returns the name of the hash function, like "SHA-256".
func (h Hash) String() string { return h.info().name }

// Mechanism returns the CKM_SHAxxx_HMAC of the hash.
func (h Hash) Mechanism() uint { return h.info().mechanism }

// KeyBytes returns the length of a generated key: that of the hash's output.
func (h Hash) KeyBytes() int { return h.info().keyBytes }

// TagBytes returns the length of a MAC.
func (h Hash) TagBytes() int { return h.info().tagBytes }
