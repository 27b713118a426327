package pkcs11kms

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// imports shows the members of the operations on imported key material.
func (r *memberRig) imports() map[string]map[string]func(*testing.T) {
	c := r.c
	fresh := func(t *testing.T) *string { return mustCreateExternal(t, c, types.KeySpecHmac256).KeyId }
	type shown = map[string]func(*testing.T)
	unknown, materialID := ptr(unknownID), ptr("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
	get := func(t *testing.T, change func(*kms.GetParametersForImportInput)) error {
		in := &kms.GetParametersForImportInput{KeyId: fresh(t), WrappingAlgorithm: oaep1, WrappingKeySpec: types.WrappingKeySpecRsa2048}
		change(in)
		_, err := c.GetParametersForImport(t.Context(), in)
		return err
	}
	put := func(t *testing.T, change func(*kms.ImportKeyMaterialInput)) (*types.KeyMetadata, error) {
		id := fresh(t)
		in := importInput(t, id, parameters(t, c, id, oaep1, types.WrappingKeySpecRsa2048), oaep1, random(32))
		change(in)
		_, err := c.ImportKeyMaterial(t.Context(), in)
		return describe(t, c, id), err
	}
	unsupported := func(change func(*kms.ImportKeyMaterialInput)) func(*testing.T) {
		return fails[*types.UnsupportedOperationException](func(t *testing.T) error { _, err := put(t, change); return err })
	}
	until := c.bridge.cfg.Now().Add(time.Hour).UTC().Truncate(time.Second)
	expires := func(in *kms.ImportKeyMaterialInput) { in.ExpirationModel, in.ValidTo = "", &until }
	return map[string]map[string]func(*testing.T){
		"GetParametersForImport": shown{
			"KeyId": fails[*types.NotFoundException](func(t *testing.T) error {
				return get(t, func(in *kms.GetParametersForImportInput) { in.KeyId = unknown })
			}),
			"WrappingAlgorithm": fails[*types.UnsupportedOperationException](func(t *testing.T) error {
				return get(t, func(in *kms.GetParametersForImportInput) { in.WrappingAlgorithm = types.AlgorithmSpecSm2pke })
			}),
			"WrappingKeySpec": fails[*types.UnsupportedOperationException](func(t *testing.T) error {
				return get(t, func(in *kms.GetParametersForImportInput) { in.WrappingKeySpec = types.WrappingKeySpecSm2 })
			}),
		},
		"ImportKeyMaterial": shown{
			"KeyId": fails[*types.NotFoundException](func(t *testing.T) error {
				_, err := put(t, func(in *kms.ImportKeyMaterialInput) { in.KeyId = unknown })
				return err
			}),
			"ImportToken": fails[*types.InvalidImportTokenException](func(t *testing.T) error {
				_, err := put(t, func(in *kms.ImportKeyMaterialInput) { in.ImportToken = []byte("t") })
				return err
			}),
			"EncryptedKeyMaterial": fails[*types.InvalidCiphertextException](func(t *testing.T) error {
				_, err := put(t, func(in *kms.ImportKeyMaterialInput) { in.EncryptedKeyMaterial = []byte("m") })
				return err
			}),
			"ExpirationModel": func(t *testing.T) {
				now, err := put(t, func(*kms.ImportKeyMaterialInput) {})
				require.NoError(t, err)
				require.Equal(t, types.ExpirationModelTypeKeyMaterialDoesNotExpire, now.ExpirationModel)
			},
			"ValidTo": func(t *testing.T) {
				now, err := put(t, expires)
				require.NoError(t, err)
				require.Equal(t, until, *now.ValidTo)
			},
			"ImportType":             unsupported(func(in *kms.ImportKeyMaterialInput) { in.ImportType = types.ImportTypeNewKeyMaterial }),
			"KeyMaterialDescription": unsupported(func(in *kms.ImportKeyMaterialInput) { in.KeyMaterialDescription = aws.String("d") }),
			"KeyMaterialId":          unsupported(func(in *kms.ImportKeyMaterialInput) { in.KeyMaterialId = materialID }),
		},
		"DeleteImportedKeyMaterial": shown{
			"KeyId": fails[*types.NotFoundException](func(t *testing.T) error {
				_, err := c.DeleteImportedKeyMaterial(t.Context(), &kms.DeleteImportedKeyMaterialInput{KeyId: unknown})
				return err
			}),
			"KeyMaterialId": fails[*types.UnsupportedOperationException](func(t *testing.T) error {
				_, err := c.DeleteImportedKeyMaterial(t.Context(),
					&kms.DeleteImportedKeyMaterialInput{KeyId: fresh(t), KeyMaterialId: materialID})
				return err
			}),
		},
	}
}
