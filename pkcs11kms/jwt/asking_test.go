package jwt_test

import (
	"context"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// naming notes how the calls that use a key name it.
type naming struct {
	jwt.Client
	names map[string]string // by operation
}

func (n naming) GenerateMac(ctx context.Context, in *kms.GenerateMacInput, o ...func(*kms.Options)) (*kms.GenerateMacOutput, error) {
	n.names["GenerateMac"] = *in.KeyId
	return n.Client.GenerateMac(ctx, in, o...)
}

func (n naming) VerifyMac(ctx context.Context, in *kms.VerifyMacInput, o ...func(*kms.Options)) (*kms.VerifyMacOutput, error) {
	n.names["VerifyMac"] = *in.KeyId
	return n.Client.VerifyMac(ctx, in, o...)
}

func (n naming) Sign(ctx context.Context, in *kms.SignInput, o ...func(*kms.Options)) (*kms.SignOutput, error) {
	n.names["Sign"] = *in.KeyId
	return n.Client.Sign(ctx, in, o...)
}

func (n naming) Verify(ctx context.Context, in *kms.VerifyInput, o ...func(*kms.Options)) (*kms.VerifyOutput, error) {
	n.names["Verify"] = *in.KeyId
	return n.Client.Verify(ctx, in, o...)
}

func (n naming) GetPublicKey(ctx context.Context, in *kms.GetPublicKeyInput, o ...func(*kms.Options)) (*kms.GetPublicKeyOutput, error) {
	n.names["GetPublicKey"] = *in.KeyId
	return n.Client.GetPublicKey(ctx, in, o...)
}

// TestKeysAreNamedByTheirARN: a key id alone would be looked for in the caller's own account, and the alias may have moved.
func TestKeysAreNamedByTheirARN(t *testing.T) {
	f := newFixture(t)
	for spec, operations := range map[types.KeySpec][]string{"HMAC_256": {"GenerateMac", "VerifyMac"},
		"ECC_NIST_P256": {"Sign", "Verify", "GetPublicKey"}} {
		key := f.newKey(spec)
		alias, arn := "alias/"+string(spec), arnOf(t, f.remote, key)
		f.point(alias, key)
		client := naming{f.remote, map[string]string{}}
		token, err := jwt.Sign(t.Context(), client, alias, map[string]any{})
		require.NoError(t, err)
		for _, ask := range []bool{false, true} {
			require.NoError(t, f.verifier(jwt.VerifierConfig{Client: client, AskKMS: ask}, alias).Verify(t.Context(), token, nil))
		}
		want := map[string]string{}
		for _, operation := range operations {
			want[operation] = arn
		}
		require.Equal(t, want, client.names)
	}
}

// TestRefusalLeavesWhatIsKnown: while KMS allows no key at all, nothing new is learned, and what is known counts on.
func TestRefusalLeavesWhatIsKnown(t *testing.T) {
	f, c := newFixture(t), newClock()
	client := &flaky{Client: f.remote}
	key, other := f.newKey("ECC_NIST_P256"), f.newKey("ECC_NIST_P256")
	v := f.verifier(jwt.VerifierConfig{Client: client, Now: c.Now}, key)
	own, foreign := f.sign(key, map[string]any{}), f.sign(other, map[string]any{})
	require.NoError(t, v.Verify(t.Context(), own, nil))
	client.fail(&smithy.GenericAPIError{Code: "AccessDeniedException"})
	c.pass(10 * time.Second)
	err := v.Verify(t.Context(), foreign, nil)
	requireDenied(t, err)
	require.NotErrorIs(t, err, jwt.ErrInvalidToken)
	require.NoError(t, v.Verify(t.Context(), own, nil))
}

// TestWaitForTheKeysEndsWithTheContext: while KMS does not answer another caller, one can give up waiting for the same answer.
func TestWaitForTheKeysEndsWithTheContext(t *testing.T) {
	f := newFixture(t)
	client := &flaky{Client: f.remote}
	key := f.newKey("HMAC_256")
	v := f.verifier(jwt.VerifierConfig{Client: client}, key)
	token := f.sign(key, map[string]any{})
	asked, answer := make(chan struct{}), make(chan struct{})
	client.failBy(func() error {
		close(asked)
		<-answer
		return context.DeadlineExceeded
	})
	first := make(chan error, 1)
	go func() { first <- v.Verify(context.Background(), token, nil) }()
	<-asked
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	second := make(chan error, 1)
	go func() { second <- v.Verify(ended, token, nil) }()
	select {
	case err := <-second:
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, jwt.ErrInvalidToken)
	case <-time.After(30 * time.Second):
		require.Fail(t, "the caller waits on")
	}
	close(answer)
	require.ErrorIs(t, <-first, context.DeadlineExceeded)
}
