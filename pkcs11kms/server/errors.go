package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// This file is the only one that makes the __type of an answer. What clients of other services read is in misdirected.go.

// The refusals that are the server's own.
var (
	errUnknownOperation = &smithy.GenericAPIError{Code: "UnknownOperationException", Fault: smithy.FaultClient}
	errNotSupported     = &smithy.GenericAPIError{Code: "UnsupportedOperationException", Fault: smithy.FaultClient,
		Message: "This service does not support the operation."}
	errTooLarge = &smithy.GenericAPIError{Code: "RequestEntityTooLargeException", Fault: smithy.FaultClient,
		Message: "The request body is larger than 1048576 bytes."}
	errShortBody = &smithy.GenericAPIError{Code: "SerializationException", Fault: smithy.FaultClient,
		Message: "The request body ended before its announced length, or came too slowly."}
	// errManyBodies says that the memory for large bodies was wanted by others.
	errManyBodies = throttled("Too many large requests are being received from your address. Try again later.")
	// errNoConnection says that a request's connection was closed to make room, or that there is no room for it. Nothing was
	// done.
	errNoConnection = throttled("Too many connections have requests under way. Try again later.")
	errTimeout      = &types.DependencyTimeoutException{Message: aws.String("The operation did not end in time.")}
)

// errPanic is answered with the fixed text for whatever is unexpected.
var errPanic = errors.New("handling the request panicked")

// errPanicked is what the audit log is told of such a request.
var errPanicked = &types.KMSInternalException{Message: aws.String("An internal error occurred.")}

// statusClientGone is for the log: there is nobody to read it.
const statusClientGone = 499

func throttled(message string) *smithy.GenericAPIError {
	return &smithy.GenericAPIError{Code: "ThrottlingException", Message: message, Fault: smithy.FaultClient}
}

func serialization(err error) error {
	return &smithy.GenericAPIError{Code: "SerializationException", Message: err.Error(), Fault: smithy.FaultClient}
}

// answer is an error as the client sees it.
type answer struct {
	status  int
	code    string
	message string // none when empty: some errors of KMS carry no message
}

// answerTo maps every error to what goes over the wire: errors of the API by their code, with status 400 for the
// client's faults and 500 for ours, whatever the model says; anything else with a fixed text. The text of an error that
// is not the API's own never leaves the process.
func answerTo(err error) answer {
	var auth *sigv4.Error
	var api smithy.APIError
	var other *misdirected
	switch {
	case errors.As(err, &other):
		return answer{http.StatusBadRequest, other.code, other.message}
	case errors.As(err, &auth):
		return answer{http.StatusBadRequest, auth.Code, auth.Message}
	case errors.Is(err, errTooLarge):
		return answer{http.StatusRequestEntityTooLarge, errTooLarge.Code, errTooLarge.Message}
	case errors.As(err, &api) && api.ErrorFault() != smithy.FaultServer:
		return answer{http.StatusBadRequest, api.ErrorCode(), api.ErrorMessage()}
	case errors.As(err, &api) && api.ErrorCode() == "ServiceUnavailableException":
		return answer{http.StatusServiceUnavailable, api.ErrorCode(), api.ErrorMessage()}
	case errors.As(err, &api):
		return answer{http.StatusInternalServerError, api.ErrorCode(), api.ErrorMessage()}
	case errors.Is(err, context.DeadlineExceeded):
		return answer{http.StatusInternalServerError, errTimeout.ErrorCode(), errTimeout.ErrorMessage()}
	case errors.Is(err, context.Canceled):
		return answer{statusClientGone, "RequestCanceled", "The client went away."}
	}
	return answer{http.StatusInternalServerError, "KMSInternalException", "An internal error occurred."}
}

// text is the message, nil where there is none.
func (a *answer) text() *string {
	if a.message == "" {
		return nil
	}
	return &a.message
}
