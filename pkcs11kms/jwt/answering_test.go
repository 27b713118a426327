package jwt_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// slow is a client to which DescribeKey answers late, by a test's clock.
type slow struct {
	flaky
	clock *clock
	takes time.Duration
}

func (s *slow) DescribeKey(ctx context.Context, in *kms.DescribeKeyInput, opts ...func(*kms.Options)) (*kms.DescribeKeyOutput, error) {
	out, err := s.flaky.DescribeKey(ctx, in, opts...)
	s.clock.pass(s.takes)
	return out, err
}

// TestAnswersCountFromWhenTheyWereAskedFor: what KMS said may have changed while the answer was on its way.
func TestAnswersCountFromWhenTheyWereAskedFor(t *testing.T) {
	f, c := newFixture(t), newClock()
	client := &slow{flaky: flaky{Client: f.remote}, clock: c, takes: 30 * time.Second}
	key := f.newKey("HMAC_256")
	token := f.sign(key, map[string]any{})
	v := f.verifier(jwt.VerifierConfig{Client: client, Now: c.Now, MaxAge: time.Minute}, key)
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: client, KeyID: key, Now: c.Now, MaxAge: time.Minute})
	require.NoError(t, err)
	for name, call := range map[string]func() error{
		"Verifier": func() error { return v.Verify(t.Context(), token, nil) },
		"Signer":   func() error { _, err := signer.Sign(t.Context(), map[string]any{}); return err },
	} {
		asked := client.asked.Load()
		for i, want := range []int32{1, 1, 2} {
			require.NoError(t, call())
			require.Equal(t, asked+want, client.asked.Load(), "%s, call %d", name, i)
			if i == 0 {
				c.pass(29 * time.Second)
			} else {
				c.pass(time.Second)
			}
		}
	}
}

// incomplete is a KMS that answers without what an answer must have.
type incomplete struct {
	jwt.Client
	take func(*kms.DescribeKeyOutput)
}

func (i incomplete) DescribeKey(ctx context.Context, in *kms.DescribeKeyInput, opts ...func(*kms.Options)) (*kms.DescribeKeyOutput, error) {
	out, err := i.Client.DescribeKey(ctx, in, opts...)
	if err == nil {
		i.take(out)
	}
	return out, err
}

// GetPublicKey answers with something else.
func (i incomplete) GetPublicKey(ctx context.Context, in *kms.GetPublicKeyInput,
	opts ...func(*kms.Options)) (*kms.GetPublicKeyOutput, error) {
	out, err := i.Client.GetPublicKey(ctx, in, opts...)
	if err == nil {
		out.PublicKey = []byte("no key")
	}
	return out, err
}

// TestAnswersThatNameNoKey: an answer that lacks the key, its id or its ARN is an error, and so is a public key that is none.
func TestAnswersThatNameNoKey(t *testing.T) {
	f := newFixture(t)
	key := f.newKey("ECC_NIST_P256")
	for name, take := range map[string]func(*kms.DescribeKeyOutput){
		"metadata": func(out *kms.DescribeKeyOutput) { out.KeyMetadata = nil },
		"id":       func(out *kms.DescribeKeyOutput) { out.KeyMetadata.KeyId = nil },
		"ARN":      func(out *kms.DescribeKeyOutput) { out.KeyMetadata.Arn = nil },
	} {
		_, err := jwt.Resolve(t.Context(), incomplete{f.remote, take}, key)
		require.ErrorContains(t, err, "the answer names none", name)
	}
	garbled := incomplete{f.remote, func(*kms.DescribeKeyOutput) {}}
	_, err := jwt.PublicKeySet(t.Context(), garbled, key)
	require.ErrorContains(t, err, "getting the public key")
	err = f.verifier(jwt.VerifierConfig{Client: garbled}, key).Verify(t.Context(), f.sign(key, map[string]any{}), nil)
	require.ErrorContains(t, err, "getting the public key")
	require.NotErrorIs(t, err, jwt.ErrInvalidToken, "the token was not examined")
}

// TestKeyThatIsToBeDeleted: its tokens verify no more where KMS is asked, which is no failure of KMS; and a producer looks where
// its alias has moved.
func TestKeyThatIsToBeDeleted(t *testing.T) {
	f := newFixture(t)
	for _, spec := range []types.KeySpec{"HMAC_256", "ECC_NIST_P256"} {
		key, next := f.newKey(spec), f.newKey(spec)
		alias := "alias/" + string(spec)
		f.point(alias, key)
		signer, err := jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: alias})
		require.NoError(t, err)
		token, err := signer.Sign(t.Context(), map[string]any{})
		require.NoError(t, err)
		v := f.verifier(jwt.VerifierConfig{AskKMS: true}, key)
		require.NoError(t, v.Verify(t.Context(), token, nil))
		f.point(alias, next)
		_, err = f.remote.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: &key})
		require.NoError(t, err)
		requireInvalid(t, v.Verify(t.Context(), token, nil), jwt.ErrUnknownKey)
		token, err = signer.Sign(t.Context(), map[string]any{})
		require.NoError(t, err)
		require.Equal(t, next, headerOf(t, token)["kid"])
	}
}

// failing is a KMS that makes no MAC.
type failing struct {
	flaky
	err  error
	macs int
}

func (f *failing) GenerateMac(ctx context.Context, in *kms.GenerateMacInput, opts ...func(*kms.Options)) (*kms.GenerateMacOutput, error) {
	f.macs++
	if f.err != nil {
		return nil, f.err
	}
	return f.Client.GenerateMac(ctx, in, opts...)
}

// TestFailureToSignIsNotRepeated: it is no reason to ask for the key again, or to sign twice.
func TestFailureToSignIsNotRepeated(t *testing.T) {
	f := newFixture(t)
	client := &failing{flaky: flaky{Client: f.remote}}
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: client, KeyID: f.newKey("HMAC_256")})
	require.NoError(t, err)
	_, err = signer.Sign(t.Context(), map[string]any{})
	require.NoError(t, err)
	client.err = errors.New("no route")
	_, err = signer.Sign(t.Context(), map[string]any{})
	require.ErrorIs(t, err, client.err)
	require.Equal(t, 2, client.macs)
	require.EqualValues(t, 1, client.asked.Load())
}
