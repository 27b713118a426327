package token

import (
	"math/big"

	"github.com/miekg/pkcs11"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// mechanismList encodes the value of CKA_ALLOWED_MECHANISMS, an array of CK_MECHANISM_TYPE.
func mechanismList(mechanisms ...uint) *pkcs11.Attribute {
	var value []byte
	for _, m := range mechanisms {
		value = append(value, pkcs11.NewAttribute(pkcs11.CKA_ALLOWED_MECHANISMS, m).Value...)
	}
	return pkcs11.NewAttribute(pkcs11.CKA_ALLOWED_MECHANISMS, value)
}

// notForMAC is what an HMAC key must not be used for. Some tokens allow it unless it is switched off by name (measured: SoftHSM and NSS
// the first four, opencryptoki the last), and some refuse to be told (read: AWS CloudHSM the first two); the probe finds out.
var notForMAC = []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE}

// switchedOff is a template that switches uses off.
func switchedOff(uses []uint) (template []*pkcs11.Attribute) {
	for _, use := range uses {
		template = append(template, pkcs11.NewAttribute(use, false))
	}
	return template
}

// keyTemplate is what every HMAC key looks like in the token, generated or imported, token object or probe. off are the uses that it is
// told not to be for.
func (t *Token) keyTemplate(off []uint, h Hash, id []byte, label string, onToken bool) []*pkcs11.Attribute {
	return append(switchedOff(off), []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, t.facts().quirk.keyType(h)),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, onToken),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
	}...)
}

// withLength adds CKA_VALUE_LEN, which C_GenerateKey needs and C_CreateObject refuses.
func (t *Token) withLength(template []*pkcs11.Attribute, bytes int) []*pkcs11.Attribute {
	if t.facts().quirk.noValueLen {
		return template
	}
	return append(template, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, bytes))
}

// restricted adds CKA_ALLOWED_MECHANISMS where the probe has found that the token honours it.
func (t *Token) restricted(template []*pkcs11.Attribute, h Hash) []*pkcs11.Attribute {
	if !t.facts().caps.AllowedMechanisms {
		return template
	}
	return append(template, mechanismList(h.Mechanism()))
}

// pairKeyType is the CKA_KEY_TYPE of both halves of a key pair.
func pairKeyType(spec pubkey.Spec) uint {
	switch {
	case spec.RSABits() > 0:
		return pkcs11.CKK_RSA
	case spec.Edwards():
		return ckkECEdwards
	}
	return pkcs11.CKK_EC
}

// pairTemplate is what both halves of a key pair have.
func pairTemplate(class uint, spec pubkey.Spec, id []byte, label string, onToken bool) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pairKeyType(spec)),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, onToken),
	}
}

// privateTemplate asks for a private key that signs and does nothing else. What it could do besides is switched off by name:
// SoftHSM lets a private key decrypt and unwrap unless it is told otherwise, one of a curve too.
func (t *Token) privateTemplate(spec pubkey.Spec, id []byte, label string, onToken bool) []*pkcs11.Attribute {
	template := append(pairTemplate(pkcs11.CKO_PRIVATE_KEY, spec, id, label, onToken),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false))
	if !t.facts().quirk.alwaysDecrypts {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false))
	}
	if spec.RSABits() == 0 {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false))
	}
	if !t.noRecover.Load() {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false))
	}
	if t.facts().caps.AllowedMechanisms {
		template = append(template, mechanismList(pairMechanisms(spec)...))
	}
	return template
}

// publicTemplate asks for a public key that verifies and does nothing else, and says what pair is to be made: of an elliptic curve
// by its CKA_EC_PARAMS.
func (t *Token) publicTemplate(spec pubkey.Spec, curve, id []byte, label string, onToken bool) []*pkcs11.Attribute {
	template := append(pairTemplate(pkcs11.CKO_PUBLIC_KEY, spec, id, label, onToken),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false))
	if !t.facts().quirk.alwaysDecrypts {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false))
	}
	if spec.RSABits() == 0 {
		return append(template, pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, curve))
	}
	return append(template,
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, spec.RSABits()),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, big.NewInt(pubkey.Exponent).Bytes()))
}
