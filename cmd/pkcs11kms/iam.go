package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// The groups of the help of iam, besides that of the access keys, which is groupAdmin.
const (
	groupUsers    = "users"
	groupRoles    = "roles"
	groupGroups   = "groups"
	groupManaged  = "managed"
	groupIssuers  = "issuers"
	groupAccounts = "accounts"
)

func (a *app) iamCommand() *cobra.Command {
	cmd := operations("iam", groupAdmin, "Users, roles, groups, policies, and the access keys that requests to the server are signed with",
		"The operations have the flags and the output of \"aws iam\". An access key belongs to a user, to a role (which\n"+
			"AWS does not have: there, sessions of a role have credentials), or to the account's root.\n"+
			"They work on the state directory, as the account's root, and a server that runs on it takes notice within\n"+
			"a second; with --endpoint-url they ask a server, as whoever the AWS credentials are. --account-id names\n"+
			"another account than the one of config.yaml.",
		"pkcs11kms iam list-access-keys")
	cmd.AddGroup(&cobra.Group{ID: groupUsers, Title: "Users:"}, &cobra.Group{ID: groupRoles, Title: "Roles:"},
		&cobra.Group{ID: groupGroups, Title: "Groups:"}, &cobra.Group{ID: groupManaged, Title: "Managed policies:"},
		&cobra.Group{ID: groupAdmin, Title: "Access keys:"}, &cobra.Group{ID: groupIssuers, Title: "OpenID Connect providers:"},
		&cobra.Group{ID: groupAccounts, Title: "Accounts:"})
	cmd.AddCommand(a.createAccessKeyCommand(), a.listAccessKeysCommand(), a.getAccessKeyLastUsedCommand(), a.updateAccessKeyCommand(),
		a.deleteAccessKeyCommand())
	for _, k := range []iamKind{userKind, roleKind, groupKind} {
		cmd.AddCommand(a.createPrincipalCommand(k), a.listPrincipalsCommand(k), a.deletePrincipalCommand(k),
			a.putPrincipalPolicyCommand(k), a.getPrincipalPolicyCommand(k), a.listPrincipalPoliciesCommand(k), a.deletePrincipalPolicyCommand(k),
			a.attachPolicyCommand(k), a.detachPolicyCommand(k), a.listAttachedCommand(k))
	}
	for _, k := range []iamKind{userKind, roleKind} {
		cmd.AddCommand(a.getPrincipalCommand(k), a.tagPrincipalCommand(k), a.untagPrincipalCommand(k), a.listPrincipalTagsCommand(k))
	}
	cmd.AddCommand(a.getGroupCommand(groupKind), a.addUserToGroupCommand(groupKind), a.removeUserFromGroupCommand(groupKind),
		a.listGroupsForUserCommand(userKind))
	cmd.AddCommand(a.managedPolicyCommands()...)
	cmd.AddCommand(a.providerCommands()...)
	cmd.AddCommand(a.updateRoleCommand(roleKind), a.updateTrustCommand(roleKind))
	for _, operation := range cmd.Commands() {
		operation.Annotations = map[string]string{printsResponse: "", allRegions: "", takesEndpoint: ""}
	}
	cmd.AddCommand(a.updateProviderKeysCommand(), a.createAccountCommand(), a.listAccountsCommand())
	return cmd
}

// iamKind is what the verbs of users and those of roles differ in.
type iamKind struct {
	principal keystore.PrincipalType
	group     string
	text      *strings.Replacer // of {kind}, {Kind} and {name}, the name in examples
}

var (
	userKind  = iamKind{keystore.PrincipalUser, groupUsers, strings.NewReplacer("{kind}", "user", "{Kind}", "User", "{name}", "Alice")}
	groupKind = iamKind{keystore.PrincipalGroup, groupGroups,
		strings.NewReplacer("{kind}", "group", "{Kind}", "Group", "{name}", "Operators")}
	roleKind = iamKind{keystore.PrincipalRole, groupRoles, strings.NewReplacer("{kind}", "role", "{Kind}", "Role", "{name}", "JwtProducer")}
)

// verb makes the command of an operation of the kind, and its input.
func (k iamKind) verb(use, short, long string, examples ...string) (*cobra.Command, *input) {
	for i, example := range examples {
		examples[i] = k.text.Replace("pkcs11kms iam " + example)
	}
	cmd := verb(k.group, k.text.Replace(use), k.text.Replace(short), k.text.Replace(long), examples...)
	return cmd, newInput(cmd)
}

// named gives the verb the flag of the name, which is required, and more that are. The name is there when the flags are
// parsed.
func (k iamKind) named(in *input, more ...string) func() iam.PrincipalName {
	var name *string
	flag := string(k.principal) + "-name"
	in.text(&name, flag, k.text.Replace("the name of the {kind} (required)"))
	in.require(append([]string{flag}, more...)...)
	return func() iam.PrincipalName {
		return iam.PrincipalName{Type: k.principal, Name: aws.ToString(name)}
	}
}

// changed tells a change of a principal.
func (k iamKind) changed(doing string, name iam.PrincipalName) change {
	return change{fmt.Sprintf("%s %s %q", doing, name.Type, name.Name),
		k.text.Replace("to see how things stand: pkcs11kms iam get-{kind} --{kind}-name ") + shellQuote(name.Name)}
}

var nothing = &struct{}{}

// iamOperation runs an operation of AWS IAM, by the server or on the state directory in the name of the account's root, and prints its
// answer.
func (a *app) iamOperation(name string, in *input,
	operation func(context.Context, identities) (any, change, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if err := in.parse(); err != nil {
			return err
		}
		return a.withIdentities(cmd.Context(), func(client identities) error {
			out, made, err := operation(cmd.Context(), client)
			if err != nil {
				return &operationError{name, err}
			}
			return made.shown(a.print(name, newDocument(out)))
		})
	}
}

// answer gives a verb the function that reads something.
func (k iamKind) answer(a *app, cmd *cobra.Command, in *input, name string,
	read func(context.Context, identities) (any, error)) *cobra.Command {
	cmd.RunE = a.iamOperation(k.text.Replace(name), in, func(ctx context.Context, client identities) (any, change, error) {
		out, err := read(ctx, client)
		return out, change{}, err
	})
	return cmd
}

// act gives a verb the function that changes something and prints nothing.
func (k iamKind) act(a *app, cmd *cobra.Command, in *input, name, doing string, principal func() iam.PrincipalName,
	act func(context.Context, identities) error) *cobra.Command {
	cmd.RunE = a.iamOperation(k.text.Replace(name), in, func(ctx context.Context, client identities) (any, change, error) {
		return nothing, k.changed(doing, principal()), act(ctx, client)
	})
	return cmd
}
