package main

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/keystore"
)

// policyNamed gives a verb the flag --policy-name, which k.named must require.
func policyNamed(in *input) **string {
	name := new(*string)
	in.text(name, "policy-name", "the name of the policy (required)")
	return name
}

func (a *app) putPrincipalPolicyCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("put-{kind}-policy --{kind}-name NAME --policy-name NAME --policy-document JSON", "Give a {kind} a policy",
		"The policy says what the {kind} may do, as far as the key policies leave that to the account's own policies. One\n"+
			"of the same name is replaced. Prints nothing.",
		"put-{kind}-policy --{kind}-name {name} --policy-name generate-mac --policy-document file://generate-mac.json")
	name := k.named(in, "policy-name", "policy-document")
	policyName := policyNamed(in)
	var document *string
	in.text(&document, "policy-document", "the policy: JSON, or file://PATH (required)")
	return k.act(a, cmd, in, "Put{Kind}Policy", "giving a policy to", name, func(ctx context.Context, client identities) error {
		return client.PutPrincipalPolicy(ctx, name(), aws.ToString(*policyName), aws.ToString(document))
	})
}

// iamPolicy is a policy as the API of AWS IAM has it.
type iamPolicy struct {
	UserName, RoleName, GroupName string
	PolicyName                    string
	PolicyDocument                jsonText
}

func (a *app) getPrincipalPolicyCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("get-{kind}-policy --{kind}-name NAME --policy-name NAME", "Show a policy of a {kind}",
		"Prints the policy as a part of the response.",
		"get-{kind}-policy --{kind}-name {name} --policy-name generate-mac",
		"get-{kind}-policy --{kind}-name {name} --policy-name generate-mac --query PolicyDocument.Statement")
	name := k.named(in, "policy-name")
	policyName := policyNamed(in)
	return k.answer(a, cmd, in, "Get{Kind}Policy", func(ctx context.Context, client identities) (any, error) {
		document, err := client.GetPrincipalPolicy(ctx, name(), aws.ToString(*policyName))
		out := &iamPolicy{PolicyName: aws.ToString(*policyName), PolicyDocument: jsonText(document)}
		switch k.principal {
		case keystore.PrincipalUser:
			out.UserName = name().Name
		case keystore.PrincipalRole:
			out.RoleName = name().Name
		case keystore.PrincipalGroup:
			out.GroupName = name().Name
		}
		return out, err
	})
}

func (a *app) listPrincipalPoliciesCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("list-{kind}-policies --{kind}-name NAME", "List the policies of a {kind}", "Prints the names of its policies.",
		"list-{kind}-policies --{kind}-name {name}", "list-{kind}-policies --{kind}-name {name} --query PolicyNames --output text")
	name := k.named(in)
	return k.answer(a, cmd, in, "List{Kind}Policies", func(ctx context.Context, client identities) (any, error) {
		names, err := client.ListPrincipalPolicies(ctx, name())
		return &struct{ PolicyNames []string }{names}, err
	})
}

func (a *app) deletePrincipalPolicyCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("delete-{kind}-policy --{kind}-name NAME --policy-name NAME", "Delete a policy of a {kind}",
		"What only this policy allowed is refused, within a second by every server. Prints nothing.",
		"delete-{kind}-policy --{kind}-name {name} --policy-name generate-mac")
	name := k.named(in, "policy-name")
	policyName := policyNamed(in)
	return k.act(a, cmd, in, "Delete{Kind}Policy", "deleting a policy of", name, func(ctx context.Context, client identities) error {
		return client.DeletePrincipalPolicy(ctx, name(), aws.ToString(*policyName))
	})
}

func (a *app) updateTrustCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("update-assume-role-policy --role-name NAME --policy-document JSON", "Give a role another trust policy",
		"The policy says who may assume the role, at a server: by aws sts assume-role, or by a profile with\n"+
			"role_arn. Sessions that there are stay. Prints nothing.",
		"update-assume-role-policy --role-name {name} --policy-document file://trust.json")
	name := k.named(in, "policy-document")
	var document *string
	in.text(&document, "policy-document", "the trust policy: JSON, or file://PATH (required)")
	return k.act(a, cmd, in, "UpdateAssumeRolePolicy", "changing the trust policy of", name,
		func(ctx context.Context, client identities) error {
			return client.UpdateTrustPolicy(ctx, name().Name, aws.ToString(document))
		})
}
