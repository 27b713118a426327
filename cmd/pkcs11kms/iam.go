package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
)

func (a *app) iamCommand() *cobra.Command {
	cmd := operations("iam", groupAdmin, "Make and end the access keys that requests to the server are signed with",
		"The operations have the flags and the output of \"aws iam\". The access keys are those of the account's root.\n"+
			"They work on the state directory; a server that runs on it takes notice within a second.",
		"pkcs11kms iam list-access-keys")
	cmd.AddGroup(&cobra.Group{ID: groupAdmin, Title: "Access keys:"})
	cmd.AddCommand(a.createAccessKeyCommand(), a.listAccessKeysCommand(), a.updateAccessKeyCommand(), a.deleteAccessKeyCommand())
	for _, operation := range cmd.Commands() {
		operation.Annotations = map[string]string{printsResponse: "", allRegions: ""}
	}
	return cmd
}

// accessKey is an access key as the API of AWS IAM has it. The account's root has no UserName.
type accessKey struct {
	AccessKeyId     string
	Status          keystore.AccessKeyStatus
	SecretAccessKey string // absent in a list
	CreateDate      string
}

func accessKeyOf(key pkcs11kms.AccessKey) accessKey {
	// Unlike those of KMS, IAM's times are text on the wire, which the aws CLI leaves in UTC.
	return accessKey{key.ID, key.Status, key.Secret, key.Created.UTC().Format("2006-01-02T15:04:05") + "+00:00"}
}

const accessKeyIDUsage = "the access key id (required)"

func (a *app) createAccessKeyCommand() *cobra.Command {
	cmd := verb(groupAdmin, "create-access-key", "Make an access key",
		"Prints the access key id and its secret. The secret is stored nowhere and not shown again, but it is no more\n"+
			"than a convention: whoever may use the state directory and the token can work it out.",
		"pkcs11kms iam create-access-key",
		"pkcs11kms iam create-access-key --query AccessKey.[AccessKeyId,SecretAccessKey] --output text")
	cmd.RunE = a.iamOperation("CreateAccessKey", newInput(cmd), func(ctx context.Context, bridge *pkcs11kms.Bridge) (any, change, error) {
		key, err := bridge.CreateAccessKey(ctx)
		made := change{fmt.Sprintf("creating access key %q", key.ID),
			"without its secret it is of no use, so end it: pkcs11kms iam delete-access-key --access-key-id " + key.ID}
		return &struct{ AccessKey accessKey }{accessKeyOf(key)}, made, err
	})
	return cmd
}

func (a *app) listAccessKeysCommand() *cobra.Command {
	cmd := verb(groupAdmin, "list-access-keys", "List the access keys", "Prints the access keys without their secrets.",
		"pkcs11kms iam list-access-keys",
		"pkcs11kms iam list-access-keys --query AccessKeyMetadata[].AccessKeyId --output text")
	cmd.RunE = a.iamOperation("ListAccessKeys", newInput(cmd), func(ctx context.Context, bridge *pkcs11kms.Bridge) (any, change, error) {
		keys, err := bridge.ListAccessKeys(ctx)
		list := []accessKey{}
		for _, key := range keys {
			list = append(list, accessKeyOf(key))
		}
		return &struct{ AccessKeyMetadata []accessKey }{list}, change{}, err
	})
	return cmd
}

func (a *app) updateAccessKeyCommand() *cobra.Command {
	cmd := verb(groupAdmin, "update-access-key --access-key-id ID --status STATUS", "Switch an access key off or on",
		"Requests signed with an inactive access key are refused, within a second by every server. Prints nothing.",
		"pkcs11kms iam update-access-key --access-key-id AKIAIOSFODNN7EXAMPLE --status Inactive",
		"pkcs11kms iam update-access-key --access-key-id AKIAIOSFODNN7EXAMPLE --status Active")
	var id *string
	var status keystore.AccessKeyStatus
	in := newInput(cmd)
	in.text(&id, "access-key-id", accessKeyIDUsage)
	enum(in, &status, "status", "Active or Inactive (required)", []keystore.AccessKeyStatus{keystore.AccessKeyActive, keystore.AccessKeyInactive})
	in.require("access-key-id", "status")
	cmd.RunE = a.iamOperation("UpdateAccessKey", in, func(ctx context.Context, bridge *pkcs11kms.Bridge) (any, change, error) {
		return nothing, accessKeyChange("updating", *id), bridge.UpdateAccessKey(ctx, *id, status)
	})
	return cmd
}

func (a *app) deleteAccessKeyCommand() *cobra.Command {
	cmd := verb(groupAdmin, "delete-access-key --access-key-id ID", "End an access key for good",
		"Its id is never used again. Prints nothing.",
		"pkcs11kms iam delete-access-key --access-key-id AKIAIOSFODNN7EXAMPLE")
	var id *string
	in := newInput(cmd)
	in.text(&id, "access-key-id", accessKeyIDUsage)
	in.require("access-key-id")
	cmd.RunE = a.iamOperation("DeleteAccessKey", in, func(ctx context.Context, bridge *pkcs11kms.Bridge) (any, change, error) {
		return nothing, accessKeyChange("deleting", *id), bridge.DeleteAccessKey(ctx, *id)
	})
	return cmd
}

func accessKeyChange(doing, id string) change {
	return change{fmt.Sprintf("%s access key %q", doing, id), "to see how things stand: pkcs11kms iam list-access-keys"}
}

var nothing = &struct{}{}

// iamOperation returns the function of a verb that opens the state directory, runs one operation and prints its response.
func (a *app) iamOperation(name string, in *input, operation func(context.Context, *pkcs11kms.Bridge) (any, change, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if err := in.parse(); err != nil {
			return err
		}
		return a.withBridge(cmd.Context(), func(bridge *pkcs11kms.Bridge) error {
			out, made, err := operation(cmd.Context(), bridge)
			if err != nil {
				return &operationError{name, err}
			}
			return made.shown(a.print(name, newDocument(out)))
		})
	}
}
