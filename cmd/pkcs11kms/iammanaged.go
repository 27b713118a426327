package main

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// managedPolicy is a managed policy as the API of AWS IAM has it.
type managedPolicy struct {
	PolicyName, PolicyId, Arn, Path, DefaultVersionId string
	AttachmentCount, PermissionsBoundaryUsageCount    int
	IsAttachable                                      bool
	Description                                       string
	CreateDate, UpdateDate                            string
	Tags                                              []iamTag
}

type policyVersion struct {
	Document         jsonText
	VersionId        string
	IsDefaultVersion bool
	CreateDate       string
}

func managedPolicyOf(p iam.Policy) managedPolicy {
	return managedPolicy{PolicyName: p.Name, PolicyId: p.ID, Arn: p.ARN, Path: p.Path, DefaultVersionId: p.DefaultVersion,
		AttachmentCount: p.AttachmentCount, IsAttachable: true, Description: p.Description, CreateDate: iamTime(p.Created),
		UpdateDate: iamTime(p.Updated), Tags: iamTagsOf(p.Tags)}
}

func policyVersionOf(v iam.PolicyVersion) policyVersion {
	return policyVersion{jsonText(v.Document), v.ID, v.IsDefault, iamTime(v.Created)}
}

const examplePolicy = "arn:aws:iam::000000000000:policy/Mac"

// policyARN gives a verb the flag --policy-arn, which must be required.
func policyARN(in *input) **string {
	arn := new(*string)
	in.text(arn, "policy-arn", "the ARN of the managed policy (required)")
	return arn
}

// onPolicy makes the command of an operation on a managed policy, with the flags that it requires beside its ARN. run may return nothing to
// print.
func (a *app) onPolicy(use, operation, short, long string, examples []string, flags func(*input) (required []string),
	run func(ctx context.Context, client identities, arn string) (any, error)) *cobra.Command {
	for i, example := range examples {
		examples[i] = "pkcs11kms iam " + example
	}
	cmd := verb(groupManaged, use, short, long, examples...)
	in := newInput(cmd)
	arn := policyARN(in)
	in.require(append([]string{"policy-arn"}, flags(in)...)...)
	cmd.RunE = a.iamOperation(operation, in, func(ctx context.Context, client identities) (any, change, error) {
		out, err := run(ctx, client, **arn)
		if out != nil {
			return out, change{}, err
		}
		return nothing, change{fmt.Sprintf("changing policy %q", **arn),
			"to see how things stand: pkcs11kms iam get-policy --policy-arn " + shellQuote(**arn)}, err
	})
	return cmd
}

func noFlags(*input) []string { return nil }

func (a *app) managedPolicyCommands() []*cobra.Command {
	return []*cobra.Command{a.createPolicyCommand(), a.getPolicyCommand(), a.listPoliciesCommand(), a.deletePolicyCommand(),
		a.createPolicyVersionCommand(), a.getPolicyVersionCommand(), a.listPolicyVersionsCommand(), a.setDefaultPolicyVersionCommand(),
		a.deletePolicyVersionCommand(), a.listEntitiesCommand(), a.tagPolicyCommand(), a.untagPolicyCommand(), a.listPolicyTagsCommand()}
}

func (a *app) createPolicyCommand() *cobra.Command {
	cmd := verb(groupManaged, "create-policy --policy-name NAME --policy-document JSON [flags]", "Make a managed policy",
		"Users, roles and groups can have it attached. The document is its version v1.",
		"pkcs11kms iam create-policy --policy-name Mac --policy-document file://generate-mac.json",
		"pkcs11kms iam create-policy --policy-name Mac --policy-document file://generate-mac.json --query Policy.Arn --output text")
	var name, document, path, description *string
	var options iam.PolicyOptions
	in := newInput(cmd)
	in.text(&name, "policy-name", "the name of the policy (required)")
	in.text(&document, "policy-document", "the policy: JSON, or file://PATH (required)")
	in.text(&path, "path", "the path, which is part of the ARN; it begins and ends with / (default: /)")
	in.text(&description, "description", "what the policy is for")
	in.iamTags(&options.Tags, "tags", iamTagsUsage)
	in.require("policy-name", "policy-document")
	cmd.RunE = a.iamOperation("CreatePolicy", in, func(ctx context.Context, client identities) (any, change, error) {
		options.Path, options.Description = aws.ToString(path), aws.ToString(description)
		made, err := client.CreatePolicy(ctx, *name, *document, options)
		return &struct{ Policy managedPolicy }{managedPolicyOf(made)},
			change{fmt.Sprintf("creating policy %q", *name), "to see how things stand: pkcs11kms iam list-policies"}, err
	})
	return cmd
}

func (a *app) getPolicyCommand() *cobra.Command {
	return a.onPolicy("get-policy --policy-arn ARN", "GetPolicy", "Show a managed policy",
		"Prints what there is of it, besides its documents.",
		[]string{"get-policy --policy-arn " + examplePolicy}, noFlags,
		func(ctx context.Context, client identities, arn string) (any, error) {
			found, err := client.GetPolicy(ctx, arn)
			return &struct{ Policy managedPolicy }{managedPolicyOf(found)}, err
		})
}

func (a *app) listPoliciesCommand() *cobra.Command {
	cmd := verb(groupManaged, "list-policies [--only-attached] [--path-prefix PATH]", "List the managed policies",
		"Prints the policies, ordered by name, without descriptions, tags and documents.",
		"pkcs11kms iam list-policies", "pkcs11kms iam list-policies --only-attached --query Policies[].Arn --output text")
	var filter iam.PolicyFilter
	var prefix *string
	in := newInput(cmd)
	enum(in, &filter.Scope, "scope", "All, AWS or Local: there are none of AWS's here (default: All)", []string{"All", "AWS", "Local"})
	in.boolean(func(only bool) { filter.OnlyAttached = only }, "only-attached", "only those that somebody has attached")
	in.text(&prefix, "path-prefix", "only those whose path begins so")
	enum(in, &filter.Usage, "policy-usage-filter", "PermissionsPolicy or PermissionsBoundary: there are no boundaries here",
		[]string{"PermissionsPolicy", "PermissionsBoundary"})
	cmd.RunE = a.iamOperation("ListPolicies", in, func(ctx context.Context, client identities) (any, change, error) {
		filter.PathPrefix = aws.ToString(prefix)
		list, _, err := client.ListPolicies(ctx, filter, iam.Page{})
		shown := []managedPolicy{}
		for _, policy := range list {
			shown = append(shown, managedPolicyOf(policy))
		}
		return &struct{ Policies []managedPolicy }{shown}, change{}, err
	})
	return cmd
}

func (a *app) deletePolicyCommand() *cobra.Command {
	return a.onPolicy("delete-policy --policy-arn ARN", "DeletePolicy", "Delete a managed policy",
		"It must be detached from everybody, and its versions besides the default one be deleted before. Prints nothing.",
		[]string{"delete-policy --policy-arn " + examplePolicy}, noFlags,
		func(ctx context.Context, client identities, arn string) (any, error) {
			return nil, client.DeletePolicy(ctx, arn)
		})
}

func (a *app) createPolicyVersionCommand() *cobra.Command {
	var document *string
	var isDefault bool
	return a.onPolicy("create-policy-version --policy-arn ARN --policy-document JSON [flags]", "CreatePolicyVersion",
		"Give a managed policy one more version", "It has up to five, of which the default one counts.",
		[]string{"create-policy-version --policy-arn " + examplePolicy + " --policy-document file://generate-mac.json --set-as-default"},
		func(in *input) []string {
			in.text(&document, "policy-document", "the policy: JSON, or file://PATH (required)")
			in.boolean(func(set bool) { isDefault = set }, "set-as-default", "this is the version that counts")
			return []string{"policy-document"}
		}, func(ctx context.Context, client identities, arn string) (any, error) {
			made, err := client.CreatePolicyVersion(ctx, arn, *document, isDefault)
			return &struct{ PolicyVersion policyVersion }{policyVersionOf(made)}, err
		})
}

// versionFlag gives a verb the flag --version-id, which is required.
func versionFlag(id **string) func(*input) []string {
	return func(in *input) []string {
		in.text(id, "version-id", "the version, such as v1 (required)")
		return []string{"version-id"}
	}
}

func (a *app) getPolicyVersionCommand() *cobra.Command {
	var id *string
	return a.onPolicy("get-policy-version --policy-arn ARN --version-id ID", "GetPolicyVersion", "Show a version of a managed policy",
		"Prints the policy as a part of the response.",
		[]string{"get-policy-version --policy-arn " + examplePolicy + " --version-id v1 --query PolicyVersion.Document"}, versionFlag(&id),
		func(ctx context.Context, client identities, arn string) (any, error) {
			found, err := client.GetPolicyVersion(ctx, arn, *id)
			return &struct{ PolicyVersion policyVersion }{policyVersionOf(found)}, err
		})
}

func (a *app) listPolicyVersionsCommand() *cobra.Command {
	return a.onPolicy("list-policy-versions --policy-arn ARN", "ListPolicyVersions", "List the versions of a managed policy",
		"Prints its versions without their documents, the newest first.",
		[]string{"list-policy-versions --policy-arn " + examplePolicy}, noFlags,
		func(ctx context.Context, client identities, arn string) (any, error) {
			list, err := client.ListPolicyVersions(ctx, arn)
			shown := []policyVersion{}
			for _, version := range list {
				shown = append(shown, policyVersionOf(version))
			}
			return &struct{ Versions []policyVersion }{shown}, err
		})
}

func (a *app) setDefaultPolicyVersionCommand() *cobra.Command {
	var id *string
	return a.onPolicy("set-default-policy-version --policy-arn ARN --version-id ID", "SetDefaultPolicyVersion",
		"Say which version of a managed policy counts",
		"It counts for everybody who has the policy, within a second at every server. Prints nothing.",
		[]string{"set-default-policy-version --policy-arn " + examplePolicy + " --version-id v1"}, versionFlag(&id),
		func(ctx context.Context, client identities, arn string) (any, error) {
			return nil, client.SetDefaultPolicyVersion(ctx, arn, *id)
		})
}

func (a *app) deletePolicyVersionCommand() *cobra.Command {
	var id *string
	return a.onPolicy("delete-policy-version --policy-arn ARN --version-id ID", "DeletePolicyVersion", "Delete a version of a managed policy",
		"The default version goes with the policy alone. Prints nothing.",
		[]string{"delete-policy-version --policy-arn " + examplePolicy + " --version-id v2"}, versionFlag(&id),
		func(ctx context.Context, client identities, arn string) (any, error) {
			return nil, client.DeletePolicyVersion(ctx, arn, *id)
		})
}

// policyEntities is who has a managed policy attached.
type policyEntities struct {
	PolicyGroups, PolicyUsers, PolicyRoles []iamPrincipal
}

func (a *app) listEntitiesCommand() *cobra.Command {
	var kind string
	var prefix *string
	return a.onPolicy("list-entities-for-policy --policy-arn ARN [flags]", "ListEntitiesForPolicy", "List who has a managed policy attached",
		"Prints the users, roles and groups, ordered by their ids.",
		[]string{"list-entities-for-policy --policy-arn " + examplePolicy,
			"list-entities-for-policy --policy-arn " + examplePolicy + " --entity-filter Role --query PolicyRoles[].RoleName --output text"},
		func(in *input) []string {
			enum(in, &kind, "entity-filter", "User, Role or Group: only those", []string{"User", "Role", "Group"})
			in.text(&prefix, "path-prefix", "only those whose path begins so")
			return nil
		}, func(ctx context.Context, client identities, arn string) (any, error) {
			filter := iam.EntityFilter{Type: entityTypes[kind], PathPrefix: aws.ToString(prefix)}
			if kind != "" && filter.Type == "" {
				return nil, usagef("argument --entity-filter: %q is none of User, Role, Group", kind)
			}
			list, _, err := client.ListEntitiesForPolicy(ctx, arn, filter, iam.Page{})
			out := &policyEntities{[]iamPrincipal{}, []iamPrincipal{}, []iamPrincipal{}}
			for _, entity := range list {
				into := map[keystore.PrincipalType]*[]iamPrincipal{keystore.PrincipalGroup: &out.PolicyGroups,
					keystore.PrincipalUser: &out.PolicyUsers, keystore.PrincipalRole: &out.PolicyRoles}[entity.Type]
				shown := iamPrincipalOf(iam.Principal{PrincipalName: entity.PrincipalName, ID: entity.ID})
				shown.CreateDate = ""
				*into = append(*into, shown)
			}
			return out, err
		})
}

func (a *app) tagPolicyCommand() *cobra.Command {
	var tags []keystore.Tag
	return a.onPolicy("tag-policy --policy-arn ARN --tags Key=NAME,Value=TEXT ...", "TagPolicy", "Add tags to a managed policy",
		"A tag that the policy has already gets the new value. Prints nothing.",
		[]string{"tag-policy --policy-arn " + examplePolicy + " --tags Key=Stage,Value=test Key=Team,Value=id"},
		func(in *input) []string {
			in.iamTags(&tags, "tags", iamTagsUsage+" (required)")
			return []string{"tags"}
		}, func(ctx context.Context, client identities, arn string) (any, error) {
			return nil, client.TagPolicy(ctx, arn, tags)
		})
}

func (a *app) untagPolicyCommand() *cobra.Command {
	var keys []string
	return a.onPolicy("untag-policy --policy-arn ARN --tag-keys NAME ...", "UntagPolicy", "Remove tags from a managed policy",
		"Tags that the policy does not have are ignored. Prints nothing.",
		[]string{"untag-policy --policy-arn " + examplePolicy + " --tag-keys Stage Team"},
		func(in *input) []string {
			in.list(&keys, "tag-keys", "the keys of the tags (required)")
			return []string{"tag-keys"}
		}, func(ctx context.Context, client identities, arn string) (any, error) {
			return nil, client.UntagPolicy(ctx, arn, keys)
		})
}

func (a *app) listPolicyTagsCommand() *cobra.Command {
	return a.onPolicy("list-policy-tags --policy-arn ARN", "ListPolicyTags", "List the tags of a managed policy",
		"Prints its tags, ordered by key.", []string{"list-policy-tags --policy-arn " + examplePolicy}, noFlags,
		func(ctx context.Context, client identities, arn string) (any, error) {
			tags, err := client.ListPolicyTags(ctx, arn)
			return &struct{ Tags []iamTag }{append([]iamTag{}, iamTagsOf(tags)...)}, err
		})
}
