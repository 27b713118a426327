package pkcs11kms

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// GenerateRandom returns 1 to 1,024 bytes from the token's random number generator (C_GenerateRandom).
func (c *Client) GenerateRandom(ctx context.Context, in *kms.GenerateRandomInput, optFns ...func(*kms.Options)) (*kms.GenerateRandomOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	if in.NumberOfBytes == nil {
		return nil, apierr.Validation("NumberOfBytes is required.")
	}
	out := &kms.GenerateRandomOutput{}
	err = c.guardAccount(ctx, ops.GenerateRandom, request{}, func(ctx context.Context, _ witness) error {
		switch {
		case in.CustomKeyStoreId != nil:
			return apierr.Unsupported("Custom key stores are not supported.")
		case in.Recipient != nil:
			return apierr.Unsupported("Recipients are not supported.")
		}
		var err error
		out.Plaintext, err = c.region.token.Random(ctx, int(*in.NumberOfBytes))
		return err
	})
	return outcome(out, err)
}
