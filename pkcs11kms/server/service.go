package server

import (
	"net/http"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsjson"
)

// service is one API that the server answers on its one address.
type service struct {
	signingName string // in the signatures of requests, in policies, and in the table of operations
	codec       *codec
	global      bool               // of no region: requests can be signed for globalRegion as well
	operations  map[string]handler // by name; an operation is added by one line and its method of a client
}

// codec is the protocol that a service speaks: how requests name their operation, and how errors are written. How inputs and outputs
// are written is the handlers' business.
type codec struct {
	contentType string
	// operation returns the operation that a request names; ok is false when it is not a request of the service. The name is empty where
	// the body has it.
	operation func(r *http.Request) (name string, ok bool)
	named     func(s *service, body []byte) (name string, err error) // reads it; nil where the body never has it
	answer    func(err error) answer
	failure   func(a answer, requestID string) []byte
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
		answer:  answerTo,
		failure: func(a answer, _ string) []byte { return awsjson.EncodeError(a.code, a.text()) },
	}
}

// keyManagement is AWS KMS.
var keyManagement = &service{signingName: "kms", codec: json11(targetPrefix), operations: operations}

// cloudTrail is the event history of AWS CloudTrail, which is the audit log.
var cloudTrail = &service{signingName: "cloudtrail", codec: json11("com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101."),
	operations: map[string]handler{"LookupEvents": op((*pkcs11kms.Client).LookupEvents)}}

// allServices are those that a server can answer.
var allServices = []*service{keyManagement, securityTokens, identities, cloudTrail}

// Services are the names of the services that a Server can answer, for Options.Services.
func Services() []string {
	var names []string
	for _, service := range allServices {
		names = append(names, service.signingName)
	}
	return names
}

// enabled returns the services of those names, and AWS KMS, which is always there.
func enabled(names []string) []*service {
	var on []*service
	for _, service := range allServices {
		if service == keyManagement || slices.Contains(names, service.signingName) {
			on = append(on, service)
		}
	}
	return on
}

// serviceOf returns the service and the operation that a request names, or errUnknownOperation. The name is empty where the body has it.
func (s *Server) serviceOf(r *http.Request) (*service, string, error) {
	for _, service := range s.services {
		name, ok := service.codec.operation(r)
		if ok && (service.operations[name] != nil || name == "" && service.codec.named != nil) {
			return service, name, nil
		}
	}
	return nil, "", errUnknownOperation
}
