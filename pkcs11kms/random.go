package pkcs11kms

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// GenerateRandom returns 1 to 1,024 bytes from the token's random number generator (C_GenerateRandom).
func (c *Client) GenerateRandom(
	ctx context.Context, in *kms.GenerateRandomInput, optFns ...func(*kms.Options),
) (*kms.GenerateRandomOutput, error) {
	return perform(ctx, c, ops.GenerateRandom, in, optFns, func(_ *Client, in *kms.GenerateRandomInput) (request, error) {
		if in.NumberOfBytes == nil {
			return request{}, apierr.Validation("NumberOfBytes is required.")
		}
		return request{}, nil
	}, func(
		ctx context.Context, c *call, in *kms.GenerateRandomInput, _ *key,
	) (*kms.GenerateRandomOutput, error) {
		switch {
		case in.CustomKeyStoreId != nil:
			return nil, apierr.Unsupported("Custom key stores are not supported.")
		case in.Recipient != nil:
			return nil, apierr.Unsupported("Recipients are not supported.")
		}
		random, err := c.region.Token.Random(ctx, int(*in.NumberOfBytes))
		if errors.Is(err, token.ErrNoRandom) {
			err = apierr.WithCause(apierr.Unsupported("The token has no random number generator."), err)
		}
		return &kms.GenerateRandomOutput{Plaintext: random}, err
	})
}
