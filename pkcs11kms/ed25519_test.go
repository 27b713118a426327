package pkcs11kms

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"crypto/x509"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

//lint:file-ignore SA1019 deprecated members are part of the API

const (
	ed25519SHA512   = types.SigningAlgorithmSpecEd25519Sha512
	ed25519phSHA512 = types.SigningAlgorithmSpecEd25519PhSha512
)

// TestEd25519: the key lists what its token can do, signs messages as RFC 8032 says, and verifies that and nothing near it.
func TestEd25519(t *testing.T) {
	c := newClient(t)
	key, other := mustCreate(t, c, types.KeySpecEccNistEdwards25519), mustCreate(t, c, types.KeySpecEccNistEdwards25519)
	require.Equal(t, "ECC_NIST_EDWARDS25519", string(key.CustomerMasterKeySpec))
	require.Equal(t, []types.SigningAlgorithmSpec{ed25519SHA512}, key.SigningAlgorithms, "SoftHSM makes no Ed25519ph signatures")
	require.Equal(t, key, describe(t, c, key.KeyId))
	public, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
	require.Equal(t, &kms.GetPublicKeyOutput{KeyId: key.Arn, PublicKey: public.PublicKey, KeySpec: key.KeySpec,
		KeyUsage: types.KeyUsageTypeSignVerify, CustomerMasterKeySpec: key.CustomerMasterKeySpec,
		SigningAlgorithms: key.SigningAlgorithms}, public)
	parsed, err := x509.ParsePKIXPublicKey(public.PublicKey)
	require.NoError(t, err)

	for _, message := range [][]byte{[]byte("m"), bytes.Repeat([]byte("x"), 4096)} {
		signature := mustSign(t, c, key, ed25519SHA512, message)
		require.Len(t, signature, 64)
		require.True(t, ed25519.Verify(parsed.(ed25519.PublicKey), message, signature))
		require.Equal(t, signature, mustSign(t, c, key, ed25519SHA512, message), "it is the same each time")
		require.NoError(t, verifySignature(t, c, key.KeyId, ed25519SHA512, message, signature))
		flipped := bytes.Clone(signature)
		flipped[63] ^= 1
		digest := sha512.Sum512(message)
		for name, bad := range map[string][]byte{
			"one bit": flipped, "too short": signature[:63], "one byte": signature[:1], "junk behind": append(bytes.Clone(signature), 0),
			"zeros": make([]byte, 64), "another's": mustSign(t, c, other, ed25519SHA512, message),
			"of the digest": mustSign(t, c, key, ed25519SHA512, digest[:]),
		} {
			err := verifySignature(t, c, key.KeyId, ed25519SHA512, message, bad)
			var invalid *types.KMSInvalidSignatureException
			require.ErrorAs(t, err, &invalid, name)
		}
	}
	_, err = c.Sign(t.Context(),
		&kms.SignInput{KeyId: key.KeyId, SigningAlgorithm: ed25519SHA512, Message: []byte("m"), DryRun: aws.Bool(true)})
	requireAPIError(t, err, "DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
}

// TestEd25519Refusals: the message types are not interchangeable, and what would be a false signature is not made.
func TestEd25519Refusals(t *testing.T) {
	c := newClient(t)
	key, p256 := mustCreate(t, c, types.KeySpecEccNistEdwards25519), mustCreate(t, c, types.KeySpecEccNistP256)
	digest := make([]byte, 64)
	for _, tc := range []struct {
		key             *types.KeyMetadata
		algorithm, kind string
		message         []byte
		code, answer    string
	}{
		{key, "ED25519_SHA_512", "DIGEST", digest, "ValidationException", "MessageType DIGEST is not valid for algorithm ED25519_SHA_512."},
		{key, "ED25519_SHA_512", "EXTERNAL_MU", digest, "ValidationException",
			"MessageType EXTERNAL_MU is not valid for algorithm ED25519_SHA_512."},
		{key, "ED25519_PH_SHA_512", "", digest, "ValidationException", "MessageType RAW is not valid for algorithm ED25519_PH_SHA_512."},
		{key, "ED25519_PH_SHA_512", "RAW", digest, "ValidationException", "MessageType RAW is not valid for algorithm ED25519_PH_SHA_512."},
		{key, "ED25519_PH_SHA_512", "EXTERNAL_MU", digest, "ValidationException",
			"MessageType EXTERNAL_MU is not valid for algorithm ED25519_PH_SHA_512."},
		{key, "ED25519_PH_SHA_512", "DIGEST", digest[1:], "ValidationException", "Digest is invalid length for algorithm ED25519_PH_SHA_512."},
		{key, "ECDSA_SHA_512", "", digest, "InvalidKeyUsageException",
			"Algorithm ECDSA_SHA_512 is incompatible with key spec ECC_NIST_EDWARDS25519."},
		{p256, "ED25519_SHA_512", "", digest, "InvalidKeyUsageException",
			"Algorithm ED25519_SHA_512 is incompatible with key spec ECC_NIST_P256."},
		{p256, "ED25519_PH_SHA_512", "DIGEST", digest, "InvalidKeyUsageException",
			"Algorithm ED25519_PH_SHA_512 is incompatible with key spec ECC_NIST_P256."},
	} {
		for _, dry := range []*bool{nil, aws.Bool(true)} {
			_, err := c.Sign(t.Context(), &kms.SignInput{KeyId: tc.key.KeyId, SigningAlgorithm: types.SigningAlgorithmSpec(tc.algorithm),
				MessageType: types.MessageType(tc.kind), Message: tc.message, DryRun: dry})
			requireAPIError(t, err, tc.code, tc.answer)
			_, err = c.Verify(t.Context(), &kms.VerifyInput{KeyId: tc.key.KeyId, SigningAlgorithm: types.SigningAlgorithmSpec(tc.algorithm),
				MessageType: types.MessageType(tc.kind), Message: tc.message, Signature: digest, DryRun: dry})
			requireAPIError(t, err, tc.code, tc.answer)
		}
	}
	ph := types.SigningAlgorithmSpecEd25519PhSha512
	for _, dry := range []*bool{nil, aws.Bool(true)} {
		_, err := c.Sign(t.Context(), &kms.SignInput{KeyId: key.KeyId, SigningAlgorithm: ph, MessageType: "DIGEST", Message: digest, DryRun: dry})
		requireAPIError(t, err, "UnsupportedOperationException", "SigningAlgorithm ED25519_PH_SHA_512 is not supported by the token: "+
			"edwards25519 key pairs, Ed25519ph with SHA-512: the signature is not valid. Use ED25519_SHA_512.")
	}
	_, err := c.Verify(t.Context(),
		&kms.VerifyInput{KeyId: key.KeyId, SigningAlgorithm: ph, MessageType: "DIGEST", Message: digest, Signature: digest})
	requireCode(t, err, "KMSInvalidSignatureException")
	for spec, usage := range map[types.KeySpec]types.KeyUsageType{types.KeySpecEccNistEdwards25519: types.KeyUsageTypeKeyAgreement} {
		_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
		requireAPIError(t, err, "ValidationException", "KeyUsage KEY_AGREEMENT is not compatible with KeySpec ECC_NIST_EDWARDS25519")
	}
}
