package pkcs11kms

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/envelope"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Key material that is imported: of keys with the Origin EXTERNAL. How it gets into the token is package keyring's.

// maxMaterialLife is how far ahead ValidTo may be: 365 days, by the API model.
const maxMaterialLife = 365 * 24 * time.Hour

// wrappingPairs are the WrappingKeySpecs that there are.
var wrappingPairs = map[types.WrappingKeySpec]pubkey.Spec{
	types.WrappingKeySpecRsa2048: pubkey.RSA2048, types.WrappingKeySpecRsa3072: pubkey.RSA3072, types.WrappingKeySpecRsa4096: pubkey.RSA4096,
}

// GetParametersForImport returns the public key of a pair in the token, for an envelope with key material, and an import token, which are
// good for 24 hours and for this key. WrappingKeySpec is RSA_2048, RSA_3072 or RSA_4096, WrappingAlgorithm one of RSAES_OAEP_SHA_1,
// RSAES_OAEP_SHA_256, RSA_AES_KEY_WRAP_SHA_1 and RSA_AES_KEY_WRAP_SHA_256: what the token does not open by itself, and may not be opened in
// memory (Region.Import), is UnsupportedOperationException. The first call of a day for a spec makes the pair, which can take seconds.
func (c *Client) GetParametersForImport(
	ctx context.Context, in *kms.GetParametersForImportInput, optFns ...func(*kms.Options),
) (*kms.GetParametersForImportOutput, error) {
	return perform(ctx, c, ops.GetParametersForImport, in, optFns, func(_ *Client, in *kms.GetParametersForImportInput) (request, error) {
		return request{keyID: in.KeyId, given: map[string][]string{"kms:wrappingalgorithm": {string(in.WrappingAlgorithm)},
			"kms:wrappingkeyspec": {string(in.WrappingKeySpec)}}}, nil
	}, func(
		ctx context.Context, c *call, in *kms.GetParametersForImportInput, k *key,
	) (*kms.GetParametersForImportOutput, error) {
		algorithm, ok := envelope.Find(string(in.WrappingAlgorithm))
		if !ok {
			return nil, apierr.Unsupported("WrappingAlgorithm %s is not supported.", in.WrappingAlgorithm)
		}
		pair, ok := wrappingPairs[in.WrappingKeySpec]
		if !ok {
			return nil, apierr.Unsupported("WrappingKeySpec %s is not supported.", in.WrappingKeySpec)
		}
		made, err := c.bridge.core.Keys.ImportParameters(ctx, k.Key, algorithm, pair)
		if gap, ok := errors.AsType[*token.EnvelopeGapError](err); ok {
			return nil, c.envelopeGap(ctx, gap)
		}
		if err != nil {
			return nil, err
		}
		return &kms.GetParametersForImportOutput{KeyId: aws.String(k.ARN), ImportToken: made.Token, PublicKey: made.PublicKey,
			ParametersValidTo: aws.Time(made.ValidTo)}, nil
	})
}

// envelopeGap says what the token can do, or why nothing can be imported.
func (c *call) envelopeGap(ctx context.Context, gap *token.EnvelopeGapError) error {
	opened, err := c.bridge.core.Keys.Opened(ctx, c.region)
	if err != nil {
		return err
	}
	can := "It opens none."
	if len(opened) > 0 {
		can = "It opens " + strings.Join(opened, ", ") + "."
	}
	return apierr.WithCause(apierr.Unsupported("WrappingAlgorithm %s is not supported by the token. %s", gap.Algorithm.Name, can), gap)
}

// ImportKeyMaterial has the token open the envelope and keep the key material: of an HMAC key, from as many bytes as its spec says to 128.
// Material that was imported once can be imported again, to change when it expires or after DeleteImportedKeyMaterial, and none other can
// (IncorrectKeyMaterialException). ValidTo is in the future, and 365 days ahead at most. The output has no KeyMaterialId, as that of AWS
// KMS for such keys.
func (c *Client) ImportKeyMaterial(
	ctx context.Context, in *kms.ImportKeyMaterialInput, optFns ...func(*kms.Options),
) (*kms.ImportKeyMaterialOutput, error) {
	return perform(ctx, c, ops.ImportKeyMaterial, in, optFns, func(c *Client, in *kms.ImportKeyMaterialInput) (request, error) {
		return request{keyID: in.KeyId, given: givenImport(in)}, c.checkImport(in)
	}, func(
		ctx context.Context, c *call, in *kms.ImportKeyMaterialInput, k *key,
	) (*kms.ImportKeyMaterialOutput, error) {
		if in.ImportType != "" || in.KeyMaterialDescription != nil || in.KeyMaterialId != nil {
			return nil, apierr.Unsupported("ImportType, KeyMaterialDescription and KeyMaterialId are for symmetric encryption keys only.")
		}
		done, err := c.bridge.core.Keys.Import(ctx, k.Key, in.ImportToken, in.EncryptedKeyMaterial, aws.ToTime(in.ValidTo), c.commitVersion)
		c.software = done.Software
		if err != nil {
			return nil, importError(err)
		}
		return &kms.ImportKeyMaterialOutput{KeyId: aws.String(k.ARN)}, nil
	})
}

// importError is the API's error of what is wrong with an import. The real service's texts are not known.
func importError(err error) error {
	for _, known := range []struct{ cause, api error }{
		{keyring.ErrImportToken, &types.InvalidImportTokenException{}},
		{keyring.ErrImportTokenExpired, &types.ExpiredImportTokenException{}},
		{keyring.ErrEnvelopeClosed, &types.InvalidCiphertextException{}},
		{keyring.ErrOtherMaterial, &types.IncorrectKeyMaterialException{}},
		{keyring.ErrMaterialLength, &types.IncorrectKeyMaterialException{}},
	} {
		if errors.Is(err, known.cause) {
			return known.api
		}
	}
	return err
}

// expirationModel is that of a request, with the default of the service.
func expirationModel(in *kms.ImportKeyMaterialInput) types.ExpirationModelType {
	model := in.ExpirationModel
	setDefault(&model, types.ExpirationModelTypeKeyMaterialExpires)
	return model
}

// checkImport checks the rules between ExpirationModel and ValidTo.
func (c *Client) checkImport(in *kms.ImportKeyMaterialInput) error {
	switch expires := expirationModel(in) == types.ExpirationModelTypeKeyMaterialExpires; {
	case expires && in.ValidTo == nil:
		return apierr.Validation("A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES")
	case !expires && in.ValidTo != nil:
		return apierr.Validation("A validTo date must not be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE")
	case !expires:
		return nil
	}
	later := c.bridge.core.Keys.Later()
	if !in.ValidTo.After(later) {
		return apierr.Validation("The validTo date must be in the future")
	}
	if in.ValidTo.After(later.Add(maxMaterialLife)) {
		return apierr.Validation("The validTo date must be within 365 days")
	}
	return nil
}

// givenImport are the condition keys of ImportKeyMaterial.
func givenImport(in *kms.ImportKeyMaterialInput) map[string][]string {
	given := map[string][]string{"kms:expirationmodel": {string(expirationModel(in))}}
	if in.ValidTo != nil {
		given["kms:validto"] = []string{in.ValidTo.UTC().Format(time.RFC3339)}
	}
	return given
}

// DeleteImportedKeyMaterial destroys the key material in the token. The key is PendingImport then, at once, unless it is pending deletion.
// Envelopes and import tokens of before do not count any more. It does nothing to a key without material.
func (c *Client) DeleteImportedKeyMaterial(
	ctx context.Context, in *kms.DeleteImportedKeyMaterialInput, optFns ...func(*kms.Options),
) (*kms.DeleteImportedKeyMaterialOutput, error) {
	return perform(ctx, c, ops.DeleteImportedKeyMaterial, in, optFns,
		func(_ *Client, in *kms.DeleteImportedKeyMaterialInput) (request, error) {
			return request{keyID: in.KeyId}, nil
		}, func(
			ctx context.Context, c *call, in *kms.DeleteImportedKeyMaterialInput, k *key,
		) (*kms.DeleteImportedKeyMaterialOutput, error) {
			if in.KeyMaterialId != nil {
				return nil, apierr.Unsupported("KeyMaterialId is for symmetric encryption keys only.")
			}
			if err := c.bridge.core.Keys.DeleteMaterial(ctx, k.Key, c.commitVersion); err != nil {
				return nil, err
			}
			return &kms.DeleteImportedKeyMaterialOutput{KeyId: aws.String(k.ARN)}, nil
		})
}

// WrapKeyMaterial puts key material into the envelope that ImportKeyMaterial takes. public is the PublicKey of GetParametersForImport, and
// algorithm the WrappingAlgorithm that it was asked for. The material stays the caller's, to be wiped.
func WrapKeyMaterial(algorithm types.AlgorithmSpec, public, material []byte) ([]byte, error) {
	return envelope.Wrap(string(algorithm), public, material)
}
