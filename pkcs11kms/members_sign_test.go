package pkcs11kms

import (
	"crypto/sha256"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

func (r *memberRig) sign() map[string]func(*testing.T) {
	ask := func(change func(*kms.SignInput)) func(*testing.T) error {
		return func(t *testing.T) error {
			in := &kms.SignInput{KeyId: r.signing.KeyId, Message: r.message, SigningAlgorithm: types.SigningAlgorithmSpecRsassaPkcs1V15Sha256}
			change(in)
			out, err := r.c.Sign(t.Context(), in)
			if err == nil {
				require.NotEqual(t, r.signature, out.Signature, "the member was ignored")
			}
			return err
		}
	}
	return map[string]func(*testing.T){
		"KeyId": fails[*types.NotFoundException](ask(func(in *kms.SignInput) { in.KeyId = ptr(unknownID) })),
		"Message": func(t *testing.T) {
			require.NoError(t, ask(func(in *kms.SignInput) { in.Message = []byte("n") })(t))
		},
		"MessageType": func(t *testing.T) {
			digest := sha256.Sum256(r.message)
			require.NoError(t, ask(func(in *kms.SignInput) { in.Message = digest[:] })(t), "a hash is a message")
			out, err := r.c.Sign(t.Context(), &kms.SignInput{KeyId: r.signing.KeyId, Message: digest[:], MessageType: types.MessageTypeDigest,
				SigningAlgorithm: types.SigningAlgorithmSpecRsassaPkcs1V15Sha256})
			require.NoError(t, err)
			require.Equal(t, r.signature, out.Signature, "and as a digest it is the message's")
		},
		"SigningAlgorithm": fails[*types.InvalidKeyUsageException](ask(func(in *kms.SignInput) {
			in.SigningAlgorithm = types.SigningAlgorithmSpecEcdsaSha256
		})),
		"DryRun":      fails[*types.DryRunOperationException](ask(func(in *kms.SignInput) { in.DryRun = aws.Bool(true) })),
		"GrantTokens": fails[*types.InvalidGrantTokenException](ask(func(in *kms.SignInput) { in.GrantTokens = []string{"token"} })),
	}
}

func (r *memberRig) verify() map[string]func(*testing.T) {
	ask := func(change func(*kms.VerifyInput)) func(*testing.T) error {
		return func(t *testing.T) error {
			in := &kms.VerifyInput{KeyId: r.signing.KeyId, Message: r.message, SigningAlgorithm: types.SigningAlgorithmSpecRsassaPkcs1V15Sha256,
				Signature: r.signature}
			change(in)
			_, err := r.c.Verify(t.Context(), in)
			return err
		}
	}
	invalid := fails[*types.KMSInvalidSignatureException]
	return map[string]func(*testing.T){
		"KeyId":     invalid(ask(func(in *kms.VerifyInput) { in.KeyId = r.otherSigning.KeyId })),
		"Signature": invalid(ask(func(in *kms.VerifyInput) { in.Signature = make([]byte, 256) })),
		"Message":   invalid(ask(func(in *kms.VerifyInput) { in.Message = []byte("n") })),
		"MessageType": func(t *testing.T) {
			digest := sha256.Sum256(r.message)
			require.NoError(t, ask(func(in *kms.VerifyInput) { in.Message, in.MessageType = digest[:], types.MessageTypeDigest })(t))
			invalid(ask(func(in *kms.VerifyInput) { in.Message = digest[:] }))(t)
		},
		"SigningAlgorithm": invalid(ask(func(in *kms.VerifyInput) { in.SigningAlgorithm = types.SigningAlgorithmSpecRsassaPssSha256 })),
		"DryRun":           fails[*types.DryRunOperationException](ask(func(in *kms.VerifyInput) { in.DryRun = aws.Bool(true) })),
		"GrantTokens":      fails[*types.InvalidGrantTokenException](ask(func(in *kms.VerifyInput) { in.GrantTokens = []string{"token"} })),
	}
}

func (r *memberRig) getPublicKey() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"KeyId": func(t *testing.T) {
			one, err := r.c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: r.signing.KeyId})
			require.NoError(t, err)
			other, err := r.c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: r.otherSigning.KeyId})
			require.NoError(t, err)
			require.NotEqual(t, one.PublicKey, other.PublicKey)
		},
		"GrantTokens": fails[*types.InvalidGrantTokenException](func(t *testing.T) error {
			_, err := r.c.GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: r.signing.KeyId, GrantTokens: []string{"token"}})
			return err
		}),
	}
}
