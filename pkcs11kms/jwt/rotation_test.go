package jwt_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	gojwt "github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// TestRotation moves an alias from one key to another, with a producer and a consumer that run all the time.
func TestRotation(t *testing.T) {
	f, c := newFixture(t), newClock()
	client := &flaky{Client: f.remote}
	old, next := f.newKey("HMAC_256"), f.newKey("HMAC_256")
	f.point("alias/tokens", old)
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: "alias/tokens", Now: c.Now})
	require.NoError(t, err)
	v := f.verifier(jwt.VerifierConfig{Client: client, Now: c.Now}, "alias/tokens", "alias/tokens-previous")
	sign := func() string {
		token, err := signer.Sign(t.Context(), map[string]any{"sub": "alice"})
		require.NoError(t, err)
		return token
	}

	before := sign()
	require.NoError(t, v.Verify(t.Context(), before, nil), "an alias that is not there yet does not matter")
	f.point("alias/tokens-previous", old)
	f.point("alias/tokens", next)
	require.Equal(t, old, headerOf(t, sign())["kid"], "within a minute the producer may use the key it knows")
	require.NoError(t, v.Verify(t.Context(), sign(), nil))
	c.pass(time.Minute)
	after := sign()
	require.Equal(t, next, headerOf(t, after)["kid"])
	require.NoError(t, v.Verify(t.Context(), after, nil), "an unknown kid makes the consumer look")
	require.NoError(t, v.Verify(t.Context(), before, nil), "signed before the rotation")

	// The end of the old key: at once where KMS is asked, which is so for MACs.
	f.disable(old)
	err = v.Verify(t.Context(), before, nil)
	requireInvalid(t, err, jwt.ErrUnknownKey)
	var disabled *types.DisabledException
	require.ErrorAs(t, err, &disabled)
	require.NoError(t, v.Verify(t.Context(), after, nil))
	c.pass(5 * time.Minute)
	requireInvalid(t, v.Verify(t.Context(), before, nil), jwt.ErrUnknownKey)
	require.NoError(t, v.Verify(t.Context(), after, nil))

	// And a producer whose key was disabled under it looks again.
	third := f.newKey("HMAC_256")
	sign()
	f.point("alias/tokens", third)
	f.disable(next)
	require.Equal(t, third, headerOf(t, sign())["kid"])
	f.disable(third)
	_, err = signer.Sign(t.Context(), map[string]any{})
	require.ErrorAs(t, err, &disabled)
}

// TestUnknownKidsDoNotFlood: whoever sends tokens cannot make the verifier ask KMS each time.
func TestUnknownKidsDoNotFlood(t *testing.T) {
	f, c := newFixture(t), newClock()
	client := &flaky{Client: f.remote}
	key, other := f.newKey("HMAC_256"), f.newKey("HMAC_256")
	v := f.verifier(jwt.VerifierConfig{Client: client, Now: c.Now}, key)
	foreign, own := f.sign(other, map[string]any{}), f.sign(key, map[string]any{})
	requireInvalid(t, v.Verify(t.Context(), f.resign(key, `{"alg":"HS256"}`, `{}`), nil), jwt.ErrUnknownKey)
	require.Zero(t, client.asked.Load(), "KMS is not asked about a token without a kid")
	for range 20 {
		requireInvalid(t, v.Verify(t.Context(), foreign, nil), jwt.ErrUnknownKey)
	}
	require.EqualValues(t, 1, client.asked.Load())
	c.pass(10 * time.Second)
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			assert.ErrorIs(t, v.Verify(t.Context(), foreign, nil), jwt.ErrUnknownKey)
			assert.NoError(t, v.Verify(t.Context(), own, nil))
		})
	}
	wait.Wait()
	require.EqualValues(t, 2, client.asked.Load())
}

// TestUnreachable: that KMS does not answer is no verdict on a token, and what is known counts for MaxAge and no longer.
func TestUnreachable(t *testing.T) {
	f, c := newFixture(t), newClock()
	client := &flaky{Client: f.remote}
	key, other := f.newKey("HMAC_256"), f.newKey("HMAC_256")
	own, foreign := f.sign(key, map[string]any{}), f.sign(other, map[string]any{})
	v := f.verifier(jwt.VerifierConfig{Client: client, Now: c.Now, MaxAge: time.Hour}, key)
	down := errors.New("no route")
	requireDown := func(err error) {
		t.Helper()
		require.ErrorIs(t, err, down)
		require.NotErrorIs(t, err, jwt.ErrInvalidToken)
	}
	client.fail(down)
	requireDown(v.Verify(t.Context(), own, nil))
	client.heal()
	require.NoError(t, v.Verify(t.Context(), own, nil))
	requireInvalid(t, v.Verify(t.Context(), foreign, nil), jwt.ErrUnknownKey) // KMS was reached
	client.fail(down)
	require.NoError(t, v.Verify(t.Context(), own, nil))
	c.pass(time.Minute)
	asked := client.asked.Load()
	for range 20 {
		requireDown(v.Verify(t.Context(), foreign, nil)) // it may be a new key's
	}
	require.Equal(t, asked+1, client.asked.Load())
	require.NoError(t, v.Verify(t.Context(), own, nil))
	c.pass(time.Minute)
	ended, cancel := context.WithCancel(t.Context())
	client.failBy(func() error { cancel(); return ended.Err() })
	require.ErrorIs(t, v.Verify(ended, foreign, nil), context.Canceled)
	err := v.Verify(t.Context(), foreign, nil)
	require.NotErrorIs(t, err, jwt.ErrInvalidToken)
	require.NotErrorIs(t, err, context.Canceled, "which is not this call's")
	client.fail(down)
	c.pass(time.Hour)
	requireDown(v.Verify(t.Context(), own, nil))
	c.pass(-2 * time.Hour) // a clock that was wrong
	requireDown(v.Verify(t.Context(), own, nil))
	client.heal()
	require.NoError(t, v.Verify(t.Context(), own, nil))

	err = v.Verify(ended, own, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, jwt.ErrInvalidToken)
}

// encrypting is a KMS whose keys are for encryption, which ours does not have.
type encrypting struct{ jwt.Client }

func (e encrypting) DescribeKey(ctx context.Context, in *kms.DescribeKeyInput, opts ...func(*kms.Options)) (*kms.DescribeKeyOutput, error) {
	out, err := e.Client.DescribeKey(ctx, in, opts...)
	if err == nil {
		out.KeyMetadata.KeyUsage = types.KeyUsageTypeEncryptDecrypt
	}
	return out, err
}

// TestKeysThatAreNone: what the verifier was told is looked at when it is used, and what no token can have is an error.
func TestKeysThatAreNone(t *testing.T) {
	f := newFixture(t)
	key, short := f.newKey("HMAC_256"), f.newKey("HMAC_224")
	token := f.sign(key, map[string]any{})
	require.ErrorIs(t, f.verifier(jwt.VerifierConfig{}, key, short).Verify(t.Context(), token, nil), jwt.ErrAlgorithm)
	_, err := jwt.Resolve(t.Context(), encrypting{f.remote}, f.newKey("RSA_2048"))
	require.ErrorIs(t, err, jwt.ErrAlgorithm)
	err = f.verifier(jwt.VerifierConfig{}, "alias/gone").Verify(t.Context(), token, nil)
	requireInvalid(t, err, jwt.ErrUnknownKey)
	require.ErrorContains(t, err, "alias/gone")
	for _, cfg := range []jwt.VerifierConfig{{}, {Client: f.remote}, {KeyIDs: []string{key}}} {
		_, err := jwt.NewVerifier(cfg)
		require.ErrorContains(t, err, "are required")
	}
	for _, cfg := range []jwt.SignerConfig{{}, {Client: f.remote}, {KeyID: key}} {
		_, err := jwt.NewSigner(cfg)
		require.ErrorContains(t, err, "are required")
	}
	for _, reserved := range []string{"kid", "alg", "crit", "b64", "Alg", "KID", "Crit", "B64"} {
		_, err := jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: key, Header: map[string]any{reserved: "none"}})
		require.ErrorContains(t, err, "the header's "+reserved+" is not for the caller to set")
	}
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: key, Method: jwt.HS512})
	require.NoError(t, err)
	_, err = signer.Sign(t.Context(), map[string]any{})
	require.ErrorIs(t, err, jwt.ErrAlgorithm)
	signer, err = jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: key, Header: map[string]any{"x": make(chan int)}})
	require.NoError(t, err)
	_, err = signer.Sign(t.Context(), map[string]any{})
	require.ErrorContains(t, err, "writing the header")
	signer, err = jwt.NewSigner(jwt.SignerConfig{Client: f.remote, KeyID: key, Header: map[string]any{"typ": "at+jwt", "x": 5}})
	require.NoError(t, err)
	token, err = signer.Sign(t.Context(), map[string]any{})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"alg": "HS256", "kid": key, "typ": "at+jwt", "x": 5.0}, headerOf(t, token))
}

// TestGolangJWT: the methods in golang-jwt's own calls.
func TestGolangJWT(t *testing.T) {
	f := newFixture(t)
	id := f.newKey("HMAC_256")
	f.point("alias/tokens", id)
	key, err := jwt.Resolve(t.Context(), f.remote, "alias/tokens")
	require.NoError(t, err)
	require.Equal(t, id, key.ID())
	require.Equal(t, types.KeySpecHmac256, key.Spec())
	made := gojwt.NewWithClaims(jwt.HS256, gojwt.RegisteredClaims{Subject: "alice"})
	made.Header["kid"] = key.ID()
	token, err := made.SignedString(key)
	require.NoError(t, err)

	keyfunc := f.verifier(jwt.VerifierConfig{}, id).Keyfunc(t.Context())
	parsed, err := gojwt.ParseWithClaims(token, &gojwt.RegisteredClaims{}, keyfunc)
	require.NoError(t, err)
	require.True(t, parsed.Valid)
	subject, err := parsed.Claims.GetSubject()
	require.NoError(t, err)
	require.Equal(t, "alice", subject)
	_, err = gojwt.Parse(f.sign(f.newKey("HMAC_256"), map[string]any{}), keyfunc)
	require.ErrorIs(t, err, jwt.ErrUnknownKey)
	_, err = gojwt.Parse(f.resign(id, `{"alg":"HS256","kid":"`+id+`"}`, `{"exp":0}`), keyfunc)
	require.ErrorIs(t, err, gojwt.ErrTokenMalformed)
	_, err = gojwt.Parse(forge(`{"alg":"HS256","kid":"`+id+`"}`, `{}`, []byte("guessed, not known")), keyfunc)
	require.ErrorIs(t, err, gojwt.ErrTokenSignatureInvalid)
	_, err = gojwt.Parse(forge(`{"alg":"none","kid":"`+id+`"}`, `{}`, nil), keyfunc)
	require.ErrorIs(t, err, jwt.ErrAlgorithm)

	for _, wrong := range []any{nil, (*jwt.Key)(nil), []byte("secret"), gojwt.UnsafeAllowNoneSignatureType} {
		_, err := made.SignedString(wrong)
		require.ErrorIs(t, err, gojwt.ErrInvalidKeyType)
		require.ErrorIs(t, jwt.HS256.Verify("x", nil, wrong), gojwt.ErrInvalidKeyType)
	}
	_, err = gojwt.NewWithClaims(jwt.RS256, gojwt.MapClaims{}).SignedString(key)
	require.ErrorIs(t, err, jwt.ErrAlgorithm)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = made.SignedString(key.WithContext(ended))
	require.ErrorIs(t, err, context.Canceled)
}
