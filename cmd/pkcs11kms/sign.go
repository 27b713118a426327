package main

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
)

const (
	signingAlgorithmUsage = "one that the key's spec has, such as RSASSA_PKCS1_V1_5_SHA_256, RSASSA_PSS_SHA_256, ECDSA_SHA_256 " +
		"or ED25519_SHA_512 (required)"
	messageTypeUsage   = "RAW (default) for the message itself, DIGEST for its hash by the algorithm's hash function"
	signedMessageUsage = "the message of 1 to 4096 bytes, or the digest: base64, or fileb://PATH (required)"
	keyPairHelp        = "\ncreate-key makes key pairs with --key-usage SIGN_VERIFY."
)

func (a *app) signCommand() *cobra.Command {
	cmd := verb(groupSignatures, "sign --key-id ID --signing-algorithm ALGORITHM --message BLOB [flags]",
		"Sign a message with the private key",
		"The message has 1 to 4096 bytes. Of a longer one, sign the digest by --message-type DIGEST. RSA signatures are\n"+
			"RSASSA, with a salt as long as the hash for PSS; ECDSA signatures are in DER, those of Ed25519 64 bytes."+keyPairHelp,
		"pkcs11kms sign --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --signing-algorithm RSASSA_PKCS1_V1_5_SHA_256 --message fileb://msg",
		"pkcs11kms sign --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --signing-algorithm RSASSA_PSS_SHA_256 --message-type DIGEST \\\n"+
			"    --message \"$(openssl dgst -sha256 -binary msg | base64)\" --query Signature --output text")
	var req kms.SignInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", anyKeyIDUsage)
	in.blob(&req.Message, "message", signedMessageUsage)
	enum(in, &req.MessageType, "message-type", messageTypeUsage, types.MessageType("").Values())
	in.list(&req.GrantTokens, "grant-tokens", "grant tokens")
	enum(in, &req.SigningAlgorithm, "signing-algorithm", signingAlgorithmUsage, types.SigningAlgorithmSpec("").Values())
	in.boolean(func(on bool) { req.DryRun = aws.Bool(on) }, "dry-run", dryRunUsage)
	in.require("key-id", "message", "signing-algorithm")
	cmd.RunE = answering(a, in, "Sign", api.Sign, &req)
	return cmd
}

func (a *app) verifyCommand() *cobra.Command {
	cmd := verb(groupSignatures, "verify --key-id ID --signing-algorithm ALGORITHM --message BLOB --signature BLOB [flags]",
		"Verify a signature with the public key",
		"Prints SignatureValid true, or fails with KMSInvalidSignatureException and the exit code 1.\n"+
			"Whoever has the public key (get-public-key) can verify without this service.",
		"pkcs11kms verify --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --signing-algorithm RSASSA_PKCS1_V1_5_SHA_256 \\\n"+
			"    --message fileb://msg --signature fileb://msg.sig")
	var req kms.VerifyInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", anyKeyIDUsage)
	in.blob(&req.Message, "message", signedMessageUsage)
	enum(in, &req.MessageType, "message-type", messageTypeUsage, types.MessageType("").Values())
	in.blob(&req.Signature, "signature", "the signature to verify: base64, or fileb://PATH (required)")
	enum(in, &req.SigningAlgorithm, "signing-algorithm", signingAlgorithmUsage, types.SigningAlgorithmSpec("").Values())
	in.list(&req.GrantTokens, "grant-tokens", "grant tokens")
	in.boolean(func(on bool) { req.DryRun = aws.Bool(on) }, "dry-run", dryRunUsage)
	in.require("key-id", "message", "signature", "signing-algorithm")
	cmd.RunE = answering(a, in, "Verify", api.Verify, &req)
	return cmd
}

func (a *app) getPublicKeyCommand() *cobra.Command {
	cmd := verb(groupSignatures, "get-public-key --key-id ID [flags]", "Show the public key of a key pair",
		"PublicKey is a DER SubjectPublicKeyInfo in base64, which openssl and most libraries read. An HMAC key has none:\n"+
			"refused with UnsupportedOperationException."+keyPairHelp,
		"pkcs11kms get-public-key --key-id 1234abcd-12ab-34cd-56ef-1234567890ab",
		"pkcs11kms get-public-key --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --query PublicKey --output text "+
			"| base64 -d | openssl pkey -pubin -inform DER")
	var req kms.GetPublicKeyInput
	in := newInput(cmd)
	in.text(&req.KeyId, "key-id", anyKeyIDUsage)
	in.list(&req.GrantTokens, "grant-tokens", "grant tokens")
	in.require("key-id")
	cmd.RunE = answering(a, in, "GetPublicKey", api.GetPublicKey, &req)
	return cmd
}
