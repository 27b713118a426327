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

// refuse runs an operation that ends in a refusal whatever the key is.
func refuse[Out any](ctx context.Context, c *Client, op *ops.Operation, keyID *string, grantTokens []string, because func(*key) error) (*Out, error) {
	req := request{keyID: keyID, grantTokens: grantTokens}
	return nil, c.guard(ctx, op, req, func(_ context.Context, k *key) error { return because(k) })
}

// otherKind refuses a key that has the right usage after all: a record that a newer version of the program wrote.
func otherKind(k *key) error {
	return apierr.Unsupported("Keys with KeySpec %s are not supported.", k.record.Spec)
}

func noSuchKind(*key) error { return apierr.UnsupportedKind() }

func notExternal(k *key) error {
	return apierr.Unsupported("%s origin is %s which is not valid for this operation.", k.arn, k.record.Origin)
}

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
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.EncryptOutput](ctx, c, ops.Encrypt, in.KeyId, in.GrantTokens, otherKind)
}

// ReEncrypt refuses every key of this service with InvalidKeyUsageException.
func (c *Client) ReEncrypt(ctx context.Context, in *kms.ReEncryptInput, optFns ...func(*kms.Options)) (*kms.ReEncryptOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	if err := checkCiphertext(in.CiphertextBlob, in.DryRunModifiers); err != nil {
		return nil, err
	}
	return refuse[kms.ReEncryptOutput](ctx, c, ops.ReEncrypt, in.DestinationKeyId, in.GrantTokens, otherKind)
}

// GenerateDataKey refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKey(ctx context.Context, in *kms.GenerateDataKeyInput, optFns ...func(*kms.Options)) (*kms.GenerateDataKeyOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.GenerateDataKeyOutput](ctx, c, ops.GenerateDataKey, in.KeyId, in.GrantTokens, otherKind)
}

// GenerateDataKeyWithoutPlaintext refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKeyWithoutPlaintext(ctx context.Context, in *kms.GenerateDataKeyWithoutPlaintextInput, optFns ...func(*kms.Options)) (*kms.GenerateDataKeyWithoutPlaintextOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.GenerateDataKeyWithoutPlaintextOutput](ctx, c, ops.GenerateDataKeyWithoutPlaintext, in.KeyId, in.GrantTokens, otherKind)
}

// GenerateDataKeyPair refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKeyPair(ctx context.Context, in *kms.GenerateDataKeyPairInput, optFns ...func(*kms.Options)) (*kms.GenerateDataKeyPairOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.GenerateDataKeyPairOutput](ctx, c, ops.GenerateDataKeyPair, in.KeyId, in.GrantTokens, otherKind)
}

// GenerateDataKeyPairWithoutPlaintext refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKeyPairWithoutPlaintext(ctx context.Context, in *kms.GenerateDataKeyPairWithoutPlaintextInput, optFns ...func(*kms.Options)) (*kms.GenerateDataKeyPairWithoutPlaintextOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.GenerateDataKeyPairWithoutPlaintextOutput](ctx, c, ops.GenerateDataKeyPairWithoutPlaintext, in.KeyId, in.GrantTokens, otherKind)
}

// DeriveSharedSecret refuses every key of this service with InvalidKeyUsageException.
func (c *Client) DeriveSharedSecret(ctx context.Context, in *kms.DeriveSharedSecretInput, optFns ...func(*kms.Options)) (*kms.DeriveSharedSecretOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.DeriveSharedSecretOutput](ctx, c, ops.DeriveSharedSecret, in.KeyId, in.GrantTokens, otherKind)
}

// Encapsulate refuses every key of this service with InvalidKeyUsageException.
func (c *Client) Encapsulate(ctx context.Context, in *kms.EncapsulateInput, optFns ...func(*kms.Options)) (*kms.EncapsulateOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.EncapsulateOutput](ctx, c, ops.Encapsulate, in.KeyId, in.GrantTokens, otherKind)
}

// Decapsulate refuses every key of this service with InvalidKeyUsageException.
func (c *Client) Decapsulate(ctx context.Context, in *kms.DecapsulateInput, optFns ...func(*kms.Options)) (*kms.DecapsulateOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.DecapsulateOutput](ctx, c, ops.Decapsulate, in.KeyId, in.GrantTokens, otherKind)
}

// EnableKeyRotation refuses every key of this service with UnsupportedOperationException.
func (c *Client) EnableKeyRotation(ctx context.Context, in *kms.EnableKeyRotationInput, optFns ...func(*kms.Options)) (*kms.EnableKeyRotationOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.EnableKeyRotationOutput](ctx, c, ops.EnableKeyRotation, in.KeyId, nil, noSuchKind)
}

// DisableKeyRotation refuses every key of this service with UnsupportedOperationException.
func (c *Client) DisableKeyRotation(ctx context.Context, in *kms.DisableKeyRotationInput, optFns ...func(*kms.Options)) (*kms.DisableKeyRotationOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.DisableKeyRotationOutput](ctx, c, ops.DisableKeyRotation, in.KeyId, nil, noSuchKind)
}

// RotateKeyOnDemand refuses every key of this service with UnsupportedOperationException.
func (c *Client) RotateKeyOnDemand(ctx context.Context, in *kms.RotateKeyOnDemandInput, optFns ...func(*kms.Options)) (*kms.RotateKeyOnDemandOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.RotateKeyOnDemandOutput](ctx, c, ops.RotateKeyOnDemand, in.KeyId, nil, noSuchKind)
}

// ListKeyRotations refuses every key of this service with UnsupportedOperationException.
func (c *Client) ListKeyRotations(ctx context.Context, in *kms.ListKeyRotationsInput, optFns ...func(*kms.Options)) (*kms.ListKeyRotationsOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.ListKeyRotationsOutput](ctx, c, ops.ListKeyRotations, in.KeyId, nil, noSuchKind)
}

// GetParametersForImport refuses every key that the token made with UnsupportedOperationException.
func (c *Client) GetParametersForImport(ctx context.Context, in *kms.GetParametersForImportInput, optFns ...func(*kms.Options)) (*kms.GetParametersForImportOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.GetParametersForImportOutput](ctx, c, ops.GetParametersForImport, in.KeyId, nil, notExternal)
}

// ImportKeyMaterial refuses every key that the token made with UnsupportedOperationException.
func (c *Client) ImportKeyMaterial(ctx context.Context, in *kms.ImportKeyMaterialInput, optFns ...func(*kms.Options)) (*kms.ImportKeyMaterialOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.ImportKeyMaterialOutput](ctx, c, ops.ImportKeyMaterial, in.KeyId, nil, notExternal)
}

// DeleteImportedKeyMaterial refuses every key that the token made with UnsupportedOperationException.
func (c *Client) DeleteImportedKeyMaterial(ctx context.Context, in *kms.DeleteImportedKeyMaterialInput, optFns ...func(*kms.Options)) (*kms.DeleteImportedKeyMaterialOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.DeleteImportedKeyMaterialOutput](ctx, c, ops.DeleteImportedKeyMaterial, in.KeyId, nil, notExternal)
}

// Decrypt refuses every ciphertext: this service never made one. Without a KeyId, as for a symmetric key, no key is looked
// for.
func (c *Client) Decrypt(ctx context.Context, in *kms.DecryptInput, optFns ...func(*kms.Options)) (*kms.DecryptOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	if err := checkCiphertext(in.CiphertextBlob, in.DryRunModifiers); err != nil {
		return nil, err
	}
	foreign := func() error { return &types.InvalidCiphertextException{} }
	if in.KeyId == nil {
		return nil, c.guardAccount(ctx, ops.Decrypt, request{}, func(context.Context, witness) error { return foreign() })
	}
	return refuse[kms.DecryptOutput](ctx, c, ops.Decrypt, in.KeyId, in.GrantTokens, func(*key) error { return foreign() })
}

// GetKeyRotationStatus tells that the key does not rotate: HMAC keys and signing keys never do.
func (c *Client) GetKeyRotationStatus(ctx context.Context, in *kms.GetKeyRotationStatusInput, optFns ...func(*kms.Options)) (*kms.GetKeyRotationStatusOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	out := &kms.GetKeyRotationStatusOutput{}
	err = c.guard(ctx, ops.GetKeyRotationStatus, request{keyID: in.KeyId}, func(_ context.Context, k *key) error {
		out.KeyId = aws.String(k.record.ID)
		return nil
	})
	return outcome(out, err)
}
