package pkcs11kms

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// The operations in this file exist for kinds of keys that this service does not make. They check the form of the whole input,
// find the key, check its state, and then refuse it as the real service refuses an HMAC key or a signing key.

// refuse makes a call of an operation that ends in a refusal whatever the key is.
func refuse[Out, In any](
	ctx context.Context, c *Client, op *ops.Operation, in *In, optFns []func(*kms.Options),
	ask func(*Client, *In) (request, error), because func(*key) error,
) (*Out, error) {
	return perform(ctx, c, op, in, optFns, ask, func(_ context.Context, _ *call, _ *In, k *key) (*Out, error) {
		return nil, because(k)
	})
}

// otherKind refuses a key that has the right usage after all: a record that a newer version of the program wrote.
func otherKind(k *key) error {
	return apierr.Unsupported("Keys with KeySpec %s are not supported.", k.Record.Spec)
}

func noSuchKind(*key) error { return apierr.UnsupportedKind() }

// checkCiphertext holds what the model leaves to the operation: without the modifier there must be a ciphertext.
func checkCiphertext(ciphertext []byte, modifiers []types.DryRunModifierType) error {
	var v form.Violations
	if ciphertext == nil && !slices.Contains(modifiers, types.DryRunModifierTypeIgnoreCiphertext) {
		v.Null("ciphertextBlob")
	}
	return v.Err()
}

// Encrypt refuses every key of this service with InvalidKeyUsageException.
func (c *Client) Encrypt(ctx context.Context, in *kms.EncryptInput, optFns ...func(*kms.Options)) (*kms.EncryptOutput, error) {
	return refuse[kms.EncryptOutput](ctx, c, ops.Encrypt, in, optFns, func(_ *Client, in *kms.EncryptInput) (request, error) {
		return request{keyID: in.KeyId, grantTokens: in.GrantTokens}, nil
	}, otherKind)
}

// ReEncrypt refuses every key of this service with InvalidKeyUsageException.
func (c *Client) ReEncrypt(ctx context.Context, in *kms.ReEncryptInput, optFns ...func(*kms.Options)) (*kms.ReEncryptOutput, error) {
	return refuse[kms.ReEncryptOutput](ctx, c, ops.ReEncrypt, in, optFns, func(_ *Client, in *kms.ReEncryptInput) (request, error) {
		req := request{keyID: in.DestinationKeyId, grantTokens: in.GrantTokens}
		return req, checkCiphertext(in.CiphertextBlob, in.DryRunModifiers)
	}, otherKind)
}

// GenerateDataKey refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKey(
	ctx context.Context, in *kms.GenerateDataKeyInput, optFns ...func(*kms.Options),
) (*kms.GenerateDataKeyOutput, error) {
	return refuse[kms.GenerateDataKeyOutput](ctx, c, ops.GenerateDataKey, in, optFns,
		func(_ *Client, in *kms.GenerateDataKeyInput) (request, error) {
			return request{keyID: in.KeyId, grantTokens: in.GrantTokens}, nil
		}, otherKind)
}

// GenerateDataKeyWithoutPlaintext refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKeyWithoutPlaintext(
	ctx context.Context, in *kms.GenerateDataKeyWithoutPlaintextInput, optFns ...func(*kms.Options),
) (*kms.GenerateDataKeyWithoutPlaintextOutput, error) {
	return refuse[kms.GenerateDataKeyWithoutPlaintextOutput](ctx, c, ops.GenerateDataKeyWithoutPlaintext, in, optFns,
		func(_ *Client, in *kms.GenerateDataKeyWithoutPlaintextInput) (request, error) {
			return request{keyID: in.KeyId, grantTokens: in.GrantTokens}, nil
		}, otherKind)
}

// GenerateDataKeyPair refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKeyPair(
	ctx context.Context, in *kms.GenerateDataKeyPairInput, optFns ...func(*kms.Options),
) (*kms.GenerateDataKeyPairOutput, error) {
	return refuse[kms.GenerateDataKeyPairOutput](ctx, c, ops.GenerateDataKeyPair, in, optFns,
		func(_ *Client, in *kms.GenerateDataKeyPairInput) (request, error) {
			return request{keyID: in.KeyId, grantTokens: in.GrantTokens}, nil
		}, otherKind)
}

// GenerateDataKeyPairWithoutPlaintext refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKeyPairWithoutPlaintext(
	ctx context.Context, in *kms.GenerateDataKeyPairWithoutPlaintextInput, optFns ...func(*kms.Options),
) (*kms.GenerateDataKeyPairWithoutPlaintextOutput, error) {
	return refuse[kms.GenerateDataKeyPairWithoutPlaintextOutput](ctx, c, ops.GenerateDataKeyPairWithoutPlaintext, in, optFns,
		func(_ *Client, in *kms.GenerateDataKeyPairWithoutPlaintextInput) (request, error) {
			return request{keyID: in.KeyId, grantTokens: in.GrantTokens}, nil
		}, otherKind)
}

// DeriveSharedSecret refuses every key of this service with InvalidKeyUsageException.
func (c *Client) DeriveSharedSecret(
	ctx context.Context, in *kms.DeriveSharedSecretInput, optFns ...func(*kms.Options),
) (*kms.DeriveSharedSecretOutput, error) {
	return refuse[kms.DeriveSharedSecretOutput](ctx, c, ops.DeriveSharedSecret, in, optFns,
		func(_ *Client, in *kms.DeriveSharedSecretInput) (request, error) {
			return request{keyID: in.KeyId, grantTokens: in.GrantTokens}, nil
		}, otherKind)
}

// Encapsulate refuses every key of this service with InvalidKeyUsageException.
func (c *Client) Encapsulate(ctx context.Context, in *kms.EncapsulateInput, optFns ...func(*kms.Options)) (*kms.EncapsulateOutput, error) {
	return refuse[kms.EncapsulateOutput](ctx, c, ops.Encapsulate, in, optFns, func(_ *Client, in *kms.EncapsulateInput) (request, error) {
		return request{keyID: in.KeyId, grantTokens: in.GrantTokens}, nil
	}, otherKind)
}

// Decapsulate refuses every key of this service with InvalidKeyUsageException.
func (c *Client) Decapsulate(ctx context.Context, in *kms.DecapsulateInput, optFns ...func(*kms.Options)) (*kms.DecapsulateOutput, error) {
	return refuse[kms.DecapsulateOutput](ctx, c, ops.Decapsulate, in, optFns, func(_ *Client, in *kms.DecapsulateInput) (request, error) {
		return request{keyID: in.KeyId, grantTokens: in.GrantTokens}, nil
	}, otherKind)
}

// EnableKeyRotation refuses every key of this service with UnsupportedOperationException.
func (c *Client) EnableKeyRotation(
	ctx context.Context, in *kms.EnableKeyRotationInput, optFns ...func(*kms.Options),
) (*kms.EnableKeyRotationOutput, error) {
	return refuse[kms.EnableKeyRotationOutput](ctx, c, ops.EnableKeyRotation, in, optFns,
		func(_ *Client, in *kms.EnableKeyRotationInput) (request, error) {
			return request{keyID: in.KeyId}, nil
		}, noSuchKind)
}

// DisableKeyRotation refuses every key of this service with UnsupportedOperationException.
func (c *Client) DisableKeyRotation(
	ctx context.Context, in *kms.DisableKeyRotationInput, optFns ...func(*kms.Options),
) (*kms.DisableKeyRotationOutput, error) {
	return refuse[kms.DisableKeyRotationOutput](ctx, c, ops.DisableKeyRotation, in, optFns,
		func(_ *Client, in *kms.DisableKeyRotationInput) (request, error) {
			return request{keyID: in.KeyId}, nil
		}, noSuchKind)
}

// RotateKeyOnDemand refuses every key of this service with UnsupportedOperationException.
func (c *Client) RotateKeyOnDemand(
	ctx context.Context, in *kms.RotateKeyOnDemandInput, optFns ...func(*kms.Options),
) (*kms.RotateKeyOnDemandOutput, error) {
	return refuse[kms.RotateKeyOnDemandOutput](ctx, c, ops.RotateKeyOnDemand, in, optFns,
		func(_ *Client, in *kms.RotateKeyOnDemandInput) (request, error) {
			return request{keyID: in.KeyId}, nil
		}, noSuchKind)
}

// ListKeyRotations refuses every key of this service with UnsupportedOperationException.
func (c *Client) ListKeyRotations(
	ctx context.Context, in *kms.ListKeyRotationsInput, optFns ...func(*kms.Options),
) (*kms.ListKeyRotationsOutput, error) {
	return refuse[kms.ListKeyRotationsOutput](ctx, c, ops.ListKeyRotations, in, optFns,
		func(_ *Client, in *kms.ListKeyRotationsInput) (request, error) {
			return request{keyID: in.KeyId}, nil
		}, noSuchKind)
}

// Decrypt refuses every ciphertext: this service never made one. Without a KeyId, as for a symmetric key, no key is looked
// for.
func (c *Client) Decrypt(ctx context.Context, in *kms.DecryptInput, optFns ...func(*kms.Options)) (*kms.DecryptOutput, error) {
	return refuse[kms.DecryptOutput](ctx, c, ops.Decrypt, in, optFns, func(_ *Client, in *kms.DecryptInput) (request, error) {
		req := request{keyID: in.KeyId, grantTokens: in.GrantTokens}
		return req, checkCiphertext(in.CiphertextBlob, in.DryRunModifiers)
	}, func(*key) error {
		return &types.InvalidCiphertextException{}
	})
}

// GetKeyRotationStatus tells that the key does not rotate: HMAC keys and signing keys never do.
func (c *Client) GetKeyRotationStatus(
	ctx context.Context, in *kms.GetKeyRotationStatusInput, optFns ...func(*kms.Options),
) (*kms.GetKeyRotationStatusOutput, error) {
	return perform(ctx, c, ops.GetKeyRotationStatus, in, optFns, func(_ *Client, in *kms.GetKeyRotationStatusInput) (request, error) {
		return request{keyID: in.KeyId}, nil
	}, func(
		_ context.Context, _ *call, _ *kms.GetKeyRotationStatusInput, k *key,
	) (*kms.GetKeyRotationStatusOutput, error) {
		return &kms.GetKeyRotationStatusOutput{KeyId: aws.String(k.Record.ID)}, nil
	})
}
