package jwt

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// Client is what this package uses of a KMS client. *kms.Client and *pkcs11kms.Client have it.
type Client interface {
	DescribeKey(context.Context, *kms.DescribeKeyInput, ...func(*kms.Options)) (*kms.DescribeKeyOutput, error)
	GenerateMac(context.Context, *kms.GenerateMacInput, ...func(*kms.Options)) (*kms.GenerateMacOutput, error)
	VerifyMac(context.Context, *kms.VerifyMacInput, ...func(*kms.Options)) (*kms.VerifyMacOutput, error)
	Sign(context.Context, *kms.SignInput, ...func(*kms.Options)) (*kms.SignOutput, error)
	Verify(context.Context, *kms.VerifyInput, ...func(*kms.Options)) (*kms.VerifyOutput, error)
	GetPublicKey(context.Context, *kms.GetPublicKeyInput, ...func(*kms.Options)) (*kms.GetPublicKeyOutput, error)
}

// Key is a KMS key and the client that reaches it, which is what golang-jwt's Token.SignedString and Keyfunc take as a key.
// It has a context, since their methods have no parameter for one. A Key is never changed and safe for concurrent use.
type Key struct {
	ctx    context.Context
	client Client // nil: a public key that no KMS was asked for
	id     string
	arn    string
	spec   types.KeySpec
	public *pubkey.Key // nil: signatures are verified by KMS
	only   *Method     // nil: every method that fits the spec
}

// Resolve asks KMS for a key by DescribeKey: keyID is a key id, a key ARN, an alias name or an alias ARN. An alias is
// resolved now: the Key stays the one to which it pointed. The Key signs and verifies with ctx, signatures by KMS.
func Resolve(ctx context.Context, client Client, keyID string) (*Key, error) {
	out, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(keyID)})
	if err != nil {
		return nil, fmt.Errorf("finding the key %q: %w", keyID, err)
	}
	m := out.KeyMetadata
	if m == nil || aws.ToString(m.KeyId) == "" || aws.ToString(m.Arn) == "" {
		return nil, fmt.Errorf("finding the key %q: the answer names none", keyID)
	}
	if _, err := MethodFor(m.KeySpec); err != nil {
		return nil, fmt.Errorf("using the key %q: %w", keyID, err)
	}
	if m.KeyUsage != types.KeyUsageTypeGenerateVerifyMac && m.KeyUsage != types.KeyUsageTypeSignVerify {
		return nil, fmt.Errorf("using the key %q: %w: the key is for %s", keyID, ErrAlgorithm, m.KeyUsage)
	}
	return &Key{ctx: ctx, client: client, id: *m.KeyId, arn: *m.Arn, spec: m.KeySpec}, nil
}

// ID returns the key id, without the ARN around it: what belongs into a token's kid.
func (k *Key) ID() string { return k.id }

// Spec returns the key spec.
func (k *Key) Spec() types.KeySpec { return k.spec }

// WithContext returns the same key for use with another context.
func (k *Key) WithContext(ctx context.Context) *Key {
	other := *k
	other.ctx = ctx
	return &other
}

// allows tells whether a method may be used with the key.
func (k *Key) allows(m *Method) error {
	if k.only != nil && k.only != m || !m.Fits(k.spec) {
		return fmt.Errorf("%w: %s with a key of spec %s", ErrAlgorithm, m.name, k.spec)
	}
	return nil
}

var errNoClient = errors.New("the key is a public one: it verifies, and does not sign")

// withPublicKey returns the key with its public half, so that signatures are verified without KMS.
func (k *Key) withPublicKey(ctx context.Context) (*Key, error) {
	out, err := k.client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: aws.String(k.arn)})
	if err != nil {
		return nil, fmt.Errorf("getting the public key of %q: %w", k.id, err)
	}
	public, err := pubkey.Parse(pairSpecs[k.spec], out.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("getting the public key of %q: %w", k.id, err)
	}
	with := *k
	with.public = public
	return &with, nil
}
