package main

import (
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// What --key-id takes: advice reads of it whether that may be an alias.
const (
	keyIDUsage    = "the key id or the key ARN (required)"
	anyKeyIDUsage = "the key id, key ARN, alias name (alias/...) or alias ARN (required)"
)

func keyChange(doing, keyID string) change {
	return change{fmt.Sprintf("%s key %q", doing, keyID), "to see it: pkcs11kms describe-key --key-id " + shellQuote(keyID)}
}

func (a *app) createKeyCommand() *cobra.Command {
	cmd := verb(groupKeys, "create-key --key-spec SPEC --key-usage USAGE [flags]", "Create a key in the token",
		"The key is generated in the token, can never be read out, and is usable at once. Key spec and usage are fixed\n"+
			"for its life. The flags are those of \"aws kms create-key\"; what this service does not do is refused.",
		`pkcs11kms create-key --key-spec HMAC_256 --key-usage GENERATE_VERIFY_MAC --description "tokens"`,
		"pkcs11kms create-key --key-spec HMAC_512 --key-usage GENERATE_VERIFY_MAC --query KeyMetadata.KeyId --output text",
		"pkcs11kms create-key --key-spec RSA_2048 --key-usage SIGN_VERIFY")
	var req kms.CreateKeyInput
	made := pkcs11kms.KeySpecs()
	in := newInput(cmd)
	enum(in, &req.KeySpec, "key-spec", strings.Join(namesOf(made), ", "), inFront(made, types.KeySpec("").Values()))
	enum(in, &req.KeyUsage, "key-usage", "GENERATE_VERIFY_MAC for an HMAC key, SIGN_VERIFY for a key pair",
		inFront([]types.KeyUsageType{types.KeyUsageTypeGenerateVerifyMac, types.KeyUsageTypeSignVerify}, types.KeyUsageType("").Values()))
	in.text(&req.Description, "description", "a text of up to 8192 characters")
	//lint:ignore SA1019 the aws CLI has the flag, and the service takes either
	enum(in, &req.CustomerMasterKeySpec, "customer-master-key-spec", "the older name of --key-spec", types.CustomerMasterKeySpec("").Values())
	enum(in, &req.Origin, "origin", "AWS_KMS (default), or EXTERNAL for an HMAC key whose material is imported", types.OriginType("").Values())
	in.text(&req.Policy, "policy", "the key policy, as JSON or file://PATH")
	in.boolean(func(on bool) { req.BypassPolicyLockoutSafetyCheck = on }, "bypass-policy-lockout-safety-check",
		"allow a policy that locks its author out")
	in.tags(&req.Tags, "tags", tagsUsage)
	in.boolean(func(on bool) { req.MultiRegion = aws.Bool(on) }, "multi-region", "make a multi-Region primary key")
	in.text(&req.CustomKeyStoreId, "custom-key-store-id", "a custom key store")
	in.text(&req.XksKeyId, "xks-key-id", "a key of an external key store")
	cmd.RunE = changing(a, in, "CreateKey", api.CreateKey, &req, func(out *kms.CreateKeyOutput) change {
		if out.KeyMetadata == nil {
			return keyChange("creating", "") // by a server that is none of ours
		}
		return keyChange("creating", aws.ToString(out.KeyMetadata.KeyId))
	})
	return cmd
}

func (a *app) describeKeyCommand() *cobra.Command {
	cmd := verb(groupKeys, "describe-key --key-id ID [flags]", "Show the metadata of a key",
		"Prints what is known of the key, in whatever state it is.",
		"pkcs11kms describe-key --key-id 1234abcd-12ab-34cd-56ef-1234567890ab",
		"pkcs11kms describe-key --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --query KeyMetadata.KeyState --output text")
	var req kms.DescribeKeyInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", anyKeyIDUsage)
	in.list(&req.GrantTokens, "grant-tokens", "grant tokens")
	in.require("key-id")
	cmd.RunE = answering(a, in, "DescribeKey", api.DescribeKey, &req)
	return cmd
}

func (a *app) getKeyLastUsageCommand() *cobra.Command {
	cmd := verb(groupKeys, "get-key-last-usage --key-id ID", "Tell when a key was last used",
		"Prints by which operation (GenerateMac, VerifyMac, Sign or Verify) and when the key was last used with success,\n"+
			"and the eventID of its record in the audit log. What other processes use is known within a minute.",
		"pkcs11kms get-key-last-usage --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.GetKeyLastUsageInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.require("key-id")
	cmd.RunE = answering(a, in, "GetKeyLastUsage", api.GetKeyLastUsage, &req)
	return cmd
}

func (a *app) enableKeyCommand() *cobra.Command {
	cmd := verb(groupKeys, "enable-key --key-id ID", "Enable a key", "Makes a disabled key usable again. Prints nothing.",
		"pkcs11kms enable-key --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.EnableKeyInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.require("key-id")
	cmd.RunE = changing(a, in, "EnableKey", api.EnableKey, &req, func(*kms.EnableKeyOutput) change {
		return keyChange("enabling", *req.KeyId)
	})
	return cmd
}

func (a *app) disableKeyCommand() *cobra.Command {
	cmd := verb(groupKeys, "disable-key --key-id ID", "Disable a key",
		"Every process refuses to use the key within a second, until it is enabled again. Prints nothing.",
		"pkcs11kms disable-key --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.DisableKeyInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.require("key-id")
	cmd.RunE = changing(a, in, "DisableKey", api.DisableKey, &req, func(*kms.DisableKeyOutput) change {
		return keyChange("disabling", *req.KeyId)
	})
	return cmd
}

var keyList = list[kms.ListKeysInput, kms.ListKeysOutput, types.KeyListEntry]{
	operation: "ListKeys",
	call:      api.ListKeys,
	asked:     func(in *kms.ListKeysInput) (**int32, **string) { return &in.Limit, &in.Marker },
	answered: func(out *kms.ListKeysOutput) (*[]types.KeyListEntry, bool, *string) {
		return &out.Keys, out.Truncated, out.NextMarker
	},
}

func (a *app) listKeysCommand() *cobra.Command {
	cmd := verb(groupKeys, "list-keys [flags]", "List the keys", "Prints all keys of the region.\n"+pagingHelp,
		"pkcs11kms list-keys",
		"pkcs11kms list-keys --max-items 10",
		"pkcs11kms list-keys --query 'Keys[].KeyId' --output text")
	var req kms.ListKeysInput
	cmd.RunE = listing(a, cmd, newInput(cmd), keyList, &req)
	return cmd
}

func (a *app) updateKeyDescriptionCommand() *cobra.Command {
	cmd := verb(groupKeys, "update-key-description --key-id ID --description TEXT", "Replace the description of a key",
		"The empty text removes it. Prints nothing.",
		`pkcs11kms update-key-description --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --description "tokens of the web shop"`)
	var req kms.UpdateKeyDescriptionInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.text(&req.Description, "description", "a text of up to 8192 characters (required)")
	in.require("key-id", "description")
	cmd.RunE = changing(a, in, "UpdateKeyDescription", api.UpdateKeyDescription, &req, func(*kms.UpdateKeyDescriptionOutput) change {
		return keyChange("describing", *req.KeyId)
	})
	return cmd
}
