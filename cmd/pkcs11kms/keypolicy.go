package main

import (
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/spf13/cobra"
)

const policyNameUsage = "the name of the policy: default"

func (a *app) getKeyPolicyCommand() *cobra.Command {
	cmd := verb(groupPolicies, "get-key-policy --key-id ID [flags]", "Show the key policy",
		"A key that was made without a policy has the default one, which leaves all to the account. Users and roles\n"+
			"that were deleted since are shown by their unique ids.",
		"pkcs11kms get-key-policy --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --query Policy --output text")
	var req kms.GetKeyPolicyInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.text(&req.PolicyName, "policy-name", policyNameUsage)
	in.require("key-id")
	cmd.RunE = answering(a, in, "GetKeyPolicy", api.GetKeyPolicy, &req)
	return cmd
}

func (a *app) putKeyPolicyCommand() *cobra.Command {
	cmd := verb(groupPolicies, "put-key-policy --key-id ID --policy JSON [flags]", "Replace the key policy",
		"Takes any document that AWS KMS takes, and binds the users and roles that it names by their unique ids. One\n"+
			"that does not let its author replace it again is refused, unless --bypass-policy-lockout-safety-check says\n"+
			"otherwise. It counts within a second. Look for mistakes first: pkcs11kms policy lint. Prints nothing.",
		"pkcs11kms put-key-policy --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --policy file://policy.json")
	var req kms.PutKeyPolicyInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.text(&req.PolicyName, "policy-name", policyNameUsage)
	in.text(&req.Policy, "policy", "the key policy, as JSON or file://PATH (required)")
	in.boolean(func(on bool) { req.BypassPolicyLockoutSafetyCheck = on }, "bypass-policy-lockout-safety-check",
		"allow a policy that locks its author out")
	in.require("key-id", "policy")
	cmd.RunE = changing(a, in, "PutKeyPolicy", api.PutKeyPolicy, &req, func(*kms.PutKeyPolicyOutput) change {
		id := aws.ToString(req.KeyId)
		return change{fmt.Sprintf("replacing the policy of key %q", id), "to see it: pkcs11kms get-key-policy --key-id " + shellQuote(id)}
	})
	return cmd
}

var policyList = list[kms.ListKeyPoliciesInput, kms.ListKeyPoliciesOutput, string]{
	operation: "ListKeyPolicies",
	call:      api.ListKeyPolicies,
	asked:     func(in *kms.ListKeyPoliciesInput) (**int32, **string) { return &in.Limit, &in.Marker },
	answered: func(out *kms.ListKeyPoliciesOutput) (*[]string, bool, *string) {
		return &out.PolicyNames, out.Truncated, out.NextMarker
	},
}

func (a *app) listKeyPoliciesCommand() *cobra.Command {
	cmd := verb(groupPolicies, "list-key-policies --key-id ID [flags]", "List the names of the key policies",
		"A key has one, and its name is default.\n"+pagingHelp,
		"pkcs11kms list-key-policies --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.ListKeyPoliciesInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.require("key-id")
	cmd.RunE = listing(a, cmd, in, policyList, &req)
	return cmd
}
