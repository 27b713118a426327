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
func (c *Client) GetKeyPolicy(ctx context.Context, in *kms.GetKeyPolicyInput, optFns ...func(*kms.Options)) (*kms.GetKeyPolicyOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	out := &kms.GetKeyPolicyOutput{}
	err = c.guard(ctx, ops.GetKeyPolicy, request{keyID: in.KeyId}, func(ctx context.Context, k *key) error {
		if err := checkPolicyName(in.PolicyName); err != nil {
			return err
		}
		text, err := c.bridge.shownPolicy(ctx, k)
		out.Policy, out.PolicyName = aws.String(text), aws.String(policyName)
		return err
	})
	return outcome(out, err)
}

// ListKeyPolicies returns the name of the one policy that every key has.
func (c *Client) ListKeyPolicies(ctx context.Context, in *kms.ListKeyPoliciesInput, optFns ...func(*kms.Options)) (*kms.ListKeyPoliciesOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	out := &kms.ListKeyPoliciesOutput{PolicyNames: []string{policyName}}
	err = c.guard(ctx, ops.ListKeyPolicies, request{keyID: in.KeyId}, func(context.Context, *key) error {
		return noNextPage(in.Marker)
	})
	return outcome(out, err)
}

// PutKeyPolicy replaces the key policy, in every key state. It counts at once in this process, and within a second in every
// other. Users and roles that it names are bound by their unique ids. A document that does not let the caller replace it
// again is refused, unless BypassPolicyLockoutSafetyCheck is set.
func (c *Client) PutKeyPolicy(ctx context.Context, in *kms.PutKeyPolicyInput, optFns ...func(*kms.Options)) (*kms.PutKeyPolicyOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	bypass := in.BypassPolicyLockoutSafetyCheck
	req := request{keyID: in.KeyId, given: givenBypass(bypass)}
	err = c.guard(ctx, ops.PutKeyPolicy, req, func(ctx context.Context, k *key) error {
		if err := checkPolicyName(in.PolicyName); err != nil {
			return err
		}
		record := k.record
		if record.Policy, err = c.givenPolicy(ctx, *in.Policy, k, bypass); err != nil {
			return err
		}
		_, err := c.bridge.cache.Commit(ctx, k.witness.and(record.Put(k.version))...)
		return err
	})
	return outcome(&kms.PutKeyPolicyOutput{}, err)
}

// givenBypass is the condition key of a member that CreateKey and PutKeyPolicy have.
func givenBypass(bypass bool) map[string][]string {
	return map[string][]string{"kms:bypasspolicylockoutsafetycheck": {strconv.FormatBool(bypass)}}
}
