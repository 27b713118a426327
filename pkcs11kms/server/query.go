package server

import (
	"context"
	"errors"
	"mime"
	"net/http"

	"github.com/aws/smithy-go"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsquery"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

const formType = "application/x-www-form-urlencoded"

// query is AWS's query protocol, in which the body names the operation, and the signature the service.
func query(signingName, namespace string) *codec {
	return &codec{
		contentType: "text/xml",
		operation: func(r *http.Request) (string, bool) {
			if !isForm(r) || r.URL.Path != "/" {
				return "", false
			}
			claim, err := sigv4.Parse(r)
			return "", err == nil && claim.Service == signingName
		},
		named:  namedInForm,
		answer: queryAnswer,
		failure: func(a answer, requestID string) []byte {
			return awsquery.EncodeError(namespace, requestID, a.status < http.StatusInternalServerError, a.code, a.text())
		},
	}
}

// isForm reports whether a request has parameters of the query protocol in its body.
func isForm(r *http.Request) bool {
	contentType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return r.Method == http.MethodPost && contentType == formType && r.Header.Get("X-Amz-Target") == ""
}

// namedInForm reads the operation that a body names, or refuses one that the service does not have.
func namedInForm(s *service, body []byte) (string, error) {
	call, err := awsquery.Parse(body)
	if err != nil {
		return "", errMalformedForm
	}
	if s.operations[call.Action] == nil {
		version := call.Version
		if version == "" {
			version = "NO_VERSION_SPECIFIED"
		}
		return "", &smithy.GenericAPIError{Code: "InvalidAction", Fault: smithy.FaultClient,
			Message: "Could not find operation " + nameOr(call.Action, "this action") + " for version " + nameOr(version, "this version")}
	}
	return call.Action, nil
}

var errMalformedForm = &smithy.GenericAPIError{Code: "MalformedQueryString", Fault: smithy.FaultClient,
	Message: "The query string contains a syntax error."}

// queryOp fits a call to the query protocol. Its output may be nil: then the answer has no result.
func queryOp[In, Out any](namespace string, call func(context.Context, *pkcs11kms.Client, *In) (*Out, error)) handler {
	return func(ctx context.Context, c *pkcs11kms.Client, body []byte, x *exchange) ([]byte, error) {
		in := new(In)
		parameters, err := awsquery.Parse(body)
		if err == nil {
			err = parameters.Decode(in)
		}
		if err != nil {
			return nil, undo(in, formError(err))
		}
		out, err := call(ctx, c, in)
		if err != nil {
			return nil, err
		}
		return awsquery.Encode(x.op, namespace, x.id, out), nil
	}
}

// formError is the refusal of a form that is not that of the operation's input.
func formError(err error) error {
	if missing, ok := errors.AsType[*awsquery.MissingError](err); ok {
		var v form.Violations
		for _, member := range missing.Members {
			v.Null(member)
		}
		return &smithy.GenericAPIError{Code: "ValidationError", Message: v.String(), Fault: smithy.FaultClient}
	}
	if _, ok := errors.AsType[*awsquery.ValueError](err); ok {
		return &smithy.GenericAPIError{Code: "MalformedInput", Fault: smithy.FaultClient}
	}
	return errMalformedForm
}

// The codes of the query protocol where they are others than those of JSON, and the statuses of those that are not answered with 400.
var (
	queryCodes = map[string]string{
		sigv4.CodeMissingAuthenticationToken: "MissingAuthenticationToken",
		sigv4.CodeIncompleteSignature:        "IncompleteSignature",
		sigv4.CodeInvalidSignature:           "SignatureDoesNotMatch",
		sigv4.CodeUnrecognizedClient:         "InvalidClientTokenId",
		sigv4.CodeExpiredToken:               "ExpiredToken",
		"ThrottlingException":                "Throttling",
		"AccessDeniedException":              "AccessDenied",
		"RequestEntityTooLargeException":     "RequestEntityTooLarge",
		"SerializationException":             "MalformedInput",
	}
	queryStatuses = map[string]int{
		"MissingAuthenticationToken": http.StatusForbidden,
		"SignatureDoesNotMatch":      http.StatusForbidden,
		"InvalidClientTokenId":       http.StatusForbidden,
		"ExpiredToken":               http.StatusForbidden,
		"AccessDenied":               http.StatusForbidden,
		"NoSuchEntity":               http.StatusNotFound,
		"EntityAlreadyExists":        http.StatusConflict,
		"DeleteConflict":             http.StatusConflict,
		"LimitExceeded":              http.StatusConflict,
	}
)

// queryAnswer is answerTo with the codes and statuses of the query protocol. A fault of the service has one code.
func queryAnswer(err error) answer {
	a := answerTo(err)
	if a.status >= http.StatusInternalServerError {
		a.code, a.message = "ServiceFailure", "The request processing has failed because of an unknown error, exception or failure."
		return a
	}
	if code := queryCodes[a.code]; code != "" {
		a.code = code
	}
	if status := queryStatuses[a.code]; status != 0 {
		a.status = status
	}
	return a
}
