package pkcs11kms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	koblitz "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/stretchr/testify/require"
)

//lint:file-ignore SA1019 deprecated members are part of the API

const (
	pkcs1SHA256 = types.SigningAlgorithmSpecRsassaPkcs1V15Sha256
	ecdsaSHA256 = types.SigningAlgorithmSpecEcdsaSha256
)

func mustSign(t testing.TB, c *Client, key *types.KeyMetadata, algorithm types.SigningAlgorithmSpec, message []byte) []byte {
	t.Helper()
	out, err := c.Sign(t.Context(), &kms.SignInput{KeyId: key.KeyId, Message: message, SigningAlgorithm: algorithm})
	require.NoError(t, err)
	require.Equal(t, *key.Arn, *out.KeyId)
	require.Equal(t, algorithm, out.SigningAlgorithm)
	return out.Signature
}

func verifySignature(t testing.TB, c *Client, keyID *string, algorithm types.SigningAlgorithmSpec, message, signature []byte) error {
	t.Helper()
	_, err := c.Verify(t.Context(), &kms.VerifyInput{KeyId: keyID, Message: message, Signature: signature, SigningAlgorithm: algorithm})
	return err
}

// hashOf is the hash function by the name of the algorithm.
func hashOf(t testing.TB, algorithm types.SigningAlgorithmSpec) crypto.Hash {
	name := string(algorithm)
	for suffix, hash := range map[string]crypto.Hash{"SHA_256": crypto.SHA256, "SHA_384": crypto.SHA384, "SHA_512": crypto.SHA512} {
		if strings.HasSuffix(name, suffix) {
			return hash
		}
	}
	t.Fatal(name)
	return 0
}

func digestOf(t testing.TB, algorithm types.SigningAlgorithmSpec, message []byte) []byte {
	h := hashOf(t, algorithm).New()
	h.Write(message)
	return h.Sum(nil)
}

// goVerifies is the opinion of Go's own library, given a SubjectPublicKeyInfo.
func goVerifies(t testing.TB, der []byte, algorithm types.SigningAlgorithmSpec, digest, signature []byte) bool {
	t.Helper()
	if parsed, err := x509.ParsePKIXPublicKey(der); err == nil {
		switch key := parsed.(type) {
		case *ecdsa.PublicKey:
			return ecdsa.VerifyASN1(key, digest, signature)
		case *rsa.PublicKey:
			hash := hashOf(t, algorithm)
			if strings.HasPrefix(string(algorithm), "RSASSA_PSS") {
				return rsa.VerifyPSS(key, hash, digest, signature, &rsa.PSSOptions{SaltLength: hash.Size()}) == nil
			}
			return rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil
		}
	}
	key, err := secp256k1.ParsePubKey(der[len(der)-65:])
	require.NoError(t, err)
	parsed, err := koblitz.ParseDERSignature(signature)
	return err == nil && parsed.Verify(digest, key)
}

// The algorithms of each spec (AWS KMS developer guide, "Key spec reference"), in the order of the API.
var signingTable = map[types.KeySpec][]types.SigningAlgorithmSpec{
	types.KeySpecRsa2048:       rsaSigning,
	types.KeySpecRsa3072:       rsaSigning,
	types.KeySpecRsa4096:       rsaSigning,
	types.KeySpecEccNistP256:   {"ECDSA_SHA_256"},
	types.KeySpecEccNistP384:   {"ECDSA_SHA_384"},
	types.KeySpecEccNistP521:   {"ECDSA_SHA_512"},
	types.KeySpecEccSecgP256k1: {"ECDSA_SHA_256"},
}

var rsaSigning = []types.SigningAlgorithmSpec{"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PKCS1_V1_5_SHA_512",
	"RSASSA_PSS_SHA_256", "RSASSA_PSS_SHA_384", "RSASSA_PSS_SHA_512"}

func TestSignAndVerify(t *testing.T) {
	c := newClient(t)
	message := bytes.Repeat([]byte("a message "), 400)
	for spec, algorithms := range signingTable {
		key := mustCreate(t, c, spec)
		require.Equal(t, spec, key.KeySpec)
		require.Equal(t, string(spec), string(key.CustomerMasterKeySpec))
		require.Equal(t, types.KeyUsageTypeSignVerify, key.KeyUsage)
		require.Equal(t, algorithms, key.SigningAlgorithms)
		require.Nil(t, key.MacAlgorithms)
		require.Nil(t, key.EncryptionAlgorithms)
		require.Equal(t, key, describe(t, c, key.KeyId))

		public, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: key.KeyId})
		require.NoError(t, err)
		require.Equal(t, &kms.GetPublicKeyOutput{KeyId: key.Arn, PublicKey: public.PublicKey, KeySpec: spec,
			KeyUsage: types.KeyUsageTypeSignVerify, CustomerMasterKeySpec: types.CustomerMasterKeySpec(spec),
			SigningAlgorithms: algorithms}, public)
		for _, algorithm := range algorithms {
			digest := digestOf(t, algorithm, message)
			signature := mustSign(t, c, key, algorithm, message)
			require.True(t, goVerifies(t, public.PublicKey, algorithm, digest, signature), "%s %s", spec, algorithm)
			require.NoError(t, verifySignature(t, c, key.KeyId, algorithm, message, signature))

			out, err := c.Sign(t.Context(),
				&kms.SignInput{KeyId: key.Arn, Message: digest, MessageType: types.MessageTypeDigest, SigningAlgorithm: algorithm})
			require.NoError(t, err)
			require.True(t, goVerifies(t, public.PublicKey, algorithm, digest, out.Signature), "%s %s", spec, algorithm)
			verified, err := c.Verify(t.Context(), &kms.VerifyInput{KeyId: key.Arn, Message: digest, MessageType: types.MessageTypeDigest,
				Signature: signature, SigningAlgorithm: algorithm})
			require.NoError(t, err, "a digest in place of the message that was signed")
			require.Equal(t, &kms.VerifyOutput{KeyId: key.Arn, SignatureValid: true, SigningAlgorithm: algorithm}, verified)
		}
	}
}

// What is near a valid signature is none, and is told without a message.
func TestVerifyAnswers(t *testing.T) {
	c := newClient(t)
	message := []byte("message")
	for _, spec := range []types.KeySpec{types.KeySpecRsa2048, types.KeySpecEccNistP256, types.KeySpecEccNistP521,
		types.KeySpecEccSecgP256k1} {
		if signingTable[spec] == nil {
			continue // not approved in FIPS 140-3 mode
		}
		key, other := mustCreate(t, c, spec), mustCreate(t, c, spec)
		for _, algorithm := range signingTable[spec] {
			signature := mustSign(t, c, key, algorithm, message)
			flipped := bytes.Clone(signature)
			flipped[len(flipped)-1] ^= 1
			wrong := map[string][]byte{
				"one bit":     flipped,
				"too short":   signature[:len(signature)-1],
				"one byte":    signature[:1],
				"junk behind": append(bytes.Clone(signature), 0),
				"junk before": append([]byte{0}, signature...),
				"zeros":       make([]byte, len(signature)),
				"longest":     append(bytes.Clone(signature), make([]byte, 6144-len(signature))...),
				"another's":   mustSign(t, c, other, algorithm, message),
				"of another":  mustSign(t, c, key, algorithm, []byte("another message")),
			}
			for name, bad := range wrong {
				for _, dry := range []*bool{nil, aws.Bool(true)} {
					_, err := c.Verify(t.Context(),
						&kms.VerifyInput{KeyId: key.KeyId, Message: message, Signature: bad, SigningAlgorithm: algorithm, DryRun: dry})
					var typed *types.KMSInvalidSignatureException
					require.ErrorAs(t, err, &typed, name)
					require.Nil(t, typed.Message, "the real service sends no message")
				}
			}
			_, err := c.Verify(t.Context(),
				&kms.VerifyInput{KeyId: key.KeyId, Message: message, Signature: signature, SigningAlgorithm: algorithm, DryRun: aws.Bool(true)})
			requireAPIError(t, err, "DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
		}
	}
}

// Answers of Sign and Verify, which differ in nothing but their name.
func TestSignRefusals(t *testing.T) {
	c := newClient(t)
	key, off, mac := mustCreate(t, c, types.KeySpecRsa2048), mustCreate(t, c, types.KeySpecEccNistP256), mustCreate(t, c, types.KeySpecHmac256)
	require.NoError(t, toggle(t.Context(), c, off.KeyId, false))
	foreign := putForeignKey(t, c)
	const one = "1 validation error detected: "
	cases := []struct {
		name, keyID, algorithm, kind string
		message                      []byte
		code, answer                 string
	}{
		{"empty message", *key.KeyId, string(pkcs1SHA256), "", []byte{}, "ValidationException",
			one + "Value at 'message' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"no message", *key.KeyId, string(pkcs1SHA256), "", nil, "ValidationException",
			one + "Value null at 'message' failed to satisfy constraint: Member must not be null"},
		{"4,097 bytes", *key.KeyId, string(pkcs1SHA256), "RAW", make([]byte, 4097), "ValidationException",
			one + "Value at 'message' failed to satisfy constraint: Member must have length less than or equal to 4096"},
		{"unknown algorithm", *key.KeyId, "RSASSA_MD5", "", []byte("m"), "ValidationException",
			one + "Value 'RSASSA_MD5' at 'signingAlgorithm' failed to satisfy constraint: Member must satisfy enum value set: [*]"},
		{"no algorithm", *key.KeyId, "", "", []byte("m"), "ValidationException",
			one + "Value null at 'signingAlgorithm' failed to satisfy constraint: Member must not be null"},
		{"unknown type", *key.KeyId, string(pkcs1SHA256), "HASH", []byte("m"), "ValidationException",
			one + "Value 'HASH' at 'messageType' failed to satisfy constraint: Member must satisfy enum value set: [*]"},
		{"digest too short", *key.KeyId, "RSASSA_PSS_SHA_256", "DIGEST", make([]byte, 31), "ValidationException",
			"Digest is invalid length for algorithm RSASSA_PSS_SHA_256."},
		{"digest too long", *key.KeyId, "RSASSA_PKCS1_V1_5_SHA_384", "DIGEST", make([]byte, 64), "ValidationException",
			"Digest is invalid length for algorithm RSASSA_PKCS1_V1_5_SHA_384."},
		{"EXTERNAL_MU", *key.KeyId, string(pkcs1SHA256), "EXTERNAL_MU", make([]byte, 64), "ValidationException",
			"MessageType EXTERNAL_MU is not valid for algorithm RSASSA_PKCS1_V1_5_SHA_256."},
		{"algorithm of another kind", *key.KeyId, string(ecdsaSHA256), "", []byte("m"), "InvalidKeyUsageException",
			"Algorithm ECDSA_SHA_256 is incompatible with key spec RSA_2048."},
		{"algorithm of nobody", *key.KeyId, "ML_DSA_SHAKE_256", "EXTERNAL_MU", make([]byte, 64), "InvalidKeyUsageException",
			"Algorithm ML_DSA_SHAKE_256 is incompatible with key spec RSA_2048."},
		{"HMAC key", *mac.KeyId, string(pkcs1SHA256), "", []byte("m"), "InvalidKeyUsageException",
			*mac.Arn + " key usage is GENERATE_VERIFY_MAC which is not valid for %OP%."},
		{"key of a later version", foreign, "SM2DSA", "", []byte("m"), "InvalidKeyUsageException",
			"Algorithm SM2DSA is incompatible with key spec SM2."},
		{"disabled", *off.KeyId, string(ecdsaSHA256), "", []byte("m"), "DisabledException", *off.Arn + " is disabled."},
		{"disabled, algorithm of another spec", *off.KeyId, "ECDSA_SHA_512", "", []byte("m"), "DisabledException", *off.Arn + " is disabled."},
		{"unknown key", unknownID, string(ecdsaSHA256), "", []byte("m"), "NotFoundException", "Key '" + arnOf(unknownID) + "' does not exist"},
		{"unknown alias", "alias/none", string(ecdsaSHA256), "", []byte("m"), "NotFoundException",
			"Alias arn:aws:kms:us-west-2:111122223333:alias/none is not found."},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			for _, dry := range []*bool{nil, aws.Bool(true)} {
				_, err := c.Sign(t.Context(), &kms.SignInput{KeyId: &tc.keyID, SigningAlgorithm: types.SigningAlgorithmSpec(tc.algorithm),
					MessageType: types.MessageType(tc.kind), Message: tc.message, DryRun: dry})
				requireAPIErrorLike(t, err, tc.code, strings.ReplaceAll(tc.answer, "%OP%", "Sign"))
				_, err = c.Verify(t.Context(), &kms.VerifyInput{KeyId: &tc.keyID, SigningAlgorithm: types.SigningAlgorithmSpec(tc.algorithm),
					MessageType: types.MessageType(tc.kind), Message: tc.message, Signature: []byte("s"), DryRun: dry})
				requireAPIErrorLike(t, err, tc.code, strings.ReplaceAll(tc.answer, "%OP%", "Verify"))
			}
		})
	}
	_, err := c.Sign(t.Context(),
		&kms.SignInput{KeyId: key.KeyId, SigningAlgorithm: pkcs1SHA256, Message: []byte("m"), DryRun: aws.Bool(true)})
	requireAPIError(t, err, "DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
	for n, text := range map[int]string{0: "greater than or equal to 1", 6145: "less than or equal to 6144"} {
		err := verifySignature(t, c, key.KeyId, pkcs1SHA256, []byte("m"), make([]byte, n))
		requireAPIError(t, err, "ValidationException", one+"Value at 'signature' failed to satisfy constraint: Member must have length "+text)
	}
	_, err = c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: mac.KeyId})
	var typed *types.UnsupportedOperationException
	require.ErrorAs(t, err, &typed)
	require.Nil(t, typed.Message)
	_, err = c.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
	requireAPIError(t, err, "InvalidKeyUsageException", *key.Arn+" key usage is SIGN_VERIFY which is not valid for GenerateMac.")
}

// An alias moves from one signing key to another, of whatever spec, and to no HMAC key; what was signed before verifies by
// the key id.
func TestSigningByAlias(t *testing.T) {
	c := newClient(t)
	before, after := mustCreate(t, c, types.KeySpecRsa2048), mustCreate(t, c, types.KeySpecEccNistP256)
	mac := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/signer", before.KeyId)
	alias := ptr("alias/signer")
	out, err := c.Sign(t.Context(), &kms.SignInput{KeyId: alias, Message: []byte("m"), SigningAlgorithm: pkcs1SHA256})
	require.NoError(t, err)
	require.Equal(t, *before.Arn, *out.KeyId)
	for _, pair := range [][2]*string{{alias, mac.KeyId}, {ptr("alias/mac"), after.KeyId}} {
		if *pair[0] == "alias/mac" {
			createAlias(t, c, "alias/mac", mac.KeyId)
		}
		_, err = c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: pair[0], TargetKeyId: pair[1]})
		require.ErrorContains(t, err, "ValidationException")
	}
	_, err = c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: alias, TargetKeyId: after.KeyId})
	require.NoError(t, err)
	public, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: alias})
	require.NoError(t, err)
	require.Equal(t, *after.Arn, *public.KeyId)
	require.NoError(t, verifySignature(t, c, out.KeyId, pkcs1SHA256, []byte("m"), out.Signature))
}

// The public key is in the record: Verify and GetPublicKey do not need the object, and Sign tells that it is gone.
func TestPublicKeyWithoutTheObject(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecEccNistP256)
	signature := mustSign(t, c, key, ecdsaSHA256, []byte("m"))
	record, _ := storedKey(t, c, key.KeyId)
	require.NoError(t, c.region.Token.DestroyKeyPair(t.Context(), record.CKAID, record.ID))
	require.NoError(t, verifySignature(t, c, key.KeyId, ecdsaSHA256, []byte("m"), signature))
	_, err := c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
	_, err = c.Sign(t.Context(), &kms.SignInput{KeyId: key.KeyId, Message: []byte("m"), SigningAlgorithm: ecdsaSHA256})
	requireAPIError(t, err, "KeyUnavailableException", *key.Arn+" is unavailable.")
}
