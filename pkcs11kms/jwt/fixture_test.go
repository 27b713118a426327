package jwt_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

var (
	_ jwt.Client = (*kms.Client)(nil)
	_ jwt.Client = (*pkcs11kms.Client)(nil)
)

// fixture is a KMS on a token of its own, with a client of either kind.
type fixture struct {
	t         *testing.T
	bridge    *pkcs11kms.Bridge
	remote    *kms.Client
	inProcess *pkcs11kms.Client
}

func newFixture(t *testing.T, opts ...kmstest.Option) *fixture {
	t.Helper()
	srv := kmstest.NewServer(t, opts...)
	inProcess, err := srv.Bridge().Client("")
	require.NoError(t, err)
	return &fixture{t, srv.Bridge(), srv.Client(), inProcess.As(srv.Bridge().Root())}
}

// clients are both.
func (f *fixture) clients() map[string]jwt.Client {
	return map[string]jwt.Client{"*kms.Client": f.remote, "*pkcs11kms.Client": f.inProcess}
}

// newKey makes a key of any spec and returns its id.
func (f *fixture) newKey(spec types.KeySpec) string {
	f.t.Helper()
	usage := types.KeyUsageTypeSignVerify
	if spec[:4] == "HMAC" {
		usage = types.KeyUsageTypeGenerateVerifyMac
	}
	out, err := f.remote.CreateKey(f.t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
	require.NoError(f.t, err)
	return *out.KeyMetadata.KeyId
}

// point makes an alias, or moves it, to a key.
func (f *fixture) point(alias, key string) {
	f.t.Helper()
	_, err := f.remote.UpdateAlias(f.t.Context(), &kms.UpdateAliasInput{AliasName: &alias, TargetKeyId: &key})
	var missing *types.NotFoundException
	if errors.As(err, &missing) {
		_, err = f.remote.CreateAlias(f.t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &key})
	}
	require.NoError(f.t, err)
}

func (f *fixture) disable(key string) {
	f.t.Helper()
	_, err := f.remote.DisableKey(f.t.Context(), &kms.DisableKeyInput{KeyId: &key})
	require.NoError(f.t, err)
}

// as returns a client of a new role that may do what the statements of its policy allow.
func (f *fixture) as(role string, statements ...string) *pkcs11kms.Client {
	f.t.Helper()
	name := iam.PrincipalName{Type: keystore.PrincipalRole, Name: role}
	made, err := f.bridge.IAM().As(f.bridge.Root()).CreatePrincipal(f.t.Context(), name, iam.PrincipalOptions{})
	require.NoError(f.t, err)
	policy := `{"Version": "2012-10-17", "Statement": [` + strings.Join(statements, ",") + `]}`
	require.NoError(f.t, f.bridge.IAM().As(f.bridge.Root()).PutPrincipalPolicy(f.t.Context(), name, "tokens", policy))
	caller, err := f.bridge.Caller(f.t.Context(), made.ARN)
	require.NoError(f.t, err)
	return f.inProcess.As(caller)
}

// allow is a statement about one resource; condition is more members of it.
func allow(resource, condition string, actions ...string) string {
	return `{"Effect": "Allow", "Resource": "` + resource + `"` + condition + `, "Action": ["kms:` + strings.Join(actions, `", "kms:`) + `"]}`
}

func (f *fixture) verifier(cfg jwt.VerifierConfig, keyIDs ...string) *jwt.Verifier {
	f.t.Helper()
	if cfg.Client == nil {
		cfg.Client = f.remote
	}
	cfg.KeyIDs = keyIDs
	v, err := jwt.NewVerifier(cfg)
	require.NoError(f.t, err)
	return v
}

// sign makes a token with a key id or an alias. Its times are those of a test's clock, if it has one.
func (f *fixture) sign(keyID string, claims any) string {
	f.t.Helper()
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: keyID, AllowAnyTimes: true})
	require.NoError(f.t, err)
	token, err := signer.Sign(f.t.Context(), claims)
	require.NoError(f.t, err)
	return token
}

// requireInvalid checks a refusal and its reason.
func requireInvalid(t *testing.T, err, reason error) {
	t.Helper()
	require.ErrorIs(t, err, jwt.ErrInvalidToken)
	require.ErrorIs(t, err, reason)
}

// clock is a clock that a test moves.
type clock struct{ now atomic.Int64 } // in nanoseconds since 1970

func newClock() *clock {
	c := &clock{}
	c.now.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) Now() time.Time           { return time.Unix(0, c.now.Load()) }
func (c *clock) pass(d time.Duration)     { c.now.Add(int64(d)) }
func (c *clock) in(d time.Duration) int64 { return c.Now().Add(d).Unix() }

// flaky is a real client whose answers to DescribeKey are counted, and withheld while fault is set.
type flaky struct {
	jwt.Client
	asked atomic.Int32
	fault atomic.Pointer[func() error]
}

func (f *flaky) DescribeKey(ctx context.Context, in *kms.DescribeKeyInput, opts ...func(*kms.Options)) (*kms.DescribeKeyOutput, error) {
	f.asked.Add(1)
	if fault := f.fault.Load(); fault != nil {
		return nil, (*fault)()
	}
	return f.Client.DescribeKey(ctx, in, opts...)
}

func (f *flaky) failBy(fault func() error) { f.fault.Store(&fault) }
func (f *flaky) fail(err error)            { f.failBy(func() error { return err }) }
func (f *flaky) heal()                     { f.fault.Store(nil) }

func arnOf(t *testing.T, c *kms.Client, key string) string {
	t.Helper()
	out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String(key)})
	require.NoError(t, err)
	return *out.KeyMetadata.Arn
}
