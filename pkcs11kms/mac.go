package pkcs11kms

import (
	"context"
	"crypto/subtle"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// GenerateMac makes the HMAC of a message of 1 to 4,096 bytes, untruncated: 28, 32, 48 or 64 bytes by the key's spec
// (RFC 2104; C_Sign). The KeyId of the output is the key's ARN. With DryRun the answer is DryRunOperationException when
// the call would have succeeded, and the token is not used.
func (c *Client) GenerateMac(ctx context.Context, in *kms.GenerateMacInput, optFns ...func(*kms.Options)) (*kms.GenerateMacOutput, error) {
	return perform(ctx, c, ops.GenerateMac, in, optFns, func(_ *Client, in *kms.GenerateMacInput) (request, error) {
		return request{keyID: in.KeyId, grantTokens: in.GrantTokens, algorithm: in.MacAlgorithm, dryRun: aws.ToBool(in.DryRun)}, nil
	}, func(
		ctx context.Context, c *call, in *kms.GenerateMacInput, k *key,
	) (*kms.GenerateMacOutput, error) {
		if c.req.dryRun {
			return nil, apierr.DryRun()
		}
		tag, err := k.hmac().MAC(ctx, in.Message)
		if err != nil {
			return nil, err
		}
		out := &struct { // in one piece, since this is the way of every MAC
			kms.GenerateMacOutput
			arn string
		}{arn: k.ARN}
		out.KeyId, out.Mac, out.MacAlgorithm = &out.arn, tag, in.MacAlgorithm
		return &out.GenerateMacOutput, nil
	})
}

// VerifyMac makes the HMAC of the message anew and compares in constant time. Anything but the whole tag is
// KMSInvalidMacException; there is no output with MacValid false.
func (c *Client) VerifyMac(ctx context.Context, in *kms.VerifyMacInput, optFns ...func(*kms.Options)) (*kms.VerifyMacOutput, error) {
	return perform(ctx, c, ops.VerifyMac, in, optFns, func(_ *Client, in *kms.VerifyMacInput) (request, error) {
		return request{keyID: in.KeyId, grantTokens: in.GrantTokens, algorithm: in.MacAlgorithm, dryRun: aws.ToBool(in.DryRun)}, nil
	}, func(
		ctx context.Context, c *call, in *kms.VerifyMacInput, k *key,
	) (*kms.VerifyMacOutput, error) {
		tag, err := k.hmac().MAC(ctx, in.Message)
		if err != nil {
			return nil, err
		}
		if subtle.ConstantTimeCompare(tag, in.Mac) != 1 {
			return nil, apierr.InvalidMac()
		}
		if c.req.dryRun {
			return nil, apierr.DryRun()
		}
		out := &struct {
			kms.VerifyMacOutput
			arn string
		}{arn: k.ARN}
		out.KeyId, out.MacValid, out.MacAlgorithm = &out.arn, true, in.MacAlgorithm
		return &out.VerifyMacOutput, nil
	})
}
