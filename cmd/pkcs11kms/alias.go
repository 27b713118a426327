package main

import (
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
)

const (
	aliasNameUsage = "the name, beginning with alias/ (required)"
	targetUsage    = "the id or ARN of the key that the alias is to name (required)"
)

func aliasChange(doing string, name *string) change {
	return change{fmt.Sprintf("%s alias %q", doing, aws.ToString(name)), "to see how things stand: pkcs11kms list-aliases"}
}

func (a *app) createAliasCommand() *cobra.Command {
	cmd := verb(groupAliases, "create-alias --alias-name NAME --target-key-id ID", "Give a key another name",
		"The name begins with alias/. The verbs for MACs and describe-key take it in place of a key id. Prints nothing.",
		"pkcs11kms create-alias --alias-name alias/tokens --target-key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.CreateAliasInput
	in := newInput(cmd)
	in.text(&req.AliasName, "alias-name", aliasNameUsage)
	in.text(&req.TargetKeyId, "target-key-id", targetUsage)
	in.require("alias-name", "target-key-id")
	cmd.RunE = changing(a, in, "CreateAlias", api.CreateAlias, &req, func(*kms.CreateAliasOutput) change {
		return aliasChange("creating", req.AliasName)
	})
	return cmd
}

func (a *app) updateAliasCommand() *cobra.Command {
	cmd := verb(groupAliases, "update-alias --alias-name NAME --target-key-id ID", "Point an alias to another key",
		"This is how a key is rotated: make a new key, and point the alias to it. Callers by the alias use the new\n"+
			"key within a second; MACs made before are verified by the id of the old key. Prints nothing.",
		"pkcs11kms update-alias --alias-name alias/tokens --target-key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.UpdateAliasInput
	in := newInput(cmd)
	in.text(&req.AliasName, "alias-name", aliasNameUsage)
	in.text(&req.TargetKeyId, "target-key-id", targetUsage)
	in.require("alias-name", "target-key-id")
	cmd.RunE = changing(a, in, "UpdateAlias", api.UpdateAlias, &req, func(*kms.UpdateAliasOutput) change {
		return aliasChange("updating", req.AliasName)
	})
	return cmd
}

func (a *app) deleteAliasCommand() *cobra.Command {
	cmd := verb(groupAliases, "delete-alias --alias-name NAME", "Delete an alias",
		"The key stays as it is, and the name is free at once. Prints nothing.",
		"pkcs11kms delete-alias --alias-name alias/tokens")
	var req kms.DeleteAliasInput
	in := newInput(cmd)
	in.text(&req.AliasName, "alias-name", aliasNameUsage)
	in.require("alias-name")
	cmd.RunE = changing(a, in, "DeleteAlias", api.DeleteAlias, &req, func(*kms.DeleteAliasOutput) change {
		return aliasChange("deleting", req.AliasName)
	})
	return cmd
}

var aliasList = list[kms.ListAliasesInput, kms.ListAliasesOutput, types.AliasListEntry]{
	operation: "ListAliases",
	call:      api.ListAliases,
	asked:     func(in *kms.ListAliasesInput) (**int32, **string) { return &in.Limit, &in.Marker },
	answered: func(out *kms.ListAliasesOutput) (*[]types.AliasListEntry, bool, *string) {
		return &out.Aliases, out.Truncated, out.NextMarker
	},
}

func (a *app) listAliasesCommand() *cobra.Command {
	cmd := verb(groupAliases, "list-aliases [flags]", "List the aliases",
		"Prints all aliases of the region, or those of one key.\n"+pagingHelp,
		"pkcs11kms list-aliases",
		"pkcs11kms list-aliases --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --query 'Aliases[].AliasName' --output text")
	var req kms.ListAliasesInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", "only the aliases of this key: its id or its ARN")
	cmd.RunE = listing(a, cmd, in, aliasList, &req)
	return cmd
}
