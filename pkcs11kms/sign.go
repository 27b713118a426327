package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

//lint:file-ignore SA1019 deprecated members are part of the API

// Sign signs a message of 1 to 4,096 bytes, or with MessageType DIGEST the hash of one of any length: an RSASSA signature
// (RFC 8017; the salt of PSS is as long as the hash), a DER ECDSA-Sig-Value (RFC 3279), or the 64 bytes of Ed25519 (RFC 8032),
// which takes RAW with ED25519_SHA_512 and DIGEST with ED25519_PH_SHA_512 and nothing else. The KeyId of the output is the
// key's ARN. With DryRun the answer is DryRunOperationException when the call would have succeeded, and the token is not
// used.
func (c *Client) Sign(ctx context.Context, in *kms.SignInput, optFns ...func(*kms.Options)) (*kms.SignOutput, error) {
	return perform(ctx, c, ops.Sign, in, optFns, func(_ *Client, in *kms.SignInput) (request, error) {
		req := request{keyID: in.KeyId, grantTokens: in.GrantTokens, signing: in.SigningAlgorithm,
			messageType: messageType(in.MessageType), dryRun: aws.ToBool(in.DryRun)}
		return req, checkMessage(in.SigningAlgorithm, in.MessageType, in.Message)
	}, func(
		ctx context.Context, c *call, in *kms.SignInput, k *key,
	) (*kms.SignOutput, error) {
		if c.req.dryRun {
			return nil, apierr.DryRun()
		}
		signature, err := k.sign(ctx, in)
		if err != nil {
			return nil, err
		}
		return &kms.SignOutput{KeyId: aws.String(k.ARN), Signature: signature, SigningAlgorithm: in.SigningAlgorithm}, nil
	})
}

func (k *key) sign(ctx context.Context, in *kms.SignInput) ([]byte, error) {
	algorithm, _ := keyring.SigningAlgorithm(in.SigningAlgorithm) // the key has it, or the call had been refused
	if in.MessageType != types.MessageTypeDigest || algorithm.OfMessage() {
		signature, err := k.pair().Sign(ctx, algorithm, in.Message)
		return signature, k.algorithmGap(in.SigningAlgorithm, err)
	}
	signature, err := k.pair().SignDigest(ctx, algorithm, in.Message)
	if errors.Is(err, token.ErrDigestRefused) {
		return nil, apierr.WithCause(apierr.Unsupported("The token cannot sign digests. Use MessageType RAW."), err)
	}
	return signature, k.algorithmGap(in.SigningAlgorithm, err)
}

// algorithmGap is the refusal of an algorithm that the token lacks, with those that it has; err if that is something else.
func (k *key) algorithmGap(name types.SigningAlgorithmSpec, err error) error {
	gap, ok := errors.AsType[*token.GapError](err)
	if !ok {
		return err
	}
	text := fmt.Sprintf("SigningAlgorithm %s is not supported by the token: %v.", name, gap)
	var others []string
	for _, other := range k.pair().Algorithms() {
		if other != name {
			others = append(others, string(other))
		}
	}
	if len(others) > 0 {
		text += " Use " + strings.Join(others, ", ") + "."
	}
	return apierr.WithCause(apierr.Unsupported("%s", text), gap)
}

// Verify checks a signature of Sign, or of whoever else has the key, with the public key: the token is not used. Anything
// but a valid signature is KMSInvalidSignatureException; there is no output with SignatureValid false.
func (c *Client) Verify(ctx context.Context, in *kms.VerifyInput, optFns ...func(*kms.Options)) (*kms.VerifyOutput, error) {
	return perform(ctx, c, ops.Verify, in, optFns, func(_ *Client, in *kms.VerifyInput) (request, error) {
		req := request{keyID: in.KeyId, grantTokens: in.GrantTokens, signing: in.SigningAlgorithm,
			messageType: messageType(in.MessageType), dryRun: aws.ToBool(in.DryRun)}
		return req, checkMessage(in.SigningAlgorithm, in.MessageType, in.Message)
	}, func(
		_ context.Context, c *call, in *kms.VerifyInput, k *key,
	) (*kms.VerifyOutput, error) {
		if err := k.verify(in); err != nil {
			return nil, err
		}
		if c.req.dryRun {
			return nil, apierr.DryRun()
		}
		return &kms.VerifyOutput{KeyId: aws.String(k.ARN), SignatureValid: true, SigningAlgorithm: in.SigningAlgorithm}, nil
	})
}

func (k *key) verify(in *kms.VerifyInput) error {
	algorithm, _ := keyring.SigningAlgorithm(in.SigningAlgorithm) // the key has it, or the call had been refused
	public := k.pair().Public
	verify := public.VerifyMessage
	if in.MessageType == types.MessageTypeDigest && !algorithm.OfMessage() {
		verify = public.Verify
	}
	err := verify(algorithm, in.Message, in.Signature)
	if errors.Is(err, pubkey.ErrInvalid) {
		return apierr.InvalidSignature()
	}
	return err
}

// GetPublicKey returns the public key of a signing key as DER SubjectPublicKeyInfo (RFC 5280), which openssl and most
// libraries read. The key must be enabled. For an HMAC key, which has none: UnsupportedOperationException.
func (c *Client) GetPublicKey(
	ctx context.Context, in *kms.GetPublicKeyInput, optFns ...func(*kms.Options),
) (*kms.GetPublicKeyOutput, error) {
	return perform(ctx, c, ops.GetPublicKey, in, optFns, func(_ *Client, in *kms.GetPublicKeyInput) (request, error) {
		return request{keyID: in.KeyId, grantTokens: in.GrantTokens}, nil
	}, func(
		_ context.Context, _ *call, _ *kms.GetPublicKeyInput, k *key,
	) (*kms.GetPublicKeyOutput, error) {
		pair, ok := k.Material.(*keyring.Pair)
		if !ok {
			return nil, apierr.UnsupportedKind()
		}
		return &kms.GetPublicKeyOutput{
			KeyId:                 aws.String(k.ARN),
			PublicKey:             pair.Public.DER(),
			CustomerMasterKeySpec: types.CustomerMasterKeySpec(k.Record.Spec),
			KeySpec:               types.KeySpec(k.Record.Spec),
			KeyUsage:              types.KeyUsageType(k.Record.Usage),
			SigningAlgorithms:     pair.Algorithms(),
		}, nil
	})
}

// messageType returns the type with its default.
func messageType(kind types.MessageType) types.MessageType {
	if kind == "" {
		return types.MessageTypeRaw
	}
	return kind
}

// typeOf returns the one type of message that an algorithm of Ed25519 takes. The digest for Ed25519ph is its message, and hashed
// again (AWS KMS API reference, Sign).
func typeOf(algorithm pubkey.Algorithm) types.MessageType {
	if algorithm == pubkey.Ed25519phSHA512 {
		return types.MessageTypeDigest
	}
	return types.MessageTypeRaw
}

// checkMessage applies the rules between message, its type and the algorithm. Those of algorithms that no key of this
// service has are left to the refusal of the algorithm.
func checkMessage(name types.SigningAlgorithmSpec, kind types.MessageType, message []byte) error {
	algorithm, ok := keyring.SigningAlgorithm(name)
	switch {
	case !ok:
		return nil
	case kind == types.MessageTypeExternalMu, algorithm.OfMessage() && messageType(kind) != typeOf(algorithm):
		return apierr.Validation("MessageType " + string(messageType(kind)) + " is not valid for algorithm " + string(name) + ".")
	case kind == types.MessageTypeDigest && len(message) != algorithm.Hash.Size():
		return apierr.Validation("Digest is invalid length for algorithm " + string(name) + ".")
	}
	return nil
}
