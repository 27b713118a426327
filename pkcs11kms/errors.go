package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/google/uuid"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// Every error of an operation is made in this file. What the SDK models is the SDK's own type; what it does not model
// is a *smithy.GenericAPIError. The texts are the real service's.

func notFound(format string, args ...any) error {
	return &types.NotFoundException{Message: aws.String(fmt.Sprintf(format, args...))}
}

func invalidArn(format string, args ...any) error {
	return &types.InvalidArnException{Message: aws.String(fmt.Sprintf(format, args...))}
}

func disabled(arn string) error {
	return &types.DisabledException{Message: aws.String(arn + " is disabled.")}
}

func invalidState(format string, args ...any) error {
	return &types.KMSInvalidStateException{Message: aws.String(fmt.Sprintf(format, args...))}
}

func aliasNotFound(arn string) error { return notFound("Alias %s is not found.", arn) }

func aliasExists(arn string) error {
	return &types.AlreadyExistsException{Message: aws.String("An alias with the name " + arn + " already exists")}
}

func tagError(text string) error { return &types.TagException{Message: aws.String(text)} }

// notAuthorized is the answer for the reserved alias names. It has no message.
func notAuthorized() error {
	return &smithy.GenericAPIError{Code: "NotAuthorizedException", Fault: smithy.FaultClient}
}

// unsupportedKind is the answer to an operation that the kind of key does not have. It has no message.
func unsupportedKind() error { return &types.UnsupportedOperationException{} }

func invalidKeyUsage(format string, args ...any) error {
	return &types.InvalidKeyUsageException{Message: aws.String(fmt.Sprintf(format, args...))}
}

func unsupported(format string, args ...any) error {
	return &types.UnsupportedOperationException{Message: aws.String(fmt.Sprintf(format, args...))}
}

func malformedPolicy(text string) error {
	return &types.MalformedPolicyDocumentException{Message: aws.String(text)}
}

func limitExceeded(text string) error {
	return &types.LimitExceededException{Message: aws.String(text)}
}

func invalidMarker() error {
	return &types.InvalidMarkerException{Message: aws.String("The marker is not one that this operation returned.")}
}

func invalidGrantToken() error {
	return &types.InvalidGrantTokenException{Message: aws.String("The grant token is not valid.")}
}

// invalidMac has no message: the real service sends none.
func invalidMac() error { return &types.KMSInvalidMacException{} }

// invalidSignature has no message: the real service sends none.
func invalidSignature() error { return &types.KMSInvalidSignatureException{} }

func dryRun() error {
	return &types.DryRunOperationException{
		Message: aws.String("The request would have succeeded, but the DryRun option is set."),
	}
}

func validationError(text string) error {
	return &smithy.GenericAPIError{Code: "ValidationException", Message: text, Fault: smithy.FaultClient}
}

// accessDenied tells which kind of policy was in the way. That a policy denies explicitly is told only to those whom others
// allow: whoever may do nothing with a key gets the same answer whether there is one or not.
func accessDenied(caller Caller, op *operation, resource string, d policy.Decision) error {
	who := caller.arn
	if caller.nobody() {
		who = "anonymous"
	}
	because := "because no identity-based policy allows the " + op.actionName() + " action"
	switch {
	case d.Reason == policy.DeniedByKeyPolicy && d.Otherwise:
		because = "with an explicit deny in a resource-based policy"
	case d.Reason == policy.DeniedByIdentityPolicy && (d.Otherwise || d.ByIdentity):
		because = "with an explicit deny in an identity-based policy"
	case d.Reason == policy.NoKeyPolicyAllow:
		because = "because no resource-based policy allows the " + op.actionName() + " action"
	}
	return &smithy.GenericAPIError{
		Code:    "AccessDeniedException",
		Fault:   smithy.FaultClient,
		Message: fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s %s", who, op.actionName(), resource, because),
	}
}

func throttled() error {
	return &smithy.GenericAPIError{
		Code:    "ThrottlingException",
		Message: "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
		Fault:   smithy.FaultClient,
	}
}

// unavailable is the answer when the token fails: on a key, or on an operation that names none.
func unavailable(arn string) error {
	if arn == "" {
		return &types.DependencyTimeoutException{Message: aws.String("The token is unavailable.")}
	}
	return &types.KeyUnavailableException{Message: aws.String(arn + " is unavailable.")}
}

// serviceUnavailable is the answer when the token fails before it is known who asks: it names nothing.
func serviceUnavailable() error {
	return &smithy.GenericAPIError{
		Code:    "ServiceUnavailableException",
		Message: "The service is temporarily unavailable. Try again.",
		Fault:   smithy.FaultServer,
	}
}

// ErrClosed says that a Client or a MACStream was used after its end: Close, Sum, or the end of its context.
var ErrClosed = errors.New("client or stream is closed")

// causedError is an API error with the reason that only the operator may see: Error prints the API error alone, the
// cause is reached by errors.As and errors.Is.
type causedError struct {
	api   error
	cause error
}

func (e *causedError) Error() string   { return e.api.Error() }
func (e *causedError) Unwrap() []error { return []error{e.api, e.cause} }

// answer turns whatever an operation ended with into what its caller is told. Errors of the API pass; the end of the
// caller's own context stays recognisable; the rest is logged with its cause and told with a fixed text.
func (c *Client) answer(ctx context.Context, op, arn string, err error) error {
	return c.answerLost(ctx, op, arn, unavailable(arn), err)
}

// authenticationFailed is the answer when store or token fail before it is known who asks.
func (b *Bridge) authenticationFailed(ctx context.Context, err error) error {
	return (&Client{bridge: b}).answerLost(ctx, opAuthentication, "", serviceUnavailable(), err)
}

// answerLost is answer, with lost for what a token that does not serve is answered with.
func (c *Client) answerLost(ctx context.Context, op, arn string, lost, err error) error {
	var api smithy.APIError
	if err == nil || errors.As(err, &api) {
		return err
	}
	if errors.Is(err, token.ErrClosed) || errors.Is(err, keystore.ErrClosed) {
		return fmt.Errorf("%s: %w", op, ErrClosed)
	}
	c.bridge.tokenErrors.count(err)
	switch {
	case errors.Is(err, token.ErrBusy):
		return &causedError{throttled(), err}
	case errors.Is(err, keystore.ErrBusy):
		c.log(ctx, op, arn, "the store is busy", err)
		return &causedError{throttled(), err}
	case ctx.Err() != nil:
		return &smithy.CanceledError{Err: ctx.Err()}
	case tokenLost(err), tokenFailed(err) && (arn != "" || op == opAuthentication):
		c.log(ctx, op, arn, "token does not serve the key", err)
		return &causedError{lost, err}
	}
	id := uuid.NewString()
	c.log(ctx, op, arn, "internal error", err, slog.String("error_id", id))
	text := "An internal error occurred. The log of the service has its cause under the id " + id + "."
	return &causedError{&types.KMSInternalException{Message: aws.String(text)}, err}
}

// opAuthentication is what the log calls the making of a signing key.
const opAuthentication = "authentication"

// tokenLost reports whether the token does not answer, or has no such object.
func tokenLost(err error) bool {
	_, hung := errors.AsType[*token.HungError](err)
	return hung || errors.Is(err, token.ErrGone) || errors.Is(err, token.ErrKeyMissing)
}

// tokenFailed reports whether the token's answer is an error of whatever kind. Where a key is used, its object is damaged
// or the device is in trouble: both are the key's being unavailable.
func tokenFailed(err error) bool {
	_, answered := errors.AsType[*token.Error](err)
	return answered || errors.Is(err, token.ErrKeyAmbiguous) || errors.Is(err, token.ErrKeyForeign) || errors.Is(err, token.ErrMalformed)
}

func (c *Client) log(ctx context.Context, op, arn, what string, err error, more ...slog.Attr) {
	attrs := append([]slog.Attr{slog.String("operation", op), slog.String("key", arn), slog.Any("error", err)}, more...)
	c.bridge.log.LogAttrs(ctx, slog.LevelError, what, attrs...)
}
