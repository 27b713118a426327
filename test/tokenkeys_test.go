package test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tryMACs: keys of each spec make the MACs that pkcs11-tool makes with the same object.
func (s *tokenSuite) tryMACs(t *testing.T) {
	for _, spec := range specs {
		s.try(t, string(spec.name), func(t *testing.T) string {
			out, err := s.c.CreateKey(t.Context(), createInput(spec.name))
			if err != nil {
				s.refused[spec.name] = no(t, err)
				return s.refused[spec.name]
			}
			s.made[spec.name] = out.KeyMetadata
			if spec.name == types.KeySpecHmac256 {
				s.macKey = *out.KeyMetadata.KeyId
			}
			s.requireMACs(t, spec, *out.KeyMetadata.KeyId)
			return yes
		})
	}
}

// requireMACs holds that a key makes and verifies the MACs of the independent client.
func (s *tokenSuite) requireMACs(t *testing.T, spec macSpec, keyID string) {
	t.Helper()
	ckaID := s.d.ckaID(t, keyID)
	for _, size := range []int{1, 64, 4096} {
		message := bytes.Repeat([]byte{'m'}, size)
		mac, err := s.c.GenerateMac(t.Context(), macInput(keyID, spec.algorithm, message))
		require.NoError(t, err)
		assert.True(t, bytes.Equal(s.theirMAC(t, spec.opensc, ckaID, message), mac.Mac), "%d bytes: pkcs11-tool makes another MAC", size)
		_, err = s.c.VerifyMac(t.Context(), verifyInput(keyID, spec.algorithm, message, mac.Mac))
		require.NoError(t, err)
		for _, wrong := range [][]byte{mac.Mac[1:], append(mac.Mac[:len(mac.Mac):len(mac.Mac)], 0), slices.Repeat([]byte{1}, int(spec.bytes))} {
			_, err = s.c.VerifyMac(t.Context(), verifyInput(keyID, spec.algorithm, message, wrong))
			var invalid *types.KMSInvalidMacException
			require.ErrorAs(t, err, &invalid)
		}
	}
}

// trySignatures: keys of each spec sign by every algorithm of theirs, and openssl verifies that.
func (s *tokenSuite) trySignatures(t *testing.T) {
	for _, spec := range signingSpecs {
		s.try(t, string(spec), func(t *testing.T) string {
			out, err := s.c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: types.KeyUsageTypeSignVerify})
			if err != nil {
				s.refused[spec] = no(t, err)
				return s.refused[spec]
			}
			s.made[spec] = out.KeyMetadata
			return s.requireSignatures(t, out.KeyMetadata)
		})
	}
}

// requireSignatures holds that a key signs by all the algorithms that it says it does, and tells which are missing.
func (s *tokenSuite) requireSignatures(t *testing.T, m *types.KeyMetadata) string {
	t.Helper()
	key := newSigner(t, s.d, s.c, m)
	message := []byte("a message")
	var missing []string
	for _, algorithm := range algorithmsOf[m.KeySpec] {
		if slices.Contains(m.SigningAlgorithms, algorithm) {
			key.requireSigns(t, s.c, algorithm, message)
			continue
		}
		missing = append(missing, string(algorithm))
		in := &kms.SignInput{KeyId: m.KeyId, Message: message, SigningAlgorithm: algorithm}
		if algorithm == types.SigningAlgorithmSpecEd25519PhSha512 {
			in.Message, in.MessageType = make([]byte, 64), types.MessageTypeDigest // the one form that it takes
		}
		_, err := s.c.Sign(t.Context(), in)
		no(t, err)
	}
	require.NotEmpty(t, m.SigningAlgorithms)
	if len(missing) > 0 {
		return yes + ", without " + strings.Join(missing, ", ")
	}
	return yes
}

// algorithmsOf are the signature algorithms of each spec, from the API reference of AWS KMS.
var algorithmsOf = map[types.KeySpec][]types.SigningAlgorithmSpec{
	types.KeySpecRsa2048: rsaAlgorithms, types.KeySpecRsa3072: rsaAlgorithms, types.KeySpecRsa4096: rsaAlgorithms,
	types.KeySpecEccNistP256:         {types.SigningAlgorithmSpecEcdsaSha256},
	types.KeySpecEccNistP384:         {types.SigningAlgorithmSpecEcdsaSha384},
	types.KeySpecEccNistP521:         {types.SigningAlgorithmSpecEcdsaSha512},
	types.KeySpecEccSecgP256k1:       {types.SigningAlgorithmSpecEcdsaSha256},
	types.KeySpecEccNistEdwards25519: {types.SigningAlgorithmSpecEd25519Sha512, types.SigningAlgorithmSpecEd25519PhSha512},
}

var rsaAlgorithms = []types.SigningAlgorithmSpec{
	types.SigningAlgorithmSpecRsassaPkcs1V15Sha256, types.SigningAlgorithmSpecRsassaPkcs1V15Sha384,
	types.SigningAlgorithmSpecRsassaPkcs1V15Sha512,
	types.SigningAlgorithmSpecRsassaPssSha256, types.SigningAlgorithmSpecRsassaPssSha384, types.SigningAlgorithmSpecRsassaPssSha512,
}
