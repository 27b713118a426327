package jwt

import (
	"crypto"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	gojwt "github.com/golang-jwt/jwt/v5"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// Method is an algorithm of RFC 7518 section 3 or RFC 8037 section 3.1. It is a SigningMethod of golang-jwt whose key is a *Key:
//
//	key, err := jwt.Resolve(ctx, client, "alias/tokens")
//	token := gojwt.NewWithClaims(jwt.RS256, claims)
//	token.Header["kid"] = key.ID()
//	text, err := token.SignedString(key)
//
// Signer does the same, and Verifier.Keyfunc is the other direction.
type Method struct {
	name string

	mac     types.MacAlgorithmSpec // of HS*
	macSpec types.KeySpec
	macHash crypto.Hash

	signing   types.SigningAlgorithmSpec // of the others
	algorithm pubkey.Algorithm
}

// The methods.
var (
	HS256 = &Method{name: "HS256", mac: types.MacAlgorithmSpecHmacSha256, macSpec: types.KeySpecHmac256, macHash: crypto.SHA256}
	HS384 = &Method{name: "HS384", mac: types.MacAlgorithmSpecHmacSha384, macSpec: types.KeySpecHmac384, macHash: crypto.SHA384}
	HS512 = &Method{name: "HS512", mac: types.MacAlgorithmSpecHmacSha512, macSpec: types.KeySpecHmac512, macHash: crypto.SHA512}
	RS256 = &Method{name: "RS256", signing: types.SigningAlgorithmSpecRsassaPkcs1V15Sha256, algorithm: pubkey.PKCS1SHA256}
	RS384 = &Method{name: "RS384", signing: types.SigningAlgorithmSpecRsassaPkcs1V15Sha384, algorithm: pubkey.PKCS1SHA384}
	RS512 = &Method{name: "RS512", signing: types.SigningAlgorithmSpecRsassaPkcs1V15Sha512, algorithm: pubkey.PKCS1SHA512}
	PS256 = &Method{name: "PS256", signing: types.SigningAlgorithmSpecRsassaPssSha256, algorithm: pubkey.PSSSHA256}
	PS384 = &Method{name: "PS384", signing: types.SigningAlgorithmSpecRsassaPssSha384, algorithm: pubkey.PSSSHA384}
	PS512 = &Method{name: "PS512", signing: types.SigningAlgorithmSpecRsassaPssSha512, algorithm: pubkey.PSSSHA512}
	ES256 = &Method{name: "ES256", signing: types.SigningAlgorithmSpecEcdsaSha256, algorithm: pubkey.ECDSASHA256}
	ES384 = &Method{name: "ES384", signing: types.SigningAlgorithmSpecEcdsaSha384, algorithm: pubkey.ECDSASHA384}
	ES512 = &Method{name: "ES512", signing: types.SigningAlgorithmSpecEcdsaSha512, algorithm: pubkey.ECDSASHA512}
	EdDSA = &Method{name: "EdDSA", signing: types.SigningAlgorithmSpecEd25519Sha512, algorithm: pubkey.Ed25519SHA512} // Ed25519 alone
)

var _ gojwt.SigningMethod = (*Method)(nil)

var methods = []*Method{HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA}

// Methods returns all methods.
func Methods() []*Method { return append([]*Method(nil), methods...) }

// MethodNamed returns the method of an alg, or ErrAlgorithm. Names are exact: "hs256" and "none" are unknown.
func MethodNamed(alg string) (*Method, error) {
	for _, m := range methods {
		if m.name == alg {
			return m, nil
		}
	}
	return nil, fmt.Errorf("%w: alg %q is none of HS256 to ES512 and EdDSA", ErrAlgorithm, brief(alg))
}

// MethodFor returns the method that a key of the spec is used with unless another is named: the only one there is, and
// RS256 for RSA. Specs that the RFCs have no algorithm for are ErrAlgorithm.
func MethodFor(spec types.KeySpec) (*Method, error) {
	for _, m := range methods {
		if m.Fits(spec) {
			return m, nil
		}
	}
	return nil, fmt.Errorf("%w: JSON Web Tokens have none for the key spec %s", ErrAlgorithm, spec)
}

// pairSpecs are the key pairs that have a method. P-256 and secp256k1 share a signing algorithm, but ES256 is P-256 alone
// (RFC 7518 3.4).
var pairSpecs = map[types.KeySpec]pubkey.Spec{
	types.KeySpecRsa2048: pubkey.RSA2048, types.KeySpecRsa3072: pubkey.RSA3072, types.KeySpecRsa4096: pubkey.RSA4096,
	types.KeySpecEccNistP256: pubkey.P256, types.KeySpecEccNistP384: pubkey.P384, types.KeySpecEccNistP521: pubkey.P521,
	types.KeySpecEccNistEdwards25519: pubkey.Edwards25519,
}

// Alg returns the name, such as "RS256".
func (m *Method) Alg() string { return m.name }

// Fits tells whether the method goes with keys of the spec.
func (m *Method) Fits(spec types.KeySpec) bool {
	if m.mac != "" {
		return spec == m.macSpec
	}
	pair, ok := pairSpecs[spec]
	return ok && pair.Allows(m.algorithm)
}

// Sign returns the signature in the form of the RFCs: of ECDSA r and s, each as long as the curve's order. The key must be a
// *Key that the method fits.
func (m *Method) Sign(signingString string, key any) ([]byte, error) {
	k, err := m.keyOf(key)
	if err != nil {
		return nil, err
	}
	if m.mac != "" {
		return m.makeMAC(k.ctx, k, signingString)
	}
	return m.sign(k.ctx, k, signingString)
}

// Verify returns nil for a valid signature and an error that is golang-jwt's ErrTokenSignatureInvalid for any other. The key
// must be a *Key that the method fits.
func (m *Method) Verify(signingString string, signature []byte, key any) error {
	k, err := m.keyOf(key)
	if err != nil {
		return err
	}
	switch {
	case m.mac != "":
		return m.verifyMAC(k.ctx, k, signingString, signature)
	case k.public != nil:
		return m.verifyHere(k, signingString, signature)
	}
	return m.verifyThere(k.ctx, k, signingString, signature)
}

func (m *Method) keyOf(key any) (*Key, error) {
	k, ok := key.(*Key)
	if !ok || k == nil {
		return nil, fmt.Errorf("%w: %s takes a *jwt.Key", gojwt.ErrInvalidKeyType, m.name)
	}
	return k, k.allows(m)
}

// brief is as much of a text that somebody else wrote as an error shows.
func brief(text string) string {
	const most = 40
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
