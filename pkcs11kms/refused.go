package pkcs11kms

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
)

// The operations in this file exist for kinds of keys that this service does not make. They check the form of the whole input,
// find the key, check its state, and then refuse it as the real service refuses an HMAC key or a signing key.

var (
	opEncrypt                             = refusedUsage("Encrypt", types.KeyUsageTypeEncryptDecrypt)
	opReEncrypt                           = operation{name: "ReEncrypt", action: "ReEncryptTo", aliases: true, states: enabledOnly, usage: types.KeyUsageTypeEncryptDecrypt}
	opGenerateDataKey                     = refusedUsage("GenerateDataKey", types.KeyUsageTypeEncryptDecrypt)
	opGenerateDataKeyWithoutPlaintext     = refusedUsage("GenerateDataKeyWithoutPlaintext", types.KeyUsageTypeEncryptDecrypt)
	opGenerateDataKeyPair                 = refusedUsage("GenerateDataKeyPair", types.KeyUsageTypeEncryptDecrypt)
	opGenerateDataKeyPairWithoutPlaintext = refusedUsage("GenerateDataKeyPairWithoutPlaintext", types.KeyUsageTypeEncryptDecrypt)
	opDeriveSharedSecret                  = refusedUsage("DeriveSharedSecret", types.KeyUsageTypeKeyAgreement)
	opEncapsulate                         = refusedUsage("Encapsulate", types.KeyUsageTypeEncapsulateDecapsulate)
	opDecapsulate                         = refusedUsage("Decapsulate", types.KeyUsageTypeEncapsulateDecapsulate)

	opDecrypt                   = operation{name: "Decrypt", aliases: true, states: enabledOnly}
	opEnableKeyRotation         = operation{name: "EnableKeyRotation", states: enabledOnly}
	opDisableKeyRotation        = operation{name: "DisableKeyRotation", states: enabledOnly}
	opRotateKeyOnDemand         = operation{name: "RotateKeyOnDemand", states: enabledOnly}
	opListKeyRotations          = operation{name: "ListKeyRotations"}
	opGetKeyRotationStatus      = operation{name: "GetKeyRotationStatus"}
	opGetParametersForImport    = operation{name: "GetParametersForImport"}
	opImportKeyMaterial         = operation{name: "ImportKeyMaterial"}
	opDeleteImportedKeyMaterial = operation{name: "DeleteImportedKeyMaterial"}
)

func refusedUsage(name string, usage types.KeyUsageType) operation {
	return operation{name: name, aliases: true, states: enabledOnly, usage: usage}
}

// refuse runs an operation that ends in a refusal whatever the key is.
func refuse[Out any](ctx context.Context, c *Client, op *operation, keyID *string, grantTokens []string, because func(*key) error) (*Out, error) {
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
	return refuse[kms.EncryptOutput](ctx, c, &opEncrypt, in.KeyId, in.GrantTokens, otherKind)
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
	return refuse[kms.ReEncryptOutput](ctx, c, &opReEncrypt, in.DestinationKeyId, in.GrantTokens, otherKind)
}

// GenerateDataKey refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKey(ctx context.Context, in *kms.GenerateDataKeyInput, optFns ...func(*kms.Options)) (*kms.GenerateDataKeyOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.GenerateDataKeyOutput](ctx, c, &opGenerateDataKey, in.KeyId, in.GrantTokens, otherKind)
}

// GenerateDataKeyWithoutPlaintext refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKeyWithoutPlaintext(ctx context.Context, in *kms.GenerateDataKeyWithoutPlaintextInput, optFns ...func(*kms.Options)) (*kms.GenerateDataKeyWithoutPlaintextOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.GenerateDataKeyWithoutPlaintextOutput](ctx, c, &opGenerateDataKeyWithoutPlaintext, in.KeyId, in.GrantTokens, otherKind)
}

// GenerateDataKeyPair refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKeyPair(ctx context.Context, in *kms.GenerateDataKeyPairInput, optFns ...func(*kms.Options)) (*kms.GenerateDataKeyPairOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.GenerateDataKeyPairOutput](ctx, c, &opGenerateDataKeyPair, in.KeyId, in.GrantTokens, otherKind)
}

// GenerateDataKeyPairWithoutPlaintext refuses every key of this service with InvalidKeyUsageException.
func (c *Client) GenerateDataKeyPairWithoutPlaintext(ctx context.Context, in *kms.GenerateDataKeyPairWithoutPlaintextInput, optFns ...func(*kms.Options)) (*kms.GenerateDataKeyPairWithoutPlaintextOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.GenerateDataKeyPairWithoutPlaintextOutput](ctx, c, &opGenerateDataKeyPairWithoutPlaintext, in.KeyId, in.GrantTokens, otherKind)
}

// DeriveSharedSecret refuses every key of this service with InvalidKeyUsageException.
func (c *Client) DeriveSharedSecret(ctx context.Context, in *kms.DeriveSharedSecretInput, optFns ...func(*kms.Options)) (*kms.DeriveSharedSecretOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.DeriveSharedSecretOutput](ctx, c, &opDeriveSharedSecret, in.KeyId, in.GrantTokens, otherKind)
}

// Encapsulate refuses every key of this service with InvalidKeyUsageException.
func (c *Client) Encapsulate(ctx context.Context, in *kms.EncapsulateInput, optFns ...func(*kms.Options)) (*kms.EncapsulateOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.EncapsulateOutput](ctx, c, &opEncapsulate, in.KeyId, in.GrantTokens, otherKind)
}

// Decapsulate refuses every key of this service with InvalidKeyUsageException.
func (c *Client) Decapsulate(ctx context.Context, in *kms.DecapsulateInput, optFns ...func(*kms.Options)) (*kms.DecapsulateOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.DecapsulateOutput](ctx, c, &opDecapsulate, in.KeyId, in.GrantTokens, otherKind)
}

// EnableKeyRotation refuses every key of this service with UnsupportedOperationException.
func (c *Client) EnableKeyRotation(ctx context.Context, in *kms.EnableKeyRotationInput, optFns ...func(*kms.Options)) (*kms.EnableKeyRotationOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.EnableKeyRotationOutput](ctx, c, &opEnableKeyRotation, in.KeyId, nil, noSuchKind)
}

// DisableKeyRotation refuses every key of this service with UnsupportedOperationException.
func (c *Client) DisableKeyRotation(ctx context.Context, in *kms.DisableKeyRotationInput, optFns ...func(*kms.Options)) (*kms.DisableKeyRotationOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.DisableKeyRotationOutput](ctx, c, &opDisableKeyRotation, in.KeyId, nil, noSuchKind)
}

// RotateKeyOnDemand refuses every key of this service with UnsupportedOperationException.
func (c *Client) RotateKeyOnDemand(ctx context.Context, in *kms.RotateKeyOnDemandInput, optFns ...func(*kms.Options)) (*kms.RotateKeyOnDemandOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.RotateKeyOnDemandOutput](ctx, c, &opRotateKeyOnDemand, in.KeyId, nil, noSuchKind)
}

// ListKeyRotations refuses every key of this service with UnsupportedOperationException.
func (c *Client) ListKeyRotations(ctx context.Context, in *kms.ListKeyRotationsInput, optFns ...func(*kms.Options)) (*kms.ListKeyRotationsOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.ListKeyRotationsOutput](ctx, c, &opListKeyRotations, in.KeyId, nil, noSuchKind)
}

// GetParametersForImport refuses every key that the token made with UnsupportedOperationException.
func (c *Client) GetParametersForImport(ctx context.Context, in *kms.GetParametersForImportInput, optFns ...func(*kms.Options)) (*kms.GetParametersForImportOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.GetParametersForImportOutput](ctx, c, &opGetParametersForImport, in.KeyId, nil, notExternal)
}

// ImportKeyMaterial refuses every key that the token made with UnsupportedOperationException.
func (c *Client) ImportKeyMaterial(ctx context.Context, in *kms.ImportKeyMaterialInput, optFns ...func(*kms.Options)) (*kms.ImportKeyMaterialOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.ImportKeyMaterialOutput](ctx, c, &opImportKeyMaterial, in.KeyId, nil, notExternal)
}

// DeleteImportedKeyMaterial refuses every key that the token made with UnsupportedOperationException.
func (c *Client) DeleteImportedKeyMaterial(ctx context.Context, in *kms.DeleteImportedKeyMaterialInput, optFns ...func(*kms.Options)) (*kms.DeleteImportedKeyMaterialOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return refuse[kms.DeleteImportedKeyMaterialOutput](ctx, c, &opDeleteImportedKeyMaterial, in.KeyId, nil, notExternal)
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
		return nil, c.guardAccount(ctx, &opDecrypt, request{}, func(context.Context, witness) error { return foreign() })
	}
	return refuse[kms.DecryptOutput](ctx, c, &opDecrypt, in.KeyId, in.GrantTokens, func(*key) error { return foreign() })
}

// GetKeyRotationStatus tells that the key does not rotate: HMAC keys and signing keys never do.
func (c *Client) GetKeyRotationStatus(ctx context.Context, in *kms.GetKeyRotationStatusInput, optFns ...func(*kms.Options)) (*kms.GetKeyRotationStatusOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	out := &kms.GetKeyRotationStatusOutput{}
	err = c.guard(ctx, &opGetKeyRotationStatus, request{keyID: in.KeyId}, func(_ context.Context, k *key) error {
		out.KeyId = aws.String(k.record.ID)
		return nil
	})
	return outcome(out, err)
}
