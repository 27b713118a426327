package keyring

import (
	"context"
	"crypto/fips140"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Spec is a kind of key that this service makes: a spec with the one usage that it is made for.
type Spec struct {
	Name  types.KeySpec
	Usage types.KeyUsageType

	// Of HMAC keys. AWS KMS allows each spec exactly one algorithm.
	Algorithm types.MacAlgorithmSpec
	Hash      token.Hash // fixes the lengths of key and tag

	// Of signing keys, whose algorithms are those of the pair.
	Pair pubkey.Spec

	// Of pairs for envelopes, see wrapping.go.
	Wraps bool
	Until time.Time // when the pair is destroyed
}

var MACSpecs = []Spec{
	{Name: types.KeySpecHmac224, Usage: types.KeyUsageTypeGenerateVerifyMac, Algorithm: types.MacAlgorithmSpecHmacSha224, Hash: token.SHA224},
	{Name: types.KeySpecHmac256, Usage: types.KeyUsageTypeGenerateVerifyMac, Algorithm: types.MacAlgorithmSpecHmacSha256, Hash: token.SHA256},
	{Name: types.KeySpecHmac384, Usage: types.KeyUsageTypeGenerateVerifyMac, Algorithm: types.MacAlgorithmSpecHmacSha384, Hash: token.SHA384},
	{Name: types.KeySpecHmac512, Usage: types.KeyUsageTypeGenerateVerifyMac, Algorithm: types.MacAlgorithmSpecHmacSha512, Hash: token.SHA512},
}

var SignSpecs = []Spec{
	{Name: types.KeySpecRsa2048, Usage: types.KeyUsageTypeSignVerify, Pair: pubkey.RSA2048},
	{Name: types.KeySpecRsa3072, Usage: types.KeyUsageTypeSignVerify, Pair: pubkey.RSA3072},
	{Name: types.KeySpecRsa4096, Usage: types.KeyUsageTypeSignVerify, Pair: pubkey.RSA4096},
	{Name: types.KeySpecEccNistP256, Usage: types.KeyUsageTypeSignVerify, Pair: pubkey.P256},
	{Name: types.KeySpecEccNistP384, Usage: types.KeyUsageTypeSignVerify, Pair: pubkey.P384},
	{Name: types.KeySpecEccNistP521, Usage: types.KeyUsageTypeSignVerify, Pair: pubkey.P521},
	{Name: types.KeySpecEccSecgP256k1, Usage: types.KeyUsageTypeSignVerify, Pair: pubkey.SECP256K1},
	{Name: types.KeySpecEccNistEdwards25519, Usage: types.KeyUsageTypeSignVerify, Pair: pubkey.Edwards25519},
}

// SpecOf returns the spec of that name, of whatever kind of key, or nil.
func SpecOf(name types.KeySpec) *Spec {
	if spec := MACSpecOf(name); spec != nil {
		return spec
	}
	return SpecIn(SignSpecs, name)
}

// MACSpecOf returns the HMAC spec of that name, or nil for a key of another kind.
func MACSpecOf(spec types.KeySpec) *Spec { return SpecIn(MACSpecs, spec) }

// SignSpecOf returns the signing spec of that name, or nil for a key of another kind or usage.
func SignSpecOf(spec types.KeySpec, usage types.KeyUsageType) *Spec {
	if usage != types.KeyUsageTypeSignVerify {
		return nil
	}
	return SpecIn(SignSpecs, spec)
}

// SpecIn returns the one of specs with that name, or nil.
func SpecIn(specs []Spec, name types.KeySpec) *Spec {
	for i := range specs {
		if specs[i].Name == name {
			return &specs[i]
		}
	}
	return nil
}

// Gap returns why a token cannot make or use keys of the spec; nil if it can, or if nothing is known of it yet.
func (s *Spec) Gap(t *token.Token) error {
	if s.Pair.Valid() {
		return t.PairGap(s.Pair)
	}
	return t.HashGap(s.Hash)
}

// NotApproved returns the refusal of what would make or use keys of the spec while this process is in FIPS 140-3 mode, and nil
// for an approved spec, or without that mode. HMAC keys have 224 bits at least, whatever made them.
func (s *Spec) NotApproved() error {
	if !fips140.Enabled() || !s.Pair.Valid() || s.Pair.Approved() {
		return nil
	}
	return apierr.Unsupported("KeySpec %s is not approved for use in FIPS 140-3 mode, in which this service runs.", s.Name)
}

// signingAlgorithms are the algorithms of this service by the names of the API, in the order in which the API lists them.
var signingAlgorithms = []struct {
	name      types.SigningAlgorithmSpec
	algorithm pubkey.Algorithm
}{
	{types.SigningAlgorithmSpecRsassaPkcs1V15Sha256, pubkey.PKCS1SHA256},
	{types.SigningAlgorithmSpecRsassaPkcs1V15Sha384, pubkey.PKCS1SHA384},
	{types.SigningAlgorithmSpecRsassaPkcs1V15Sha512, pubkey.PKCS1SHA512},
	{types.SigningAlgorithmSpecRsassaPssSha256, pubkey.PSSSHA256},
	{types.SigningAlgorithmSpecRsassaPssSha384, pubkey.PSSSHA384},
	{types.SigningAlgorithmSpecRsassaPssSha512, pubkey.PSSSHA512},
	{types.SigningAlgorithmSpecEcdsaSha256, pubkey.ECDSASHA256},
	{types.SigningAlgorithmSpecEcdsaSha384, pubkey.ECDSASHA384},
	{types.SigningAlgorithmSpecEcdsaSha512, pubkey.ECDSASHA512},
	{types.SigningAlgorithmSpecEd25519Sha512, pubkey.Ed25519SHA512},
	{types.SigningAlgorithmSpecEd25519PhSha512, pubkey.Ed25519phSHA512},
}

// SigningAlgorithm returns the algorithm of that name; ok is false for one that no key of this service has.
func SigningAlgorithm(name types.SigningAlgorithmSpec) (a pubkey.Algorithm, ok bool) {
	for _, known := range signingAlgorithms {
		if known.name == name {
			return known.algorithm, true
		}
	}
	return a, false
}

// Signs tells whether the spec has the signature algorithm of that name.
func (s *Spec) Signs(name types.SigningAlgorithmSpec) bool {
	algorithm, ok := SigningAlgorithm(name)
	return ok && s.Pair.Allows(algorithm)
}

// Signing returns the names of the spec's signature algorithms that the token can do, as far as is known; none for HMAC keys.
func (s *Spec) Signing(t *token.Token) []types.SigningAlgorithmSpec {
	return s.algorithms(func(a pubkey.Algorithm) bool { return t.Makes(s.Pair, a) })
}

// Lacking returns the names of those that it cannot do.
func (s *Spec) Lacking(t *token.Token) []types.SigningAlgorithmSpec {
	return s.algorithms(func(a pubkey.Algorithm) bool { return !t.Makes(s.Pair, a) })
}

// NamesOf returns the names of algorithms.
func (s *Spec) NamesOf(algorithms []pubkey.Algorithm) []types.SigningAlgorithmSpec {
	return s.algorithms(func(a pubkey.Algorithm) bool { return slices.Contains(algorithms, a) })
}

func (s *Spec) algorithms(wanted func(pubkey.Algorithm) bool) (names []types.SigningAlgorithmSpec) {
	for _, known := range signingAlgorithms {
		if s.Pair.Allows(known.algorithm) && wanted(known.algorithm) {
			names = append(names, known.name)
		}
	}
	return names
}

// UsagesOf returns the key usages that AWS KMS pairs with a spec (API reference of CreateKey).
func UsagesOf(spec types.KeySpec) []types.KeyUsageType {
	const (
		sign    = types.KeyUsageTypeSignVerify
		encrypt = types.KeyUsageTypeEncryptDecrypt
		agree   = types.KeyUsageTypeKeyAgreement
		mac     = types.KeyUsageTypeGenerateVerifyMac
	)
	switch spec {
	case types.KeySpecHmac224, types.KeySpecHmac256, types.KeySpecHmac384, types.KeySpecHmac512:
		return []types.KeyUsageType{mac}
	case types.KeySpecSymmetricDefault:
		return []types.KeyUsageType{encrypt}
	case types.KeySpecRsa2048, types.KeySpecRsa3072, types.KeySpecRsa4096:
		return []types.KeyUsageType{encrypt, sign}
	case types.KeySpecEccNistP256, types.KeySpecEccNistP384, types.KeySpecEccNistP521:
		return []types.KeyUsageType{sign, agree}
	case types.KeySpecSm2:
		return []types.KeyUsageType{encrypt, sign, agree}
	case types.KeySpecMlKem512, types.KeySpecMlKem768, types.KeySpecMlKem1024:
		return []types.KeyUsageType{types.KeyUsageTypeEncapsulateDecapsulate}
	}
	return []types.KeyUsageType{sign} // ECC_SECG_P256K1, Edwards curves, ML-DSA
}

// Generate makes the object of a key: a *token.Key, or a *token.Pair with its public key as DER SubjectPublicKeyInfo.
func (s *Spec) Generate(ctx context.Context, t *token.Token, record keystore.Key) (object any, public []byte, err error) {
	if !s.Pair.Valid() {
		object, err = t.GenerateHMACKey(ctx, s.Hash, record.CKAID, record.ID)
		return object, nil, err
	}
	if s.Wraps {
		opening, _ := WrappingPair(record)
		public, err = t.GenerateWrappingPair(ctx, s.Pair, opening, record.CKAID, record.ID)
		return t.KeyPair(s.Pair, record.CKAID), public, err
	}
	pair, half, err := t.GenerateKeyPair(ctx, s.Pair, record.CKAID, record.ID)
	if err != nil {
		return nil, nil, err
	}
	return pair, half.DER(), nil
}
