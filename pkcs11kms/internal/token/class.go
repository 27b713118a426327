package token

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// ClassName returns the name of the object's class, like "CKO_SECRET_KEY".
func (o Object) ClassName() string {
	switch o.Class {
	case pkcs11.CKO_SECRET_KEY:
		return "CKO_SECRET_KEY"
	case pkcs11.CKO_PRIVATE_KEY:
		return "CKO_PRIVATE_KEY"
	case pkcs11.CKO_PUBLIC_KEY:
		return "CKO_PUBLIC_KEY"
	}
	return fmt.Sprintf("CKO 0x%X", o.Class)
}

// SecretKey tells whether the object is a secret key, of whatever type.
func (o Object) SecretKey() bool { return o.Class == pkcs11.CKO_SECRET_KEY }

// PrivateKey tells whether the object is a private key, of whatever type.
func (o Object) PrivateKey() bool { return o.Class == pkcs11.CKO_PRIVATE_KEY }

// HMACKey tells whether the object is a secret key of a type that HMACs with h are made with.
func (o Object) HMACKey(h Hash) bool {
	return o.SecretKey() && (o.KeyType == pkcs11.CKK_GENERIC_SECRET || o.KeyType == h.info().keyType)
}

// SigningKey tells whether the object is a private key of the type of a kind. Its length or curve stands in the public key.
func (o Object) SigningKey(spec pubkey.Spec) bool {
	return o.PrivateKey() && o.KeyType == pairKeyType(spec)
}

// AllowsOnlySignatures tells whether CKA_ALLOWED_MECHANISMS is there and has only what makes signatures of a kind.
func (o Object) AllowsOnlySignatures(spec pubkey.Spec) bool {
	allowed := pairMechanisms(spec)
	other := func(m uint) bool { return !slices.Contains(allowed, m) }
	return len(o.AllowedMechanisms) > 0 && !slices.ContainsFunc(o.AllowedMechanisms, other)
}

// Allows tells whether CKA_ALLOWED_MECHANISMS has the HMAC with h. Without that attribute an object allows all.
func (o Object) Allows(h Hash) bool {
	return len(o.AllowedMechanisms) == 0 || slices.Contains(o.AllowedMechanisms, h.Mechanism())
}

// AllowsOnly tells whether CKA_ALLOWED_MECHANISMS has the HMAC with h and nothing else.
func (o Object) AllowsOnly(h Hash) bool {
	return slices.Equal(o.AllowedMechanisms, []uint{h.Mechanism()})
}

// PublicHalfOf tells whether the object is the public key that belongs to a private key: of one CKA_ID, label and type.
func (o Object) PublicHalfOf(private Object) bool {
	halves := o.Class == pkcs11.CKO_PUBLIC_KEY && private.Class == pkcs11.CKO_PRIVATE_KEY
	return halves && o.KeyType == private.KeyType && o.Label == private.Label && bytes.Equal(o.ID, private.ID)
}
