package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// accessKey is an access key as the API of AWS IAM has it. The account's root has no UserName; RoleName is ours.
type accessKey struct {
	UserName, RoleName string
	AccessKeyId        string
	Status             keystore.AccessKeyStatus
	SecretAccessKey    string // absent in a list
	CreateDate         string
	AccessKeyLastUsed  *accessKeyLastUsed // in a list; ours
}

type accessKeyLastUsed struct {
	LastUsedDate, ServiceName, Region string
}

func lastUsedOf(used iam.AccessKeyLastUsed) *accessKeyLastUsed {
	out := &accessKeyLastUsed{ServiceName: used.ServiceName, Region: used.Region}
	if !used.LastUsedDate.IsZero() {
		out.LastUsedDate = iamTime(used.LastUsedDate)
	}
	return out
}

func accessKeyOf(key iam.AccessKey) accessKey {
	out := accessKey{AccessKeyId: key.ID, Status: key.Status, SecretAccessKey: key.Secret, CreateDate: iamTime(key.Created)}
	switch key.Owner.Type {
	case keystore.PrincipalUser:
		out.UserName = key.Owner.Name
	case keystore.PrincipalRole:
		out.RoleName = key.Owner.Name
	}
	return out
}

const accessKeyIDUsage = "the access key id (required)"

// owner gives a verb the flags of an access key's owner. The owner is there when the flags are parsed.
func owner(in *input, without string) func() iam.PrincipalName {
	var user, role *string
	in.text(&user, "user-name", "the user that it belongs to (default: "+without+")")
	in.text(&role, "role-name", "the role that it belongs to")
	in.oneOf("user-name", "role-name")
	return func() iam.PrincipalName {
		switch {
		case user != nil:
			return iam.PrincipalName{Type: keystore.PrincipalUser, Name: *user}
		case role != nil:
			return iam.PrincipalName{Type: keystore.PrincipalRole, Name: *role}
		}
		return iam.PrincipalName{}
	}
}

func (a *app) createAccessKeyCommand() *cobra.Command {
	cmd := verb(groupAdmin, "create-access-key [--user-name NAME | --role-name NAME]", "Make an access key",
		"It is one of the account's root, which may do everything, unless a user or role is named: those have up to two.\n"+
			"Prints the access key id and its secret. The secret is stored nowhere and not shown again, but it is no more\n"+
			"than a convention: whoever may use the state directory and the token can work it out.",
		"pkcs11kms iam create-access-key",
		"pkcs11kms iam create-access-key --role-name JwtConsumer",
		"pkcs11kms iam create-access-key --query AccessKey.[AccessKeyId,SecretAccessKey] --output text")
	in := newInput(cmd)
	of := owner(in, "the account's root")
	cmd.RunE = a.iamOperation("CreateAccessKey", in, func(ctx context.Context, client identities) (any, change, error) {
		key, err := client.CreateAccessKey(ctx, of())
		made := change{fmt.Sprintf("creating access key %q", key.ID),
			"without its secret it is of no use, so end it: pkcs11kms iam delete-access-key --access-key-id " + key.ID}
		return &struct{ AccessKey accessKey }{accessKeyOf(key)}, made, err
	})
	return cmd
}

func (a *app) listAccessKeysCommand() *cobra.Command {
	cmd := verb(groupAdmin, "list-access-keys [--user-name NAME | --role-name NAME]", "List the access keys of a user, a role or the root",
		"Prints the access keys without their secrets, each with its last use as get-access-key-last-used shows it.",
		"pkcs11kms iam list-access-keys",
		"pkcs11kms iam list-access-keys --user-name Alice",
		"pkcs11kms iam list-access-keys --query AccessKeyMetadata[].AccessKeyId --output text")
	in := newInput(cmd)
	of := owner(in, "the account's root")
	cmd.RunE = a.iamOperation("ListAccessKeys", in, func(ctx context.Context, client identities) (any, change, error) {
		keys, err := client.ListAccessKeys(ctx, of())
		list := []accessKey{}
		for _, key := range keys {
			shown := accessKeyOf(key)
			if key.LastUsed.ServiceName != "" { // a server tells it for one key alone
				shown.AccessKeyLastUsed = lastUsedOf(key.LastUsed)
			}
			list = append(list, shown)
		}
		return &struct{ AccessKeyMetadata []accessKey }{list}, change{}, err
	})
	return cmd
}

// lastUsedResponse is the response about one access key. The account's root has no UserName; RoleName is ours.
type lastUsedResponse struct {
	UserName, RoleName string
	AccessKeyLastUsed  *accessKeyLastUsed
}

func (a *app) getAccessKeyLastUsedCommand() *cobra.Command {
	cmd := verb(groupAdmin, "get-access-key-last-used --access-key-id ID", "Show when an access key was last used",
		"A use is a request to a server that was signed with the access key, whatever became of the request. A server\n"+
			"writes down the uses every five minutes and when it is stopped, so what is shown may be up to six minutes\n"+
			"older than the last use. Without a LastUsedDate the access key was never used since this is written down.",
		"pkcs11kms iam get-access-key-last-used --access-key-id AKIAIOSFODNN7EXAMPLE",
		"pkcs11kms iam get-access-key-last-used --access-key-id AKIAIOSFODNN7EXAMPLE --query AccessKeyLastUsed.LastUsedDate --output text")
	var id *string
	in := newInput(cmd)
	in.text(&id, "access-key-id", accessKeyIDUsage)
	in.require("access-key-id")
	cmd.RunE = a.iamOperation("GetAccessKeyLastUsed", in, func(ctx context.Context, client identities) (any, change, error) {
		owner, used, err := client.GetAccessKeyLastUsed(ctx, *id)
		key := accessKeyOf(iam.AccessKey{Owner: owner})
		return &lastUsedResponse{key.UserName, key.RoleName, lastUsedOf(used)}, change{}, err
	})
	return cmd
}

func (a *app) updateAccessKeyCommand() *cobra.Command {
	cmd := verb(groupAdmin, "update-access-key --access-key-id ID --status STATUS [flags]", "Switch an access key off or on",
		"Requests signed with an inactive access key are refused, within a second by every server. Prints nothing.",
		"pkcs11kms iam update-access-key --access-key-id AKIAIOSFODNN7EXAMPLE --status Inactive",
		"pkcs11kms iam update-access-key --access-key-id AKIAIOSFODNN7EXAMPLE --status Active")
	var id *string
	var status keystore.AccessKeyStatus
	in := newInput(cmd)
	in.text(&id, "access-key-id", accessKeyIDUsage)
	enum(in, &status, "status", "Active or Inactive (required)",
		[]keystore.AccessKeyStatus{keystore.AccessKeyActive, keystore.AccessKeyInactive})
	of := owner(in, "whoever has it")
	in.require("access-key-id", "status")
	cmd.RunE = a.iamOperation("UpdateAccessKey", in, func(ctx context.Context, client identities) (any, change, error) {
		return nothing, accessKeyChange("updating", *id, of()), client.UpdateAccessKey(ctx, of(), *id, status)
	})
	return cmd
}

func (a *app) deleteAccessKeyCommand() *cobra.Command {
	cmd := verb(groupAdmin, "delete-access-key --access-key-id ID [flags]", "End an access key for good",
		"Its id is never used again. Prints nothing.",
		"pkcs11kms iam delete-access-key --access-key-id AKIAIOSFODNN7EXAMPLE")
	var id *string
	in := newInput(cmd)
	in.text(&id, "access-key-id", accessKeyIDUsage)
	of := owner(in, "whoever has it")
	in.require("access-key-id")
	cmd.RunE = a.iamOperation("DeleteAccessKey", in, func(ctx context.Context, client identities) (any, change, error) {
		return nothing, accessKeyChange("deleting", *id, of()), client.DeleteAccessKey(ctx, of(), *id)
	})
	return cmd
}

func accessKeyChange(doing, id string, owner iam.PrincipalName) change {
	list := "pkcs11kms iam list-access-keys"
	if owner.Type != "" {
		list += fmt.Sprintf(" --%s-name %s", owner.Type, shellQuote(owner.Name))
	}
	return change{fmt.Sprintf("%s access key %q", doing, id), "to see how things stand: " + list}
}
