package main

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
)

const (
	macAlgorithmUsage = "HMAC_SHA_224, HMAC_SHA_256, HMAC_SHA_384 or HMAC_SHA_512, as the key's spec asks for (required)"
	messageUsage      = "the message of 1 to 4096 bytes: base64, or fileb://PATH (required)"
	dryRunUsage       = "only tell whether the call would succeed"
)

func (a *app) generateMacCommand() *cobra.Command {
	cmd := verb(groupMACs, "generate-mac --key-id ID --mac-algorithm ALGORITHM --message BLOB [flags]", "Make the HMAC of a message",
		"The message has 1 to 4096 bytes and is given in base64, or as a file by fileb://PATH. For longer data: mac.",
		"pkcs11kms generate-mac --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --mac-algorithm HMAC_SHA_256 --message fileb://msg",
		"pkcs11kms generate-mac --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --mac-algorithm HMAC_SHA_256 --message SGVsbG8= "+
			"--query Mac --output text")
	var req kms.GenerateMacInput
	in := newInput(cmd)
	in.blob(&req.Message, "message", messageUsage)
	in.text(&req.KeyId, "key-id", anyKeyIDUsage)
	enum(in, &req.MacAlgorithm, "mac-algorithm", macAlgorithmUsage, types.MacAlgorithmSpec("").Values())
	in.list(&req.GrantTokens, "grant-tokens", "grant tokens")
	in.boolean(func(on bool) { req.DryRun = aws.Bool(on) }, "dry-run", dryRunUsage)
	in.require("message", "key-id", "mac-algorithm")
	cmd.RunE = answering(a, in, "GenerateMac", api.GenerateMac, &req)
	return cmd
}

func (a *app) verifyMacCommand() *cobra.Command {
	cmd := verb(groupMACs, "verify-mac --key-id ID --mac-algorithm ALGORITHM --message BLOB --mac BLOB [flags]",
		"Verify the HMAC of a message",
		"Prints MacValid true, or fails with KMSInvalidMacException and the exit code 1.",
		"pkcs11kms verify-mac --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --mac-algorithm HMAC_SHA_256 "+
			"--message fileb://msg --mac fileb://msg.mac")
	var req kms.VerifyMacInput
	in := newInput(cmd)
	in.blob(&req.Message, "message", messageUsage)
	in.text(&req.KeyId, "key-id", anyKeyIDUsage)
	enum(in, &req.MacAlgorithm, "mac-algorithm", macAlgorithmUsage, types.MacAlgorithmSpec("").Values())
	in.blob(&req.Mac, "mac", "the HMAC to verify: base64, or fileb://PATH (required)")
	in.list(&req.GrantTokens, "grant-tokens", "grant tokens")
	in.boolean(func(on bool) { req.DryRun = aws.Bool(on) }, "dry-run", dryRunUsage)
	in.require("message", "key-id", "mac-algorithm", "mac")
	cmd.RunE = answering(a, in, "VerifyMac", api.VerifyMac, &req)
	return cmd
}
