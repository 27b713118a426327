package jwt

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	gojwt "github.com/golang-jwt/jwt/v5"
)

// maxMessage is the longest Message of GenerateMac, VerifyMac, Sign and Verify, in bytes.
const maxMessage = 4096

// whole is what is signed, as far as KMS takes it. There is no other way for a MAC and for Ed25519 than to send all of it: those of
// a digest are others.
func (m *Method) whole(input string) ([]byte, error) {
	if len(input) > maxMessage {
		return nil, fmt.Errorf("%w: header and claims are %d bytes in base64url, and KMS takes at most %d for %s; "+
			"RSA and ECDSA have no such limit", ErrTooLong, len(input), maxMessage, m.name)
	}
	return []byte(input), nil
}

func (m *Method) makeMAC(ctx context.Context, k *Key, input string) ([]byte, error) {
	message, err := m.whole(input)
	if err != nil {
		return nil, err
	}
	out, err := k.client.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: aws.String(k.arn), MacAlgorithm: m.mac, Message: message})
	if err != nil {
		return nil, fmt.Errorf("making the MAC of a token: %w", err)
	}
	return out.Mac, nil
}

func (m *Method) verifyMAC(ctx context.Context, k *Key, input string, mac []byte) error {
	message, err := m.whole(input)
	if err != nil {
		return err
	}
	if len(mac) != m.macHash.Size() {
		return gojwt.ErrTokenSignatureInvalid // KMS would take an empty one for a malformed request
	}
	out, err := k.client.VerifyMac(ctx, &kms.VerifyMacInput{KeyId: aws.String(k.arn), MacAlgorithm: m.mac, Message: message, Mac: mac})
	var mismatch *types.KMSInvalidMacException
	switch {
	case errors.As(err, &mismatch), err == nil && !out.MacValid:
		return gojwt.ErrTokenSignatureInvalid
	case err != nil:
		return fmt.Errorf("verifying the MAC of a token: %w", err)
	}
	return nil
}

// message is what Sign and Verify are given: the token itself, or its digest when it is longer than they take.
func (m *Method) message(input string) ([]byte, types.MessageType, error) {
	if len(input) <= maxMessage || m.algorithm.OfMessage() {
		message, err := m.whole(input)
		return message, types.MessageTypeRaw, err
	}
	return m.algorithm.Digest([]byte(input)), types.MessageTypeDigest, nil
}

func (m *Method) sign(ctx context.Context, k *Key, input string) ([]byte, error) {
	if k.client == nil {
		return nil, errNoClient
	}
	message, kind, err := m.message(input)
	if err != nil {
		return nil, err
	}
	out, err := k.client.Sign(ctx, &kms.SignInput{KeyId: aws.String(k.arn), SigningAlgorithm: m.signing, Message: message, MessageType: kind})
	if err != nil {
		return nil, fmt.Errorf("signing a token: %w", err)
	}
	if width := m.width(k); width > 0 {
		return toJOSE(out.Signature, width)
	}
	return out.Signature, nil
}

// verifyHere verifies with the public key.
func (m *Method) verifyHere(k *Key, input string, signature []byte) error {
	signature, err := m.fromJOSE(k, signature)
	if err != nil {
		return err
	}
	if err := k.public.VerifyMessage(m.algorithm, []byte(input), signature); err != nil {
		return gojwt.ErrTokenSignatureInvalid
	}
	return nil
}

// verifyThere has KMS verify.
func (m *Method) verifyThere(ctx context.Context, k *Key, input string, signature []byte) error {
	signature, err := m.fromJOSE(k, signature)
	if err != nil {
		return err
	}
	message, kind, err := m.message(input)
	if err != nil {
		return err
	}
	out, err := k.client.Verify(ctx, &kms.VerifyInput{KeyId: aws.String(k.arn), SigningAlgorithm: m.signing,
		Message: message, MessageType: kind, Signature: signature})
	var mismatch *types.KMSInvalidSignatureException
	switch {
	case errors.As(err, &mismatch), err == nil && !out.SignatureValid:
		return gojwt.ErrTokenSignatureInvalid
	case err != nil:
		return fmt.Errorf("verifying the signature of a token: %w", err)
	}
	return nil
}

// width is the length of r and of s in a JOSE signature, 0 for others than ECDSA.
func (m *Method) width(k *Key) int { return pairSpecs[k.spec].FieldBytes() }

// fromJOSE returns the signature in the form that KMS has. What cannot be a signature of the key is an invalid one.
func (m *Method) fromJOSE(k *Key, signature []byte) ([]byte, error) {
	pair := pairSpecs[k.spec]
	switch width := m.width(k); {
	case width > 0 && len(signature) == 2*width:
		return fromJOSE(signature), nil
	case pair.RSABits() > 0 && len(signature) == pair.RSABits()/8:
		return signature, nil
	case pair.Edwards() && len(signature) == ed25519.SignatureSize:
		return signature, nil
	}
	return nil, gojwt.ErrTokenSignatureInvalid
}
