package main

import (
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/spf13/cobra"
)

func (a *app) generateRandomCommand() *cobra.Command {
	cmd := verb(groupRandom, "generate-random --number-of-bytes N [flags]", "Get random bytes from the token",
		"Prints 1 to 1024 bytes of the token's random number generator, in base64.",
		"pkcs11kms generate-random --number-of-bytes 32 --query Plaintext --output text")
	var req kms.GenerateRandomInput
	in := newInput(cmd)
	in.number(&req.NumberOfBytes, "number-of-bytes", "1 to 1024")
	in.text(&req.CustomKeyStoreId, "custom-key-store-id", "a custom key store")
	in.recipient(&req.Recipient, "recipient", recipientUsage)
	cmd.RunE = answering(a, in, "GenerateRandom", api.GenerateRandom, &req)
	return cmd
}
