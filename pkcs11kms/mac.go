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
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	var out *kms.GenerateMacOutput
	req := request{keyID: in.KeyId, grantTokens: in.GrantTokens, algorithm: in.MacAlgorithm}
	err = c.guard(ctx, ops.GenerateMac, req, func(ctx context.Context, k *key) error {
		if aws.ToBool(in.DryRun) {
			return apierr.DryRun()
		}
		tag, err := k.token.MAC(ctx, k.object, in.Message)
		if err != nil {
			return err
		}
		out = &kms.GenerateMacOutput{KeyId: aws.String(k.arn), Mac: tag, MacAlgorithm: in.MacAlgorithm}
		return nil
	})
	return outcome(out, err)
}

// VerifyMac makes the HMAC of the message anew and compares in constant time. Anything but the whole tag is
// KMSInvalidMacException; there is no output with MacValid false.
func (c *Client) VerifyMac(ctx context.Context, in *kms.VerifyMacInput, optFns ...func(*kms.Options)) (*kms.VerifyMacOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	var out *kms.VerifyMacOutput
	req := request{keyID: in.KeyId, grantTokens: in.GrantTokens, algorithm: in.MacAlgorithm}
	err = c.guard(ctx, ops.VerifyMac, req, func(ctx context.Context, k *key) error {
		tag, err := k.token.MAC(ctx, k.object, in.Message)
		if err != nil {
			return err
		}
		if subtle.ConstantTimeCompare(tag, in.Mac) != 1 {
			return apierr.InvalidMac()
		}
		if aws.ToBool(in.DryRun) {
			return apierr.DryRun()
		}
		out = &kms.VerifyMacOutput{KeyId: aws.String(k.arn), MacValid: true, MacAlgorithm: in.MacAlgorithm}
		return nil
	})
	return outcome(out, err)
}
