package main

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

func (a *app) getGroupCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("get-group --group-name NAME", "Show a group and the users in it", "Prints what there is of it, besides policies.",
		"get-group --group-name {name}", "get-group --group-name {name} --query Users[].UserName --output text")
	name := k.named(in)
	return k.answer(a, cmd, in, "GetGroup", func(ctx context.Context, client identities) (any, error) {
		group, users, _, err := client.GetGroup(ctx, name().Name, iam.Page{})
		return &struct {
			Group iamPrincipal
			Users []iamPrincipal
		}{iamPrincipalOf(group), userKind.manyPrincipals(users).Users}, err
	})
}

func (a *app) addUserToGroupCommand(k iamKind) *cobra.Command {
	return a.membershipCommand(k, "add-user-to-group", "Put a user in a group",
		"The user may do what the policies of the group allow, within a second at every server. Prints nothing.", "AddUserToGroup", "adding to",
		identities.AddUserToGroup)
}

func (a *app) removeUserFromGroupCommand(k iamKind) *cobra.Command {
	return a.membershipCommand(k, "remove-user-from-group", "Take a user out of a group",
		"What only the group's policies allowed is refused, within a second by every server. Prints nothing.", "RemoveUserFromGroup",
		"removing from", identities.RemoveUserFromGroup)
}

func (a *app) membershipCommand(k iamKind, verb, short, long, operation, doing string,
	run func(client identities, ctx context.Context, group, user string) error) *cobra.Command {
	cmd, in := k.verb(verb+" --group-name NAME --user-name NAME", short, long, verb+" --group-name {name} --user-name Alice")
	name := k.named(in, "user-name")
	var user *string
	in.text(&user, "user-name", "the name of the user (required)")
	return k.act(a, cmd, in, operation, doing, name, func(ctx context.Context, client identities) error {
		return run(client, ctx, name().Name, aws.ToString(user))
	})
}

func (a *app) listGroupsForUserCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("list-groups-for-user --user-name NAME", "List the groups that a user is in", "Prints the groups, ordered by name.",
		"list-groups-for-user --user-name {name}", "list-groups-for-user --user-name {name} --query Groups[].GroupName --output text")
	name := k.named(in)
	return k.answer(a, cmd, in, "ListGroupsForUser", func(ctx context.Context, client identities) (any, error) {
		groups, err := client.ListGroups(ctx, name().Name)
		return groupKind.manyPrincipals(groups), err
	})
}

// attached is a managed policy in the list of what somebody has attached.
type attached struct{ PolicyName, PolicyArn string }

func (a *app) attachPolicyCommand(k iamKind) *cobra.Command {
	return a.attachmentCommand(k, "attach-{kind}-policy", "Attach a managed policy to a {kind}",
		"What the policy says counts for the {kind} within a second at every server, and so does each later default\n"+
			"version of it. Prints nothing.", "Attach{Kind}Policy", "attaching a policy to", identities.AttachPolicy)
}

func (a *app) detachPolicyCommand(k iamKind) *cobra.Command {
	return a.attachmentCommand(k, "detach-{kind}-policy", "Detach a managed policy from a {kind}",
		"What only this policy allowed is refused, within a second by every server. The policy stays. Prints nothing.",
		"Detach{Kind}Policy", "detaching a policy from", identities.DetachPolicy)
}

func (a *app) attachmentCommand(k iamKind, verb, short, long, operation, doing string,
	run func(client identities, ctx context.Context, name iam.PrincipalName, arn string) error) *cobra.Command {
	cmd, in := k.verb(verb+" --{kind}-name NAME --policy-arn ARN", short, long,
		verb+" --{kind}-name {name} --policy-arn arn:aws:iam::000000000000:policy/Mac")
	name := k.named(in, "policy-arn")
	arn := policyARN(in)
	return k.act(a, cmd, in, operation, doing, name, func(ctx context.Context, client identities) error {
		return run(client, ctx, name(), aws.ToString(*arn))
	})
}

func (a *app) listAttachedCommand(k iamKind) *cobra.Command {
	cmd, in := k.verb("list-attached-{kind}-policies --{kind}-name NAME [--path-prefix PATH]", "List the managed policies that a {kind} has",
		"Prints the policies that are attached to it, ordered by name.", "list-attached-{kind}-policies --{kind}-name {name}",
		"list-attached-{kind}-policies --{kind}-name {name} --query AttachedPolicies[].PolicyArn --output text")
	name := k.named(in)
	var prefix *string
	in.text(&prefix, "path-prefix", "only policies whose path begins so")
	return k.answer(a, cmd, in, "ListAttached{Kind}Policies", func(ctx context.Context, client identities) (any, error) {
		list, err := client.ListAttachedPolicies(ctx, name(), aws.ToString(prefix))
		shown := []attached{}
		for _, policy := range list {
			shown = append(shown, attached{policy.Name, policy.ARN})
		}
		return &struct{ AttachedPolicies []attached }{shown}, err
	})
}

// entityTypes are the values of --entity-filter that there is something of here.
var entityTypes = map[string]keystore.PrincipalType{"User": keystore.PrincipalUser, "Role": keystore.PrincipalRole,
	"Group": keystore.PrincipalGroup}
