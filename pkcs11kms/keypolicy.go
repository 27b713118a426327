package pkcs11kms

import (
	"context"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

const policyName = "default" // the only one that a key has

func checkPolicyName(name *string) error {
	if name != nil && *name != policyName {
		return apierr.NotFound("No such policy exists")
	}
	return nil
}

// GetKeyPolicy returns the key policy as it was given, but for users and roles that were deleted since: they are shown by
// their unique ids.
func (c *Client) GetKeyPolicy(
	ctx context.Context, in *kms.GetKeyPolicyInput, optFns ...func(*kms.Options),
) (*kms.GetKeyPolicyOutput, error) {
	return perform(ctx, c, ops.GetKeyPolicy, in, optFns, func(_ *Client, in *kms.GetKeyPolicyInput) (request, error) {
		return request{keyID: in.KeyId}, nil
	}, func(
		ctx context.Context, c *call, in *kms.GetKeyPolicyInput, k *key,
	) (*kms.GetKeyPolicyOutput, error) {
		if err := checkPolicyName(in.PolicyName); err != nil {
			return nil, err
		}
		text, err := c.bridge.shownPolicy(ctx, k)
		return &kms.GetKeyPolicyOutput{Policy: aws.String(text), PolicyName: aws.String(policyName)}, err
	})
}

// ListKeyPolicies returns the name of the one policy that every key has.
func (c *Client) ListKeyPolicies(
	ctx context.Context, in *kms.ListKeyPoliciesInput, optFns ...func(*kms.Options),
) (*kms.ListKeyPoliciesOutput, error) {
	return perform(ctx, c, ops.ListKeyPolicies, in, optFns, func(_ *Client, in *kms.ListKeyPoliciesInput) (request, error) {
		return request{keyID: in.KeyId}, nil
	}, func(
		_ context.Context, _ *call, in *kms.ListKeyPoliciesInput, _ *key,
	) (*kms.ListKeyPoliciesOutput, error) {
		return &kms.ListKeyPoliciesOutput{PolicyNames: []string{policyName}}, noNextPage(in.Marker)
	})
}

// PutKeyPolicy replaces the key policy, in every key state. It counts at once in this process, and within a second in every
// other. Users and roles that it names are bound by their unique ids. A document that does not let the caller replace it
// again is refused, unless BypassPolicyLockoutSafetyCheck is set.
func (c *Client) PutKeyPolicy(
	ctx context.Context, in *kms.PutKeyPolicyInput, optFns ...func(*kms.Options),
) (*kms.PutKeyPolicyOutput, error) {
	return perform(ctx, c, ops.PutKeyPolicy, in, optFns, func(_ *Client, in *kms.PutKeyPolicyInput) (request, error) {
		return request{keyID: in.KeyId, given: givenBypass(in.BypassPolicyLockoutSafetyCheck)}, nil
	}, func(
		ctx context.Context, c *call, in *kms.PutKeyPolicyInput, k *key,
	) (*kms.PutKeyPolicyOutput, error) {
		if err := checkPolicyName(in.PolicyName); err != nil {
			return nil, err
		}
		text, err := c.givenPolicy(ctx, *in.Policy, k, in.BypassPolicyLockoutSafetyCheck)
		if err != nil {
			return nil, err
		}
		record := k.Record
		record.Policy = text
		return &kms.PutKeyPolicyOutput{}, c.commit(ctx, record.Put(k.Version))
	})
}

// givenBypass is the condition key of a member that CreateKey and PutKeyPolicy have.
func givenBypass(bypass bool) map[string][]string {
	return map[string][]string{"kms:bypasspolicylockoutsafetycheck": {strconv.FormatBool(bypass)}}
}
