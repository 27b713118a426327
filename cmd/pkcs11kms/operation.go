package main

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// api is what the verbs use of a KMS client. It is cut from the SDK's *kms.Client, so that the client of a
// server fits in the same verbs.
type api interface {
	CreateKey(context.Context, *kms.CreateKeyInput, ...func(*kms.Options)) (*kms.CreateKeyOutput, error)
	DescribeKey(context.Context, *kms.DescribeKeyInput, ...func(*kms.Options)) (*kms.DescribeKeyOutput, error)
	GetKeyLastUsage(context.Context, *kms.GetKeyLastUsageInput, ...func(*kms.Options)) (*kms.GetKeyLastUsageOutput, error)
	ListKeys(context.Context, *kms.ListKeysInput, ...func(*kms.Options)) (*kms.ListKeysOutput, error)
	EnableKey(context.Context, *kms.EnableKeyInput, ...func(*kms.Options)) (*kms.EnableKeyOutput, error)
	DisableKey(context.Context, *kms.DisableKeyInput, ...func(*kms.Options)) (*kms.DisableKeyOutput, error)
	GenerateMac(context.Context, *kms.GenerateMacInput, ...func(*kms.Options)) (*kms.GenerateMacOutput, error)
	VerifyMac(context.Context, *kms.VerifyMacInput, ...func(*kms.Options)) (*kms.VerifyMacOutput, error)
	Sign(context.Context, *kms.SignInput, ...func(*kms.Options)) (*kms.SignOutput, error)
	Verify(context.Context, *kms.VerifyInput, ...func(*kms.Options)) (*kms.VerifyOutput, error)
	CreateAlias(context.Context, *kms.CreateAliasInput, ...func(*kms.Options)) (*kms.CreateAliasOutput, error)
	UpdateAlias(context.Context, *kms.UpdateAliasInput, ...func(*kms.Options)) (*kms.UpdateAliasOutput, error)
	DeleteAlias(context.Context, *kms.DeleteAliasInput, ...func(*kms.Options)) (*kms.DeleteAliasOutput, error)
	ListAliases(context.Context, *kms.ListAliasesInput, ...func(*kms.Options)) (*kms.ListAliasesOutput, error)
	TagResource(context.Context, *kms.TagResourceInput, ...func(*kms.Options)) (*kms.TagResourceOutput, error)
	UntagResource(context.Context, *kms.UntagResourceInput, ...func(*kms.Options)) (*kms.UntagResourceOutput, error)
	ListResourceTags(context.Context, *kms.ListResourceTagsInput, ...func(*kms.Options)) (*kms.ListResourceTagsOutput, error)
	UpdateKeyDescription(context.Context, *kms.UpdateKeyDescriptionInput, ...func(*kms.Options)) (*kms.UpdateKeyDescriptionOutput, error)
	ScheduleKeyDeletion(context.Context, *kms.ScheduleKeyDeletionInput, ...func(*kms.Options)) (*kms.ScheduleKeyDeletionOutput, error)
	CancelKeyDeletion(context.Context, *kms.CancelKeyDeletionInput, ...func(*kms.Options)) (*kms.CancelKeyDeletionOutput, error)
	GetKeyPolicy(context.Context, *kms.GetKeyPolicyInput, ...func(*kms.Options)) (*kms.GetKeyPolicyOutput, error)
	PutKeyPolicy(context.Context, *kms.PutKeyPolicyInput, ...func(*kms.Options)) (*kms.PutKeyPolicyOutput, error)
	ListKeyPolicies(context.Context, *kms.ListKeyPoliciesInput, ...func(*kms.Options)) (*kms.ListKeyPoliciesOutput, error)
	CreateGrant(context.Context, *kms.CreateGrantInput, ...func(*kms.Options)) (*kms.CreateGrantOutput, error)
	ListGrants(context.Context, *kms.ListGrantsInput, ...func(*kms.Options)) (*kms.ListGrantsOutput, error)
	ListRetirableGrants(context.Context, *kms.ListRetirableGrantsInput, ...func(*kms.Options)) (*kms.ListRetirableGrantsOutput, error)
	RetireGrant(context.Context, *kms.RetireGrantInput, ...func(*kms.Options)) (*kms.RetireGrantOutput, error)
	RevokeGrant(context.Context, *kms.RevokeGrantInput, ...func(*kms.Options)) (*kms.RevokeGrantOutput, error)
	GetKeyRotationStatus(context.Context, *kms.GetKeyRotationStatusInput, ...func(*kms.Options)) (*kms.GetKeyRotationStatusOutput, error)
	EnableKeyRotation(context.Context, *kms.EnableKeyRotationInput, ...func(*kms.Options)) (*kms.EnableKeyRotationOutput, error)
	DisableKeyRotation(context.Context, *kms.DisableKeyRotationInput, ...func(*kms.Options)) (*kms.DisableKeyRotationOutput, error)
	RotateKeyOnDemand(context.Context, *kms.RotateKeyOnDemandInput, ...func(*kms.Options)) (*kms.RotateKeyOnDemandOutput, error)
	ListKeyRotations(context.Context, *kms.ListKeyRotationsInput, ...func(*kms.Options)) (*kms.ListKeyRotationsOutput, error)
	GetParametersForImport(
		context.Context, *kms.GetParametersForImportInput, ...func(*kms.Options)) (*kms.GetParametersForImportOutput, error)
	ImportKeyMaterial(context.Context, *kms.ImportKeyMaterialInput, ...func(*kms.Options)) (*kms.ImportKeyMaterialOutput, error)
	DeleteImportedKeyMaterial(
		context.Context, *kms.DeleteImportedKeyMaterialInput, ...func(*kms.Options)) (*kms.DeleteImportedKeyMaterialOutput, error)
	GetPublicKey(context.Context, *kms.GetPublicKeyInput, ...func(*kms.Options)) (*kms.GetPublicKeyOutput, error)
	GenerateRandom(context.Context, *kms.GenerateRandomInput, ...func(*kms.Options)) (*kms.GenerateRandomOutput, error)
}

var (
	_ api = (*kms.Client)(nil)
	_ api = (*pkcs11kms.Client)(nil)
)

// verb makes the command of an API operation.
func verb(group, use, short, long string, examples ...string) *cobra.Command {
	return &cobra.Command{
		Use:         use,
		GroupID:     group,
		Short:       short,
		Long:        short + ".\n\n" + long,
		Example:     "  " + strings.Join(examples, "\n  "),
		Args:        noArguments,
		Annotations: map[string]string{printsResponse: "", takesEndpoint: ""},

		DisableFlagsInUseLine: true, // Use has them where they belong
	}
}

// operations makes a command that has others below it and does nothing itself.
func operations(name, group, short, long, example string) *cobra.Command {
	return &cobra.Command{
		Use:     name + " OPERATION [flags]",
		GroupID: group,
		Short:   short,
		Long:    short + ".\n\n" + long,
		Example: "  " + example,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownOperation(name, args[0])
			}
			return usagef("the following arguments are required: operation")
		},
	}
}

func unknownOperation(of, word string) error { return usagef("unknown operation %q of %s", word, of) }

func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown options: %s", strings.Join(args, ", "))
	}
	return nil
}

// call runs an operation and names it in its error.
func call[In, Out any](ctx context.Context, client api, name string,
	operation func(api, context.Context, *In, ...func(*kms.Options)) (*Out, error), in *In) (*Out, error) {
	out, err := operation(client, ctx, in)
	if err != nil {
		return nil, &operationError{name, err}
	}
	return out, nil
}

// answering returns the function of a verb that makes one call and prints the response.
func answering[In, Out any](a *app, flags *input, name string,
	operation func(api, context.Context, *In, ...func(*kms.Options)) (*Out, error), in *In) func(*cobra.Command, []string) error {
	return changing(a, flags, name, operation, in, func(*Out) change { return change{} })
}

// changing is answering for an operation that changes something, which made tells.
func changing[In, Out any](a *app, flags *input, name string,
	operation func(api, context.Context, *In, ...func(*kms.Options)) (*Out, error), in *In,
	made func(*Out) change) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if err := flags.parse(); err != nil {
			return err
		}
		return a.withClient(cmd.Context(), func(client api) error {
			out, err := call(cmd.Context(), client, name, operation, in)
			if err != nil {
				return err
			}
			return made(out).shown(a.print(name, newDocument(out)))
		})
	}
}

// localOperation returns the function of a verb that opens the state directory, runs one operation and prints its response.
func (a *app) localOperation(
	name string, in *input, operation func(context.Context, *pkcs11kms.Bridge) (any, change, error),
) func(*cobra.Command, []string) error {
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
