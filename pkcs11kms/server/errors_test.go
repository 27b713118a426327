package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

func TestAnswerTo(t *testing.T) {
	secret := errors.New("cause with a path /var/lib/x")
	const internal = "An internal error occurred."
	cases := []struct {
		err  error
		want answer
	}{
		{&types.NotFoundException{Message: aws.String("text")}, answer{400, "NotFoundException", "text"}}, // 404 in the model
		{&types.DisabledException{Message: aws.String("text")}, answer{400, "DisabledException", "text"}}, // 409 in the model
		{&types.DryRunOperationException{Message: aws.String("text")}, answer{400, "DryRunOperationException", "text"}},
		{&types.KMSInvalidStateException{Message: aws.String("text")}, answer{400, "KMSInvalidStateException", "text"}},
		{&types.KMSInvalidMacException{}, answer{400, "KMSInvalidMacException", ""}},
		{&types.KMSInvalidMacException{Message: aws.String("")}, answer{400, "KMSInvalidMacException", ""}},
		{&types.KeyUnavailableException{Message: aws.String("text")}, answer{500, "KeyUnavailableException", "text"}},
		{&types.DependencyTimeoutException{Message: aws.String("text")}, answer{500, "DependencyTimeoutException", "text"}}, // 503 in the model
		{&types.KMSInternalException{Message: aws.String("text")}, answer{500, "KMSInternalException", "text"}},
		{fmt.Errorf("wrapped: %w", &types.AlreadyExistsException{Message: aws.String("text")}), answer{400, "AlreadyExistsException", "text"}},
		{errors.Join(&types.NotFoundException{Message: aws.String("text")}, secret), answer{400, "NotFoundException", "text"}},
		{&smithy.GenericAPIError{Code: "ThrottlingException", Message: "text", Fault: smithy.FaultClient},
			answer{400, "ThrottlingException", "text"}},
		{&smithy.GenericAPIError{Code: "AnyException", Message: "text"}, answer{400, "AnyException", "text"}},
		{&smithy.GenericAPIError{Code: "AnyException", Message: "text", Fault: smithy.FaultServer}, answer{500, "AnyException", "text"}},
		{&sigv4.Error{Code: sigv4.CodeExpiredToken, Message: "text"}, answer{400, "ExpiredTokenException", "text"}},
		{fmt.Errorf("wrapped: %w", errTooLarge), answer{413, "RequestEntityTooLargeException", errTooLarge.Message}},
		{errShortBody, answer{400, "SerializationException", errShortBody.Message}},
		{errUnknownOperation, answer{400, "UnknownOperationException", ""}},
		{secret, answer{500, "KMSInternalException", internal}},
		{fmt.Errorf("wrapped: %w", &fs.PathError{Op: "open", Path: "/var/lib/x", Err: secret}), answer{500, "KMSInternalException", internal}},
		{keystore.ErrConflict, answer{500, "KMSInternalException", internal}},
		{iam.ErrUnknownAccessKey, answer{500, "KMSInternalException", internal}},
		{errPanic, answer{500, "KMSInternalException", internal}},
		{&smithy.CanceledError{Err: context.DeadlineExceeded}, answer{500, "DependencyTimeoutException", "The operation did not end in time."}},
		{fmt.Errorf("wrapped: %w", context.DeadlineExceeded), answer{500, "DependencyTimeoutException", "The operation did not end in time."}},
		{&smithy.CanceledError{Err: context.Canceled}, answer{499, "RequestCanceled", "The client went away."}},
	}
	for _, tc := range cases {
		require.Equal(t, tc.want, answerTo(tc.err), "%v", tc.err)
		require.NotContains(t, string(keyManagement.codec.failure(answerTo(tc.err), "")), "/var/lib")
	}
}

func TestErrorBody(t *testing.T) {
	require.Equal(t, `{"__type":"KMSInvalidMacException"}`, string(keyManagement.codec.failure(answer{code: "KMSInvalidMacException"}, "")))
	require.Equal(t, `{"__type":"A","message":"<\"é\">"}`, string(keyManagement.codec.failure(answer{code: "A", message: `<"é">`}, "")))
}

// internalError is a pattern of what is said of an error that the API does not know.
const internalError = `{"__type":"KMSInternalException","message":"An internal error occurred. ` +
	`The log of the service has its cause under the id {{uuid}}."}`

// The text of an error that the API does not know stays in the process; the log has it.
func TestInternalErrorsTellNothing(t *testing.T) {
	broken := &faultyStore{}
	f := newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) {
		broken.Store = cfg.Store
		cfg.Store = broken
	})
	r := f.run(t, Listen{})
	require.Equal(t, http.StatusOK, f.send(t, f.request(t, r.url, "ListKeys", "{}")).StatusCode)
	broken.fail(errors.New("disk I/O error at /var/lib/x"))
	got := f.send(t, f.request(t, r.url, "ListKeys", "{}"))
	require.Equal(t, 500, got.StatusCode)
	require.Regexp(t, pattern(internalError), got.body)
	requireCommonHeaders(t, got)
	require.Eventually(t, func() bool { return len(f.log.requests()) == 2 }, patience, 1e6)
	line := f.log.requests()[1]
	require.Contains(t, line, `"level":"ERROR"`)
	require.Contains(t, line, "disk I/O error at /var/lib/x")
	require.Contains(t, line, got.Header.Get("X-Amzn-Requestid"))

	// Before the signature is checked: the access key cannot be read.
	other := f.request(t, r.url, "ListKeys", "{}")
	other.Header.Set("Authorization", replaceKeyID(other.Header.Get("Authorization"), f.key.ID))
	got = f.send(t, other)
	require.Regexp(t, pattern(internalError), got.body)
	require.Equal(t, 500, got.StatusCode)
}

// A panic ends one request, not the connection and not the process.
func TestPanicIsAnswered(t *testing.T) {
	broken := &faultyStore{}
	f := newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) {
		broken.Store = cfg.Store
		cfg.Store = broken
	})
	r := f.run(t, Listen{})
	broken.hook(func() { panic("do not log me") })
	got := f.send(t, f.request(t, r.url, "ListKeys", "{}"))
	require.Equal(t, `{"__type":"KMSInternalException","message":"An internal error occurred."}`, got.body)
	require.Equal(t, 500, got.StatusCode)
	broken.hook(nil)
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "ListKeys", "{}")).StatusCode)
	require.Eventually(t, func() bool { return strings.Contains(f.log.String(), `"msg":"panic"`) }, patience, 1e6) // after the answer
	require.Contains(t, f.log.String(), "faultyStore")
	require.NotContains(t, f.log.String(), "do not log me")
}

// Whoever asks too often is told in the words that every SDK takes for a reason to wait.
func TestThrottlingIsAnswered(t *testing.T) {
	const burst = 5 // of UntagResource in a second
	f := newFixture(t, func(cfg *pkcs11kms.Config, _ *Options) {
		now := time.Now()
		cfg.Quotas.NoRates, cfg.Now = false, func() time.Time { return now }
	})
	r := f.run(t, Listen{})
	key := f.mustCreate(t, types.KeySpecHmac256)
	body := `{"KeyId":"` + *key.KeyId + `","TagKeys":["a"]}`
	for range burst {
		require.Equal(t, 200, f.send(t, f.request(t, r.url, "UntagResource", body)).StatusCode)
	}
	got := f.send(t, f.request(t, r.url, "UntagResource", body))
	require.Equal(t, `{"__type":"ThrottlingException","message":"You have exceeded the rate at which you may call KMS. `+
		`Reduce the frequency of your calls."}`, got.body)
	require.Equal(t, 400, got.StatusCode)
	requireCommonHeaders(t, got)
	require.Equal(t, 200, f.send(t, f.request(t, r.url, "ListKeys", "{}")).StatusCode, "the rate of another operation")
}
