package main

import (
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
)

const (
	grantKeyUsage = "the id or ARN of the key (required)"
	grantIDUsage  = "the id of the grant, as list-grants shows it"
	serviceUsage  = "a service of AWS, none of which calls here"

	// oneOfItsGrants stands in examples.
	oneOfItsGrants = `--grant-id "$(pkcs11kms list-grants --key-id 1234abcd-12ab-34cd-56ef-1234567890ab ` +
		`--query 'Grants[0].GrantId' --output text)"`
)

func grantChange(doing string, keyID *string) change {
	id := aws.ToString(keyID)
	if id == "" {
		return change{doing + " a grant", "to see how things stand: pkcs11kms list-grants --key-id ID"}
	}
	return change{fmt.Sprintf("%s a grant on key %q", doing, id), "to see its grants: pkcs11kms list-grants --key-id " + shellQuote(id)}
}

func (a *app) createGrantCommand() *cobra.Command {
	cmd := verb(groupGrants, "create-grant --key-id ID --grantee-principal ARN --operations NAME ... [flags]",
		"Let a user or role use a key",
		"The operations are GenerateMac and VerifyMac for an HMAC key, Sign, Verify and GetPublicKey for a signing\n"+
			"key, and DescribeKey, CreateGrant and RetireGrant for either. The grant counts at once, beside the policies;\n"+
			"a statement that denies is stronger. With --name, a call that is repeated finds the grant of the first one.\n"+
			"Prints the id of the grant, and a token that names it.",
		"pkcs11kms create-grant --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --operations GenerateMac "+
			"--grantee-principal arn:aws:iam::000000000000:role/JwtProducer")
	var req kms.CreateGrantInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", grantKeyUsage)
	in.text(&req.GranteePrincipal, "grantee-principal", "ARN of the user or role that gets the grant, or of the account's root")
	in.text(&req.RetiringPrincipal, "retiring-principal", "ARN of who may end the grant by retire-grant")
	var operations []string
	in.list(&operations, "operations", "what the grant allows (required)")
	in.add("operations", func() error {
		for _, operation := range operations {
			req.Operations = append(req.Operations, types.GrantOperation(operation))
		}
		return nil
	})
	in.constraints(&req.Constraints, "constraints", constraintsUsage)
	in.list(&req.GrantTokens, "grant-tokens", "grant tokens")
	in.text(&req.Name, "name", "a name, by which a call can be repeated")
	in.boolean(func(on bool) { req.DryRun = aws.Bool(on) }, "dry-run", dryRunUsage)
	in.text(&req.GranteeServicePrincipal, "grantee-service-principal", serviceUsage)
	in.text(&req.RetiringServicePrincipal, "retiring-service-principal", serviceUsage)
	in.require("key-id", "operations")
	cmd.RunE = changing(a, in, "CreateGrant", api.CreateGrant, &req, func(*kms.CreateGrantOutput) change {
		return grantChange("making", req.KeyId)
	})
	return cmd
}

var grantList = list[kms.ListGrantsInput, kms.ListGrantsOutput, types.GrantListEntry]{
	operation: "ListGrants",
	call:      api.ListGrants,
	asked:     func(in *kms.ListGrantsInput) (**int32, **string) { return &in.Limit, &in.Marker },
	answered: func(out *kms.ListGrantsOutput) (*[]types.GrantListEntry, bool, *string) {
		return &out.Grants, out.Truncated, out.NextMarker
	},
}

func (a *app) listGrantsCommand() *cobra.Command {
	cmd := verb(groupGrants, "list-grants --key-id ID [flags]", "List the grants on a key",
		"Prints all grants on the key, or those to one principal. Who is no more is shown by the unique id.\n"+pagingHelp,
		"pkcs11kms list-grants --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.ListGrantsInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", grantKeyUsage)
	in.text(&req.GrantId, "grant-id", "only the grant with this id")
	in.text(&req.GranteePrincipal, "grantee-principal", "only the grants to this principal: its ARN, or the unique id of one that is no more")
	in.text(&req.GranteeServicePrincipal, "grantee-service-principal", serviceUsage)
	in.require("key-id")
	cmd.RunE = listing(a, cmd, in, grantList, &req)
	return cmd
}

var retirableList = list[kms.ListRetirableGrantsInput, kms.ListRetirableGrantsOutput, types.GrantListEntry]{
	operation: "ListRetirableGrants",
	call:      api.ListRetirableGrants,
	asked:     func(in *kms.ListRetirableGrantsInput) (**int32, **string) { return &in.Limit, &in.Marker },
	answered: func(out *kms.ListRetirableGrantsOutput) (*[]types.GrantListEntry, bool, *string) {
		return &out.Grants, out.Truncated, out.NextMarker
	},
}

func (a *app) listRetirableGrantsCommand() *cobra.Command {
	cmd := verb(groupGrants, "list-retirable-grants --retiring-principal ARN [flags]", "List the grants that a principal may retire",
		"Prints the grants of the region, on whatever key, that name the principal as their retiring principal.\n"+pagingHelp,
		"pkcs11kms list-retirable-grants --retiring-principal arn:aws:iam::000000000000:role/JwtProducer")
	var req kms.ListRetirableGrantsInput
	in := newInput(cmd)
	in.text(&req.RetiringPrincipal, "retiring-principal", "ARN of a user, a role or the account's root")
	in.text(&req.RetiringServicePrincipal, "retiring-service-principal", serviceUsage)
	cmd.RunE = listing(a, cmd, in, retirableList, &req)
	return cmd
}

func (a *app) retireGrantCommand() *cobra.Command {
	cmd := verb(groupGrants, "retire-grant (--grant-token TOKEN | --key-id ID --grant-id ID) [flags]", "End a grant that is done with",
		"For the retiring principal of a grant, for its grantee if RetireGrant is among its operations, and for whom the\n"+
			"account lets. Grants that were made by the grant stay. Prints nothing.",
		"pkcs11kms retire-grant --key-id 1234abcd-12ab-34cd-56ef-1234567890ab "+oneOfItsGrants)
	var req kms.RetireGrantInput
	in := newInput(cmd)
	in.text(&req.GrantToken, "grant-token", "the token of the grant")
	in.text(&req.KeyId, "key-id", "the id or ARN of the key")
	in.text(&req.GrantId, "grant-id", grantIDUsage)
	in.boolean(func(on bool) { req.DryRun = aws.Bool(on) }, "dry-run", dryRunUsage)
	cmd.RunE = changing(a, in, "RetireGrant", api.RetireGrant, &req, func(*kms.RetireGrantOutput) change {
		return grantChange("retiring", req.KeyId)
	})
	return cmd
}

func (a *app) revokeGrantCommand() *cobra.Command {
	cmd := verb(groupGrants, "revoke-grant --key-id ID --grant-id ID [flags]", "End a grant",
		"For those who administrate the key. Nobody is allowed anything by the grant any more: in this process at\n"+
			"once, in every other within a second. Grants that were made by the grant stay. Prints nothing.",
		"pkcs11kms revoke-grant --key-id 1234abcd-12ab-34cd-56ef-1234567890ab "+oneOfItsGrants)
	var req kms.RevokeGrantInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", grantKeyUsage)
	in.text(&req.GrantId, "grant-id", grantIDUsage+" (required)")
	in.boolean(func(on bool) { req.DryRun = aws.Bool(on) }, "dry-run", dryRunUsage)
	in.require("key-id", "grant-id")
	cmd.RunE = changing(a, in, "RevokeGrant", api.RevokeGrant, &req, func(*kms.RevokeGrantOutput) change {
		return grantChange("revoking", req.KeyId)
	})
	return cmd
}
