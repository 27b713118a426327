package main

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/spf13/cobra"
)

func (a *app) scheduleKeyDeletionCommand() *cobra.Command {
	cmd := verb(groupKeys, "schedule-key-deletion --key-id ID [flags]", "Schedule the deletion of a key",
		"The key is of no use from now on, and is destroyed in the token when the window is over, with its aliases and\n"+
			"tags. A running server does that, never one of these verbs. Until then: cancel-key-deletion.",
		"pkcs11kms schedule-key-deletion --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --pending-window-in-days 7")
	var req kms.ScheduleKeyDeletionInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.number(&req.PendingWindowInDays, "pending-window-in-days", "7 to 30 days (default: 30)")
	in.require("key-id")
	cmd.RunE = changing(a, in, "ScheduleKeyDeletion", api.ScheduleKeyDeletion, &req, func(*kms.ScheduleKeyDeletionOutput) change {
		return keyChange("scheduling the deletion of", aws.ToString(req.KeyId))
	})
	return cmd
}

func (a *app) cancelKeyDeletionCommand() *cobra.Command {
	cmd := verb(groupKeys, "cancel-key-deletion --key-id ID", "Take back a scheduled deletion",
		"The key is disabled then, whatever it was before: enable-key makes it usable.",
		"pkcs11kms cancel-key-deletion --key-id 1234abcd-12ab-34cd-56ef-1234567890ab")
	var req kms.CancelKeyDeletionInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", keyIDUsage)
	in.require("key-id")
	cmd.RunE = changing(a, in, "CancelKeyDeletion", api.CancelKeyDeletion, &req, func(*kms.CancelKeyDeletionOutput) change {
		return keyChange("cancelling the deletion of", aws.ToString(req.KeyId))
	})
	return cmd
}
