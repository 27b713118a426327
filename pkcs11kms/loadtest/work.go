package loadtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// Client is what this package uses of a client of the KMS API.
type Client interface {
	DescribeKey(context.Context, *kms.DescribeKeyInput, ...func(*kms.Options)) (*kms.DescribeKeyOutput, error)
	GenerateMac(context.Context, *kms.GenerateMacInput, ...func(*kms.Options)) (*kms.GenerateMacOutput, error)
	VerifyMac(context.Context, *kms.VerifyMacInput, ...func(*kms.Options)) (*kms.VerifyMacOutput, error)
	Sign(context.Context, *kms.SignInput, ...func(*kms.Options)) (*kms.SignOutput, error)
	Verify(context.Context, *kms.VerifyInput, ...func(*kms.Options)) (*kms.VerifyOutput, error)
	GetPublicKey(context.Context, *kms.GetPublicKeyInput, ...func(*kms.Options)) (*kms.GetPublicKeyOutput, error)
}

// The operations that can be measured.
const (
	GenerateMac = "GenerateMac"
	VerifyMac   = "VerifyMac"
	Sign        = "Sign"
	Verify      = "Verify"
)

// operations are those of the keys of a usage, the usual one first.
var operations = map[types.KeyUsageType][]string{
	types.KeyUsageTypeGenerateVerifyMac: {GenerateMac, VerifyMac},
	types.KeyUsageTypeSignVerify:        {Sign, Verify},
}

// Operations are all that can be measured.
func Operations() []string {
	return slices.Concat(operations[types.KeyUsageTypeGenerateVerifyMac], operations[types.KeyUsageTypeSignVerify])
}

// ErrUnfit says that an operation does not go with a key.
var ErrUnfit = errors.New("the key cannot do that")

// OperationOf returns the operation that is measured with a key for the usage: the one asked for, or the usual one.
func OperationOf(usage types.KeyUsageType, asked string) (string, error) {
	fit := operations[usage]
	switch {
	case len(fit) == 0:
		return "", fmt.Errorf("%w: a key for %s does none of %s", ErrUnfit, usage, strings.Join(Operations(), ", "))
	case asked == "":
		return fit[0], nil
	case !slices.Contains(fit, asked):
		return "", fmt.Errorf("%w: a key for %s does %s, not %s", ErrUnfit, usage, strings.Join(fit, " and "), asked)
	}
	return asked, nil
}

// Subject is the key and what is done with it.
type Subject struct {
	KeyID        string // as it was given
	Spec         types.KeySpec
	Operation    string
	Algorithm    string
	MessageBytes int
}

// sampled is of how many signatures one is verified with the public key: that costs more than many a token takes for the signature.
const sampled = 64

// Prepare makes work of an operation with a key, which must be enabled: "" is the usual one of the key. It calls the operation
// once, so that what cannot work is an error before anything is measured.
func Prepare(ctx context.Context, client Client, keyID, operation string, messageBytes int) (Work, Subject, error) {
	s := Subject{KeyID: keyID, MessageBytes: messageBytes}
	out, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &keyID})
	if err != nil {
		return Work{}, s, err
	}
	if out.KeyMetadata == nil {
		return Work{}, s, errors.New("the answer to DescribeKey describes no key")
	}
	s.Spec = out.KeyMetadata.KeySpec
	if s.Operation, err = OperationOf(out.KeyMetadata.KeyUsage, operation); err != nil {
		return Work{}, s, err
	}
	message := make([]byte, messageBytes)
	rand.Read(message) // never fails, see crypto/rand
	var work Work
	if out.KeyMetadata.KeyUsage == types.KeyUsageTypeGenerateVerifyMac {
		work, err = macWork(ctx, client, &s, out.KeyMetadata, message)
	} else {
		work, err = signatureWork(ctx, client, &s, out.KeyMetadata, message)
	}
	if err != nil {
		return Work{}, s, err
	}
	work.Describe = describe
	answer, err := work.Call(ctx)
	if err == nil {
		err = work.Check(answer)
	}
	return work, s, err
}

// macWork makes a MAC, which those of the same message must be equal to.
func macWork(ctx context.Context, client Client, s *Subject, key *types.KeyMetadata, message []byte) (Work, error) {
	if len(key.MacAlgorithms) == 0 {
		return Work{}, fmt.Errorf("%w: it has no MAC algorithm", ErrUnfit)
	}
	algorithm := key.MacAlgorithms[0]
	s.Algorithm = string(algorithm)
	in := &kms.GenerateMacInput{KeyId: &s.KeyID, MacAlgorithm: algorithm, Message: message}
	first, err := client.GenerateMac(ctx, in)
	if err != nil {
		return Work{}, err
	}
	work := Work{
		Call: func(ctx context.Context) ([]byte, error) {
			out, err := client.GenerateMac(ctx, in)
			if err != nil {
				return nil, err
			}
			return out.Mac, nil
		},
		Check: func(mac []byte) error {
			if len(mac) == 0 || !bytes.Equal(mac, first.Mac) {
				return &WrongError{"another MAC of the same message"}
			}
			return nil
		},
	}
	if s.Operation == GenerateMac {
		return work, nil
	}
	toVerify := &kms.VerifyMacInput{KeyId: &s.KeyID, MacAlgorithm: algorithm, Message: message, Mac: first.Mac}
	return verifying("the right MAC does not verify", func(ctx context.Context) (bool, error) {
		out, err := client.VerifyMac(ctx, toVerify)
		if invalid := (*types.KMSInvalidMacException)(nil); errors.As(err, &invalid) {
			return false, nil
		}
		return err == nil && out.MacValid, err
	}), nil
}

// verifying is the work of an operation whose answer is yes or no, and must be yes.
func verifying(wrong string, call func(context.Context) (bool, error)) Work {
	return Work{
		Call: func(ctx context.Context) ([]byte, error) {
			valid, err := call(ctx)
			if err == nil && !valid {
				err = &WrongError{wrong}
			}
			return nil, err
		},
		Check: func([]byte) error { return nil },
	}
}

// signatureWork signs; a sample of the signatures is verified without the token.
func signatureWork(ctx context.Context, client Client, s *Subject, key *types.KeyMetadata, message []byte) (Work, error) {
	if len(key.SigningAlgorithms) == 0 {
		return Work{}, fmt.Errorf("%w: it has no signing algorithm", ErrUnfit)
	}
	name := key.SigningAlgorithms[0]
	s.Algorithm = string(name)
	verify, err := verifier(ctx, client, s, message)
	if err != nil {
		return Work{}, err
	}
	in := &kms.SignInput{KeyId: &s.KeyID, SigningAlgorithm: name, Message: message, MessageType: types.MessageTypeRaw}
	first, err := client.Sign(ctx, in)
	if err != nil {
		return Work{}, err
	}
	if err := verify(first.Signature); err != nil {
		return Work{}, err
	}
	if s.Operation == Verify {
		toVerify := &kms.VerifyInput{KeyId: &s.KeyID, SigningAlgorithm: name, Message: message, MessageType: types.MessageTypeRaw,
			Signature: first.Signature}
		return verifying("the right signature does not verify", func(ctx context.Context) (bool, error) {
			out, err := client.Verify(ctx, toVerify)
			if invalid := (*types.KMSInvalidSignatureException)(nil); errors.As(err, &invalid) {
				return false, nil
			}
			return err == nil && out.SignatureValid, err
		}), nil
	}
	var answers atomic.Uint64
	return Work{
		Call: func(ctx context.Context) ([]byte, error) {
			out, err := client.Sign(ctx, in)
			if err != nil {
				return nil, err
			}
			return out.Signature, nil
		},
		Check: func(signature []byte) error {
			if answers.Add(1)%sampled != 1 {
				return nil
			}
			return verify(signature)
		},
	}, nil
}

// verifier returns what verifies signatures of the message with the public key, without asking anybody.
func verifier(ctx context.Context, client Client, s *Subject, message []byte) (func(signature []byte) error, error) {
	out, err := client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &s.KeyID})
	if err != nil {
		return nil, err
	}
	spec := keyring.SignSpecOf(s.Spec, types.KeyUsageTypeSignVerify)
	algorithm, known := keyring.SigningAlgorithm(types.SigningAlgorithmSpec(s.Algorithm))
	if spec == nil || !known {
		return nil, fmt.Errorf("%w: nothing is known of %s with %s", ErrUnfit, s.Algorithm, s.Spec)
	}
	public, err := pubkey.Parse(spec.Pair, out.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	return func(signature []byte) error {
		if err := public.VerifyMessage(algorithm, message, signature); err != nil {
			return &WrongError{"a signature does not verify with the public key: " + err.Error()}
		}
		return nil
	}, nil
}

// KindThrottled is the kind of refusals for too many calls.
const KindThrottled = "ThrottlingException"

// describe names errors by the code of the API, or else by where they come from. What the SDK puts around them is left out.
func describe(err error) (kind, text string) {
	var api smithy.APIError
	var sent *smithyhttp.RequestSendError
	var sdk *smithy.OperationError
	switch {
	case errors.As(err, &api):
		if errors.As(err, &sdk) {
			return api.ErrorCode(), api.ErrorMessage()
		}
		return api.ErrorCode(), err.Error() // with its cause, which a server keeps to itself
	case errors.Is(err, context.DeadlineExceeded):
		return "DeadlineExceeded", "not answered before the deadline"
	case errors.As(err, &sent):
		return "ConnectionError", sent.Err.Error()
	}
	return "OtherError", err.Error()
}
