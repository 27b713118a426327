package pkcs11kms

import (
	"context"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

var (
	opGetKeyPolicy    = operation{name: "GetKeyPolicy"}
	opListKeyPolicies = operation{name: "ListKeyPolicies"}
	opPutKeyPolicy    = operation{name: "PutKeyPolicy"}
)

const policyName = "default" // the only one that a key has

var policyNamePattern = regexp.MustCompile(`^[\w]+$`)

func checkPolicyName(name *string) error {
	if name != nil && *name != policyName {
		return notFound("No such policy exists")
	}
	return nil
}

// GetKeyPolicy returns the key policy: the text of the default policy.
func (c *Client) GetKeyPolicy(ctx context.Context, in *kms.GetKeyPolicyInput, optFns ...func(*kms.Options)) (*kms.GetKeyPolicyOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	var v violations
	v.keyID(in.KeyId)
	v.text("policyName", in.PolicyName, 1, 128, policyNamePattern)
	if err := v.err(); err != nil {
		return nil, err
	}
	out := &kms.GetKeyPolicyOutput{}
	err = c.guard(ctx, &opGetKeyPolicy, request{keyID: in.KeyId}, func(context.Context, *key) error {
		out.Policy, out.PolicyName = aws.String(c.defaultPolicy()), aws.String(policyName)
		return checkPolicyName(in.PolicyName)
	})
	return outcome(out, err)
}

// ListKeyPolicies returns the name of the one policy that every key has.
func (c *Client) ListKeyPolicies(ctx context.Context, in *kms.ListKeyPoliciesInput, optFns ...func(*kms.Options)) (*kms.ListKeyPoliciesOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	var v violations
	v.keyID(in.KeyId)
	v.page(in.Limit, in.Marker)
	if err := v.err(); err != nil {
		return nil, err
	}
	out := &kms.ListKeyPoliciesOutput{PolicyNames: []string{policyName}}
	err = c.guard(ctx, &opListKeyPolicies, request{keyID: in.KeyId}, func(context.Context, *key) error {
		if in.Marker != nil {
			return invalidMarker() // one name fits on every page, so no marker was ever given out
		}
		return nil
	})
	return outcome(out, err)
}

// PutKeyPolicy accepts a document that says the same as the default policy, in every key state. Any other is refused with
// UnsupportedOperationException.
func (c *Client) PutKeyPolicy(ctx context.Context, in *kms.PutKeyPolicyInput, optFns ...func(*kms.Options)) (*kms.PutKeyPolicyOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	var v violations
	v.keyID(in.KeyId)
	v.text("policyName", in.PolicyName, 1, 128, policyNamePattern)
	if in.Policy == nil {
		v.add("null", "policy", "not be null")
	}
	v.hidden("policy", in.Policy, 1, policyModelLimit, policyPattern)
	if err := v.err(); err != nil {
		return nil, err
	}
	err = c.guard(ctx, &opPutKeyPolicy, request{keyID: in.KeyId}, func(context.Context, *key) error {
		if err := checkPolicyName(in.PolicyName); err != nil {
			return err
		}
		return c.checkPolicy(in.Policy)
	})
	return outcome(&kms.PutKeyPolicyOutput{}, err)
}
