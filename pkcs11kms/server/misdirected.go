package server

import (
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// misdirected is the refusal of a request for another service than AWS KMS, in the form that its client can read.
type misdirected struct {
	code, message string
	encode        func(m *misdirected, requestID string) any // to XML; nil for the JSON of all other answers
}

// Error returns code and message.
func (m *misdirected) Error() string { return m.code + ": " + m.message }

// misdirect returns the refusal of a request whose operation is unknown: one that names what was asked for where that is
// another service's, or a path that KMS does not have. Nothing of the request is proved; only what has the form of a name is
// repeated.
func (s *Server) misdirect(r *http.Request) error {
	service := ""
	if claim, err := sigv4.Parse(r); err == nil {
		service = nameOr(claim.Service, "")
	}
	m := &misdirected{code: errUnknownOperation.Code}
	action, form := formAction(r)
	if encode := xmlOf(service, form); encode != nil {
		m.code, m.encode = "InvalidAction", encode
	}
	target := r.Header.Get("X-Amz-Target")
	foreign := target != "" && !strings.HasPrefix(target, targetPrefix)
	switch {
	case form:
		m.message = s.ours(action, service)
	case r.URL.Path != "/":
		m.message = s.ours(r.Method+" "+nameOr(r.URL.Path, "this path"), service) + " Its path is /."
	case foreign && strings.Contains(target, "."):
		m.message = s.ours(nameOr(target, "this operation"), service)
	case service != "" && service != keyManagement.signingName:
		m.message = s.ours(r.Method+" /", service)
	default:
		return errUnknownOperation
	}
	return m
}

// xmlOf returns how a service answers errors, when that is not JSON.
func xmlOf(service string, form bool) func(*misdirected, string) any {
	switch {
	case service == "s3":
		return encodeS3
	case service == "ec2":
		return encodeEC2
	case form || service == "route53" || service == "cloudfront":
		return encodeQuery
	}
	return nil
}

// ours is what the client is told.
func (s *Server) ours(action, name string) string {
	if name != "" && name != keyManagement.signingName {
		action += " of " + name
	}
	named := func(one *service) bool { return one.signingName == name }
	only, hint := "AWS KMS", ""
	switch {
	case name == cloudTrail.signingName && slices.ContainsFunc(s.services, named):
		only = "LookupEvents of AWS CloudTrail"
	case slices.ContainsFunc(allServices, named) && !slices.ContainsFunc(s.services, named):
		hint = " Its operator can add the service to services in config.yaml."
	}
	return "This endpoint answers " + only + " only: " + action + " is not here." + hint
}

// nameOr repeats a text of a request when it is short and has nothing but the characters of names and paths.
func nameOr(text, otherwise string) string {
	const maxName = 128
	for i := range len(text) {
		if c := text[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~/", c) >= 0) {
			return otherwise
		}
	}
	if text == "" || len(text) > maxName {
		return otherwise
	}
	return text
}

// formAction returns the action of a request in the AWS query protocol, in its body or its query string. Of a body no more
// is read than fits the first buffer: clients begin it with the action.
func formAction(r *http.Request) (action string, form bool) {
	values := r.URL.Query()
	posted := isForm(r)
	if posted {
		body, _ := io.ReadAll(io.LimitReader(r.Body, firstBody)) // what has come is enough,
		values, _ = url.ParseQuery(string(body))                 // and what of it can be read
	}
	return nameOr(values.Get("Action"), "this action"), posted || values.Has("Action")
}

type queryError struct {
	XMLName   xml.Name `xml:"ErrorResponse"`
	Type      string   `xml:"Error>Type"`
	Code      string   `xml:"Error>Code"`
	Message   string   `xml:"Error>Message"`
	RequestID string   `xml:"RequestId"`
}

func encodeQuery(m *misdirected, requestID string) any {
	return queryError{Type: "Sender", Code: m.code, Message: m.message, RequestID: requestID}
}

type ec2Error struct {
	XMLName   xml.Name `xml:"Response"`
	Code      string   `xml:"Errors>Error>Code"`
	Message   string   `xml:"Errors>Error>Message"`
	RequestID string   `xml:"RequestID"`
}

func encodeEC2(m *misdirected, requestID string) any {
	return ec2Error{Code: m.code, Message: m.message, RequestID: requestID}
}

type s3Error struct {
	XMLName   xml.Name `xml:"Error"`
	Code      string   `xml:"Code"`
	Message   string   `xml:"Message"`
	RequestID string   `xml:"RequestId"`
}

func encodeS3(m *misdirected, requestID string) any {
	return s3Error{Code: m.code, Message: m.message, RequestID: requestID}
}

// body is the answer and its content type.
func (m *misdirected) body(requestID string) ([]byte, string) {
	if m.encode == nil {
		codec := keyManagement.codec
		return codec.failure(answer{code: m.code, message: m.message}, requestID), codec.contentType
	}
	text, err := xml.Marshal(m.encode(m, requestID))
	if err != nil { // of plain strings: never
		return nil, "text/xml"
	}
	return append([]byte(xml.Header), text...), "text/xml"
}
