package main

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
)

// neverRotates stands in the help of the verbs that HMAC keys and key pairs always refuse. Scripts written for AWS KMS use them, and
// get the answer that they know.
const neverRotates = "AWS KMS never rotates HMAC keys and key pairs: refused with UnsupportedOperationException.\n" +
	"To rotate one: update-alias."

func (a *app) getKeyRotationStatusCommand() *cobra.Command {
	cmd := verb(groupRotation, "get-key-rotation-status --key-id ID", "Tell whether a key is rotated",
		"For HMAC keys and key pairs, KeyRotationEnabled is false. To rotate one: update-alias.",
		"pkcs11kms get-key-rotation-status --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.GetKeyRotationStatusInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.require("key-id")
	cmd.RunE = answering(a, in, "GetKeyRotationStatus", api.GetKeyRotationStatus, &req)
	return cmd
}

func (a *app) enableKeyRotationCommand() *cobra.Command {
	cmd := verb(groupRotation, "enable-key-rotation --key-id ID [flags]", "Enable the rotation of a key", neverRotates,
		"pkcs11kms enable-key-rotation --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.EnableKeyRotationInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.number(&req.RotationPeriodInDays, "rotation-period-in-days", "90 to 2560 days")
	in.require("key-id")
	cmd.RunE = changing(a, in, "EnableKeyRotation", api.EnableKeyRotation, &req, func(*kms.EnableKeyRotationOutput) change {
		return keyChange("enabling the rotation of", aws.ToString(req.KeyId))
	})
	return cmd
}

func (a *app) disableKeyRotationCommand() *cobra.Command {
	cmd := verb(groupRotation, "disable-key-rotation --key-id ID", "Disable the rotation of a key", neverRotates,
		"pkcs11kms disable-key-rotation --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.DisableKeyRotationInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.require("key-id")
	cmd.RunE = changing(a, in, "DisableKeyRotation", api.DisableKeyRotation, &req, func(*kms.DisableKeyRotationOutput) change {
		return keyChange("disabling the rotation of", aws.ToString(req.KeyId))
	})
	return cmd
}

func (a *app) rotateKeyOnDemandCommand() *cobra.Command {
	cmd := verb(groupRotation, "rotate-key-on-demand --key-id ID", "Rotate a key now", neverRotates,
		"pkcs11kms rotate-key-on-demand --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.RotateKeyOnDemandInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.require("key-id")
	cmd.RunE = changing(a, in, "RotateKeyOnDemand", api.RotateKeyOnDemand, &req, func(*kms.RotateKeyOnDemandOutput) change {
		return keyChange("rotating", aws.ToString(req.KeyId))
	})
	return cmd
}

var rotationList = list[kms.ListKeyRotationsInput, kms.ListKeyRotationsOutput, types.RotationsListEntry]{
	operation: "ListKeyRotations",
	call:      api.ListKeyRotations,
	asked:     func(in *kms.ListKeyRotationsInput) (**int32, **string) { return &in.Limit, &in.Marker },
	answered: func(out *kms.ListKeyRotationsOutput) (*[]types.RotationsListEntry, bool, *string) {
		return &out.Rotations, out.Truncated, out.NextMarker
	},
}

func (a *app) listKeyRotationsCommand() *cobra.Command {
	cmd := verb(groupRotation, "list-key-rotations --key-id ID [flags]", "List the rotations of a key", neverRotates+"\n"+pagingHelp,
		"pkcs11kms list-key-rotations --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.ListKeyRotationsInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	enum(in, &req.IncludeKeyMaterial, "include-key-material", "ALL_KEY_MATERIAL or ROTATIONS_ONLY", types.IncludeKeyMaterial("").Values())
	in.require("key-id")
	cmd.RunE = listing(a, cmd, in, rotationList, &req)
	return cmd
}
