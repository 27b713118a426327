package pkcs11kms

import (
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// macSpec is a key spec of HMAC keys. AWS KMS allows each exactly one algorithm.
type macSpec struct {
	spec      types.KeySpec
	algorithm types.MacAlgorithmSpec
	hash      token.Hash // fixes the lengths of key and tag
}

var macSpecs = []macSpec{
	{spec: types.KeySpecHmac224, algorithm: types.MacAlgorithmSpecHmacSha224, hash: token.SHA224},
	{spec: types.KeySpecHmac256, algorithm: types.MacAlgorithmSpecHmacSha256, hash: token.SHA256},
	{spec: types.KeySpecHmac384, algorithm: types.MacAlgorithmSpecHmacSha384, hash: token.SHA384},
	{spec: types.KeySpecHmac512, algorithm: types.MacAlgorithmSpecHmacSha512, hash: token.SHA512},
}

// macSpecOf returns the HMAC spec of that name, or nil for a key of another kind.
func macSpecOf(spec types.KeySpec) *macSpec {
	for i := range macSpecs {
		if macSpecs[i].spec == spec {
			return &macSpecs[i]
		}
	}
	return nil
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
