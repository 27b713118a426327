// Package apierr makes the errors of the operations of AWS KMS. What the SDK models is the SDK's own type; what it does not model is
// a *smithy.GenericAPIError. The texts are the real service's.
package apierr

import (
	"cmp"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

func NotFound(format string, args ...any) error {
	return &types.NotFoundException{Message: aws.String(fmt.Sprintf(format, args...))}
}

func InvalidArn(format string, args ...any) error {
	return &types.InvalidArnException{Message: aws.String(fmt.Sprintf(format, args...))}
}

func Disabled(arn string) error {
	return &types.DisabledException{Message: aws.String(arn + " is disabled.")}
}

func InvalidState(format string, args ...any) error {
	return &types.KMSInvalidStateException{Message: aws.String(fmt.Sprintf(format, args...))}
}

func AliasNotFound(arn string) error { return NotFound("Alias %s is not found.", arn) }

func AliasExists(arn string) error {
	return &types.AlreadyExistsException{Message: aws.String("An alias with the name " + arn + " already exists")}
}

func Tag(text string) error { return &types.TagException{Message: aws.String(text)} }

// NotAuthorized is the answer for the reserved alias names. It has no message.
func NotAuthorized() error {
	return &smithy.GenericAPIError{Code: "NotAuthorizedException", Fault: smithy.FaultClient}
}

// UnsupportedKind is the answer to an operation that the kind of key does not have. It has no message.
func UnsupportedKind() error { return &types.UnsupportedOperationException{} }

func InvalidKeyUsage(format string, args ...any) error {
	return &types.InvalidKeyUsageException{Message: aws.String(fmt.Sprintf(format, args...))}
}

func Unsupported(format string, args ...any) error {
	return &types.UnsupportedOperationException{Message: aws.String(fmt.Sprintf(format, args...))}
}

func MalformedPolicy(text string) error {
	return &types.MalformedPolicyDocumentException{Message: aws.String(text)}
}

func LimitExceeded(text string) error {
	return &types.LimitExceededException{Message: aws.String(text)}
}

func InvalidMarker() error {
	return &types.InvalidMarkerException{Message: aws.String("The marker is not one that this operation returned.")}
}

func InvalidGrantToken() error {
	return &types.InvalidGrantTokenException{Message: aws.String("The grant token is not valid.")}
}

// InvalidMac has no message: the real service sends none.
func InvalidMac() error { return &types.KMSInvalidMacException{} }

// InvalidSignature has no message: the real service sends none.
func InvalidSignature() error { return &types.KMSInvalidSignatureException{} }

func DryRun() error {
	return &types.DryRunOperationException{
		Message: aws.String("The request would have succeeded, but the DryRun option is set."),
	}
}

func Validation(text string) error {
	return &smithy.GenericAPIError{Code: "ValidationException", Message: text, Fault: smithy.FaultClient}
}

// AccessDenied is the answer of AWS KMS to who may not do something: see Denial.
func AccessDenied(user, action, resource, because string) error {
	return &smithy.GenericAPIError{
		Code:    "AccessDeniedException",
		Fault:   smithy.FaultClient,
		Message: Denial(user, action, resource, because),
	}
}

// Denial is the text by which every service says who may not do what with which resource. because is its reason, such as "because no
// identity-based policy allows the kms:ListKeys action". No user is anonymous.
func Denial(user, action, resource, because string) string {
	return fmt.Sprintf("User: %s is not authorized to perform: %s on resource: %s %s", cmp.Or(user, "anonymous"), action, resource, because)
}

// RateExceeded is Throttled of the other services.
func RateExceeded() error {
	return &smithy.GenericAPIError{Code: "ThrottlingException", Message: "Rate exceeded", Fault: smithy.FaultClient}
}

func Throttled() error {
	return &smithy.GenericAPIError{
		Code:    "ThrottlingException",
		Message: "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
		Fault:   smithy.FaultClient,
	}
}

// Unavailable is the answer when the token fails: on a key, or on an operation that names none.
func Unavailable(arn string) error {
	if arn == "" {
		return &types.DependencyTimeoutException{Message: aws.String("The token is unavailable.")}
	}
	return &types.KeyUnavailableException{Message: aws.String(arn + " is unavailable.")}
}

// ServiceUnavailable is the answer when the token fails before it is known who asks: it names nothing.
func ServiceUnavailable() error {
	return &smithy.GenericAPIError{
		Code:    "ServiceUnavailableException",
		Message: "The service is temporarily unavailable. Try again.",
		Fault:   smithy.FaultServer,
	}
}

// Internal names the entry of the log that has the cause.
func Internal(errorID string) error {
	return &types.KMSInternalException{
		Message: aws.String("An internal error occurred. The log of the service has its cause under the id " + errorID + "."),
	}
}

// caused is an API error with the reason that only the operator may see: Error prints the API error alone, the cause is
// reached by errors.As and errors.Is.
type caused struct {
	api   error
	cause error
}

// WithCause returns an API error that prints as api alone. Its cause, which only the operator may see, is reached by errors.As
// and errors.Is.
func WithCause(api, cause error) error { return &caused{api, cause} }

func (e *caused) Error() string   { return e.api.Error() }
func (e *caused) Unwrap() []error { return []error{e.api, e.cause} }
