package sigv4_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestClockSkew(t *testing.T) {
	const (
		signed   = "20250102T120000Z"
		minutes5 = 5 * time.Minute
	)
	for _, tt := range []struct {
		name    string
		skew    time.Duration
		now     time.Time
		message string
	}{
		{name: "same second", now: noon},
		{name: "oldest", now: noon.Add(minutes5)},
		{name: "oldest, late in the second", now: noon.Add(minutes5 + 999*time.Millisecond)},
		{name: "too old", now: noon.Add(minutes5 + time.Second),
			message: "Signature expired: " + signed + " is now earlier than 20250102T120001Z (20250102T120501Z - 5 min.)"},
		{name: "latest", now: noon.Add(-minutes5)},
		{name: "too early", now: noon.Add(-minutes5 - time.Second),
			message: "Signature not yet current: " + signed + " is still later than 20250102T115959Z (20250102T115459Z + 5 min.)"},
		{name: "a day later", now: noon.AddDate(0, 0, 1),
			message: "Signature expired: " + signed + " is now earlier than 20250103T115500Z (20250103T120000Z - 5 min.)"},
		{name: "other zone", now: noon.In(time.FixedZone("", 3600)).Add(minutes5)},
		{name: "own skew", skew: 15 * time.Minute, now: noon.Add(15 * time.Minute)},
		{name: "own skew in seconds", skew: 90 * time.Second, now: noon.Add(91 * time.Second),
			message: "Signature expired: " + signed + " is now earlier than 20250102T120001Z (20250102T120131Z - 90 sec.)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, body := signedRequest(t)
			verifier := newVerifier()
			verifier.Skew = tt.skew
			verifier.Now = func() time.Time { return tt.now }
			_, err := verifier.Verify(context.Background(), r, body)
			if tt.message == "" {
				require.NoError(t, err)
				return
			}
			requireRefusal(t, err, sigv4.CodeInvalidSignature, tt.message)
		})
	}
}

// TestDateHeader dates the signature by Date alone. The string to sign holds the basic form nevertheless.
func TestDateHeader(t *testing.T) {
	for _, date := range []string{"Thu, 02 Jan 2025 12:00:00 GMT", "20250102T120000Z"} {
		r, s := newRequest(t, sampleBody), newSigning()
		r.Header.Set("Date", date)
		s.signedHeaders = "host;x-amz-target"
		s.authorize(r)
		_, err := newVerifier().Verify(context.Background(), r, []byte(sampleBody))
		require.NoError(t, err)

		r.Header.Set("Date", "Thu, 02 Jan 2025 12:00:01 GMT")
		_, err = newVerifier().Verify(context.Background(), r, []byte(sampleBody))
		requireRefusal(t, err, sigv4.CodeInvalidSignature, mismatchText)
	}
}

func TestLookupResult(t *testing.T) {
	broken := errors.New("token is gone")
	for _, tt := range []struct {
		name          string
		key           sigv4.Key
		err           error
		code, message string
	}{
		{name: "unknown", err: fmt.Errorf("reading: %w", sigv4.ErrUnknownKey),
			code: sigv4.CodeUnrecognizedClient, message: "The security token included in the request is invalid."},
		{name: "expired", err: sigv4.ErrTokenExpired,
			code: sigv4.CodeExpiredToken, message: "The security token included in the request is expired"},
		{name: "other key", key: sigv4.SigningKey("another secret", "20250102", "us-east-1", "kms"),
			code: sigv4.CodeInvalidSignature, message: mismatchText},
		{name: "broken", err: broken},
		{name: "empty key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, body := signedRequest(t)
			verifier := newVerifier()
			verifier.Lookup = func(context.Context, *sigv4.Claim) (sigv4.Key, string, error) {
				return tt.key, "somebody", tt.err
			}
			who, err := verifier.Verify(context.Background(), r, body)
			assert.Empty(t, who)
			if tt.code != "" {
				requireRefusal(t, err, tt.code, tt.message)
				return
			}
			var refusal *sigv4.Error
			require.Error(t, err)
			assert.False(t, errors.As(err, &refusal), "a fault of the server must not be blamed on the client")
			assert.Equal(t, tt.err != nil, errors.Is(err, broken))
		})
	}
}

type contextKey struct{}

func TestLookupArguments(t *testing.T) {
	r, s := datedRequest(t), newSigning()
	header("X-Amz-Security-Token", "session", "host;x-amz-date;x-amz-security-token;x-amz-target")(r, s)
	s.authorize(r)
	want := sigv4.Claim{AccessKeyID: accessKeyID, Date: "20250102", Region: "us-east-1", Service: "kms",
		SignedHeaders: s.signedHeaders, SessionToken: "session", Time: noon}
	verifier := newVerifier()
	verifier.Lookup = func(ctx context.Context, c *sigv4.Claim) (sigv4.Key, string, error) {
		assert.Equal(t, "here", ctx.Value(contextKey{}))
		assertClaim(t, want, c)
		return lookup(ctx, c)
	}
	_, err := verifier.Verify(context.WithValue(context.Background(), contextKey{}, "here"), r, []byte(sampleBody))
	require.NoError(t, err)

	claim, err := sigv4.Parse(r)
	require.NoError(t, err)
	assertClaim(t, want, claim)
}

func assertClaim(t *testing.T, want sigv4.Claim, got *sigv4.Claim) {
	t.Helper()
	assert.Equal(t, want.AccessKeyID, got.AccessKeyID)
	assert.Equal(t, want.Date, got.Date)
	assert.Equal(t, want.Region, got.Region)
	assert.Equal(t, want.Service, got.Service)
	assert.Equal(t, want.SignedHeaders, got.SignedHeaders)
	assert.Equal(t, want.SessionToken, got.SessionToken)
	assert.True(t, want.Time.Equal(got.Time))
}

func TestConcurrentUse(t *testing.T) {
	verifier := newVerifier()
	r, body := signedRequest(t)
	altered := append([]byte(" "), body...)
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 50 {
				_, err := verifier.Verify(context.Background(), r, body)
				assert.NoError(t, err)
				_, err = verifier.Verify(context.Background(), r, altered)
				assert.Error(t, err)
			}
		})
	}
	running.Wait()
}

// TestRequestUnchanged holds Verify to reading only.
func TestRequestUnchanged(t *testing.T) {
	r, body := signedRequest(t)
	before := r.Clone(context.Background())
	_, err := newVerifier().Verify(context.Background(), r, body)
	require.NoError(t, err)
	assert.True(t, headersEqual(before.Header, r.Header), "headers have changed")
	assert.Equal(t, before.RequestURI, r.RequestURI)
	assert.Equal(t, sampleBody, string(body))
}

func headersEqual(a, b http.Header) bool {
	return len(a) == len(b) && fmt.Sprint(a) == fmt.Sprint(b)
}
