package server

import (
	"net/http"
	"strings"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsjson"
)

// service is one API that the server answers on its one address.
type service struct {
	signingName string // in the signatures of requests, in policies, and in the table of operations
	codec       *codec
	operations  map[string]handler // by name; an operation is added by one line and its method of a client
}

// codec is the protocol that a service speaks: how requests name their operation, and how errors are written. How inputs and outputs
// are written is the handlers' business.
type codec struct {
	contentType string
	// operation returns the operation that a request names; ok is false when it is not a request of the service.
	operation func(*http.Request) (name string, ok bool)
	failure   func(code string, message *string) []byte
}

// targetPrefix is what AWS KMS calls itself in the header X-Amz-Target.
const targetPrefix = "TrentService."

// json11 is AWS's JSON protocol 1.1, with the name of a service in X-Amz-Target.
func json11(prefix string) *codec {
	return &codec{
		contentType: "application/x-amz-json-1.1",
		operation: func(r *http.Request) (string, bool) {
			target := r.Header["X-Amz-Target"]
			if r.Method != http.MethodPost || r.URL.Path != "/" || len(target) != 1 {
				return "", false
			}
			return strings.CutPrefix(target[0], prefix)
		},
		failure: awsjson.EncodeError,
	}
}

// keyManagement is AWS KMS.
var keyManagement = &service{signingName: "kms", codec: json11(targetPrefix), operations: operations}

// cloudTrail is the event history of AWS CloudTrail, which is the audit log.
var cloudTrail = &service{signingName: "cloudtrail", codec: json11("com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101."),
	operations: map[string]handler{"LookupEvents": op((*pkcs11kms.Client).LookupEvents)}}

// services are all that the server answers. STS and IAM, which speak the query protocol, will stand beside them.
var services = []*service{keyManagement, cloudTrail}

// serviceOf returns the service and the operation that a request names, or errUnknownOperation.
func serviceOf(r *http.Request) (*service, string, error) {
	for _, service := range services {
		if name, ok := service.codec.operation(r); ok && service.operations[name] != nil {
			return service, name, nil
		}
	}
	return nil, "", errUnknownOperation
}
