package pkcs11kms

import (
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// keySpec is a kind of key that this service makes: a spec with the one usage that it is made for.
type keySpec struct {
	spec  types.KeySpec
	usage types.KeyUsageType

	// Of HMAC keys. AWS KMS allows each spec exactly one algorithm.
	algorithm types.MacAlgorithmSpec
	hash      token.Hash // fixes the lengths of key and tag

	// Of signing keys, whose algorithms are those of the pair.
	pair pubkey.Spec
}

var macSpecs = []keySpec{
	{spec: types.KeySpecHmac224, usage: types.KeyUsageTypeGenerateVerifyMac, algorithm: types.MacAlgorithmSpecHmacSha224, hash: token.SHA224},
	{spec: types.KeySpecHmac256, usage: types.KeyUsageTypeGenerateVerifyMac, algorithm: types.MacAlgorithmSpecHmacSha256, hash: token.SHA256},
	{spec: types.KeySpecHmac384, usage: types.KeyUsageTypeGenerateVerifyMac, algorithm: types.MacAlgorithmSpecHmacSha384, hash: token.SHA384},
	{spec: types.KeySpecHmac512, usage: types.KeyUsageTypeGenerateVerifyMac, algorithm: types.MacAlgorithmSpecHmacSha512, hash: token.SHA512},
}

var signSpecs = []keySpec{
	{spec: types.KeySpecRsa2048, usage: types.KeyUsageTypeSignVerify, pair: pubkey.RSA2048},
	{spec: types.KeySpecRsa3072, usage: types.KeyUsageTypeSignVerify, pair: pubkey.RSA3072},
	{spec: types.KeySpecRsa4096, usage: types.KeyUsageTypeSignVerify, pair: pubkey.RSA4096},
	{spec: types.KeySpecEccNistP256, usage: types.KeyUsageTypeSignVerify, pair: pubkey.P256},
	{spec: types.KeySpecEccNistP384, usage: types.KeyUsageTypeSignVerify, pair: pubkey.P384},
	{spec: types.KeySpecEccNistP521, usage: types.KeyUsageTypeSignVerify, pair: pubkey.P521},
	{spec: types.KeySpecEccSecgP256k1, usage: types.KeyUsageTypeSignVerify, pair: pubkey.SECP256K1},
	{spec: types.KeySpecEccNistEdwards25519, usage: types.KeyUsageTypeSignVerify, pair: pubkey.Edwards25519},
}

// macSpecOf returns the HMAC spec of that name, or nil for a key of another kind.
func macSpecOf(spec types.KeySpec) *keySpec { return specIn(macSpecs, spec) }

// signSpecOf returns the signing spec of that name, or nil for a key of another kind or usage.
func signSpecOf(spec types.KeySpec, usage types.KeyUsageType) *keySpec {
	if usage != types.KeyUsageTypeSignVerify {
		return nil
	}
	return specIn(signSpecs, spec)
}

func specIn(specs []keySpec, name types.KeySpec) *keySpec {
	for i := range specs {
		if specs[i].spec == name {
			return &specs[i]
		}
	}
	return nil
}

// gap returns why a token cannot make or use keys of the spec; nil if it can, or if nothing is known of it yet.
func (s *keySpec) gap(t *token.Token) error {
	if s.pair.Valid() {
		return t.PairGap(s.pair)
	}
	return t.Capabilities().For(s.hash).Err()
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

// signingAlgorithm returns the algorithm of that name; ok is false for one that no key of this service has.
func signingAlgorithm(name types.SigningAlgorithmSpec) (a pubkey.Algorithm, ok bool) {
	for _, known := range signingAlgorithms {
		if known.name == name {
			return known.algorithm, true
		}
	}
	return a, false
}

// signs tells whether the spec has the signature algorithm of that name.
func (s *keySpec) signs(name types.SigningAlgorithmSpec) bool {
	algorithm, ok := signingAlgorithm(name)
	return ok && s.pair.Allows(algorithm)
}

// signing returns the names of the spec's signature algorithms that the token can do; none for HMAC keys.
func (s *keySpec) signing(t *token.Token) (names []types.SigningAlgorithmSpec) {
	for _, known := range signingAlgorithms {
		if s.pair.Allows(known.algorithm) && t.Makes(known.algorithm) {
			names = append(names, known.name)
		}
	}
	return names
}

// usagesOf returns the key usages that AWS KMS pairs with a spec (API reference of CreateKey).
func usagesOf(spec types.KeySpec) []types.KeyUsageType {
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
