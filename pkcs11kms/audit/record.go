package audit

import (
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
)

// The most that a record shows of what a client chooses, in bytes: of requestParameters and of responseElements, which are left out when
// they have more, and of errorMessage, userAgent and the Host header, which are cut. CloudTrail has the same bounds for the first three.
const (
	maxField = 100 << 10
	maxText  = 1 << 10
)

// maxRecord bounds the bytes of a record: an escape is at most six times as long as what it stands for. maxOutcome bounds those of the
// record of a call whose intent has n bytes.
const maxRecord = 2*maxField + 32<<10 + maxWroteBytes

func maxOutcome(n int) int { return n + maxField + 12<<10 + maxWroteBytes }

// internalService is what CloudTrail writes where a service asks itself.
const internalService = "AWS Internal"

// AppendRecord appends the record of an event that was seen at a time: one JSON object without a line end, of the shape of CloudTrail's
// records (version 1.08 of them). Of Input and Output it shows the members that Recorded and Responded name, and never bytes.
func AppendRecord(b []byte, e *Event, at time.Time) []byte {
	return append(appendOpen(b, e, at), '}')
}

// appendOpen is AppendRecord without the last brace.
func appendOpen(b []byte, e *Event, at time.Time) []byte {
	b = append(b, `{"eventVersion":"1.08","userIdentity":`...)
	b = e.appendIdentity(b)
	b = append(b, `,"eventTime":"`...)
	b = at.UTC().AppendFormat(b, "2006-01-02T15:04:05Z")
	b = append(b, `","eventSource":`...)
	b = e.appendSource(b)
	b = appendMember(b, "eventName", e.Operation)
	b = appendMember(b, "awsRegion", e.Region)
	b = e.appendOrigin(b)
	b = e.appendError(b)
	b = append(b, `,"requestParameters":`...)
	b = appendMembers(b, e.Input, e.Recorded)
	b = append(b, `,"responseElements":`...)
	if e.Err == nil && e.Kind != Intent {
		b = appendMembers(b, e.Output, e.Responded)
	} else {
		b = append(b, "null"...)
	}
	b = e.appendAdditional(b)
	b = e.appendIDs(b)
	if e.ReadOnly {
		b = append(b, `,"readOnly":true`...)
	} else {
		b = append(b, `,"readOnly":false`...)
	}
	b = e.appendResources(b)
	b = append(append(b, `,"eventType":"`...), e.Kind.String()...)
	b = append(b, `","managementEvent":true`...)
	if recipient := e.recipient(); recipient != "" {
		b = appendMember(b, "recipientAccountId", recipient)
	}
	if e.shared() {
		b = append(appendID(append(b, `,"sharedEventID":"`...), e.Across.SharedID), '"')
	}
	b = append(b, `,"eventCategory":"Management"`...)
	return e.appendTLS(b)
}

func appendMember(b []byte, name, value string) []byte {
	b = append(append(append(b, `,"`...), name...), `":`...)
	return appendText(b, value)
}

// appendSource appends the service's name as events have it. Our own is no host of AWS's.
func (e *Event) appendSource(b []byte) []byte {
	switch e.Service {
	case "kms":
		return append(b, `"kms.amazonaws.com"`...)
	case "iam":
		return append(b, `"iam.amazonaws.com"`...)
	case "sts":
		return append(b, `"sts.amazonaws.com"`...)
	case "cloudtrail":
		return append(b, `"cloudtrail.amazonaws.com"`...)
	}
	return appendText(b, e.Service)
}

// appendIdentity appends userIdentity. Whoever acts by the access key of a role is a Role, and a session of one an AssumedRole.
func (e *Event) appendIdentity(b []byte) []byte {
	if e.Kind == ServiceEvent || e.Kind == Seal {
		b = append(b, `{"type":"AWSService"`...)
		if e.Account != "" {
			b = appendMember(b, "accountId", e.Account)
		}
		return append(appendMember(b, "invokedBy", internalService), '}')
	}
	if w := e.WebIdentity; w != nil {
		b = appendMember(append(b, `{"type":"WebIdentityUser"`...), "principalId", w.Issuer+":"+w.Audience+":"+w.Subject)
		return append(appendMember(appendMember(b, "userName", w.Subject), "identityProvider", w.Provider), '}')
	}
	if e.Principal == "" {
		return append(b, `{"type":"Unknown"}`...)
	}
	if e.Across != nil && e.Across.forOwner {
		b = appendMember(append(b, `{"type":"AWSAccount"`...), "principalId", e.PrincipalID)
		return append(appendMember(b, "accountId", e.Account), '}')
	}
	kind, user := e.identityType()
	b = append(append(b, `{"type":"`...), kind...)
	b = append(b, '"')
	b = appendMember(b, "principalId", e.PrincipalID)
	b = appendMember(b, "arn", e.Principal)
	b = appendMember(b, "accountId", e.Account)
	if e.Origin.AccessKeyID != "" {
		b = appendMember(b, "accessKeyId", e.Origin.AccessKeyID)
	}
	if user != "" {
		b = appendMember(b, "userName", user)
	}
	if e.Session != nil {
		b = e.appendSession(b)
	}
	return append(b, '}')
}

// appendSession appends what session of what role the caller is.
func (e *Event) appendSession(b []byte) []byte {
	s := e.Session
	b = append(b, `,"sessionContext":{"sessionIssuer":{"type":"Role"`...)
	b = appendMember(b, "principalId", s.RoleID)
	b = appendMember(b, "arn", s.RoleARN)
	b = appendMember(b, "accountId", e.Account)
	b = appendMember(b, "userName", s.RoleName)
	b = append(b, `},"webIdFederationData":{},"attributes":{"creationDate":"`...)
	b = s.Created.UTC().AppendFormat(b, "2006-01-02T15:04:05Z")
	b = append(b, `","mfaAuthenticated":"false"}`...)
	if s.SourceIdentity != "" {
		b = appendMember(b, "sourceIdentity", s.SourceIdentity)
	}
	return append(b, '}')
}

// identityType tells by its ARN what the caller is, and the name of a user.
func (e *Event) identityType() (kind, user string) {
	resource := e.Principal[strings.LastIndexByte(e.Principal, ':')+1:]
	switch {
	case e.Session != nil:
		return "AssumedRole", ""
	case resource == "root":
		return "Root", ""
	case strings.HasPrefix(resource, "user/"):
		return "IAMUser", resource[strings.LastIndexByte(resource, '/')+1:]
	}
	return "Role", ""
}

func (e *Event) appendOrigin(b []byte) []byte {
	if !e.Origin.Remote {
		return append(b, `,"sourceIPAddress":"`+internalService+`","userAgent":"`+internalService+`"`...)
	}
	b = append(b, `,"sourceIPAddress":"`...)
	if e.Origin.SourceIP.IsValid() {
		b = e.Origin.SourceIP.WithZone("").AppendTo(b)
	}
	b = append(b, '"')
	return appendMember(b, "userAgent", cut(e.Origin.UserAgent, maxText))
}

// appendError appends errorCode and errorMessage of a call that has failed. What is no error of an API, and so told to nobody, is an
// internal failure, or the end of the caller's patience.
func (e *Event) appendError(b []byte) []byte {
	if e.Err == nil {
		return b
	}
	code, message := "InternalFailure", ""
	var api interface { // smithy.APIError
		error
		ErrorCode() string
		ErrorMessage() string
	}
	var canceled interface { // *smithy.CanceledError
		error
		CanceledError() bool
	}
	switch {
	case errors.As(e.Err, &api):
		code, message = api.ErrorCode(), api.ErrorMessage()
		if code == "AccessDeniedException" {
			code = "AccessDenied" // so CloudTrail has it
		}
	case errors.As(e.Err, &canceled):
		code = "RequestCanceled"
	}
	b = appendMember(b, "errorCode", code)
	if message != "" {
		b = appendMember(b, "errorMessage", cut(message, maxText))
	}
	return b
}

func (e *Event) appendIDs(b []byte) []byte {
	if e.RequestID != "" {
		b = appendMember(b, "requestID", e.RequestID)
	} else {
		b = append(appendID(append(b, `,"requestID":"`...), e.CallID), '"')
	}
	return append(appendID(append(b, `,"eventID":"`...), e.EventID), '"')
}

// NewID makes a UUID (version 4) for RequestID. It is unique, and no secret.
func NewID() string { return NewUUID().String() }

// NewUUID is NewID for CallID and EventID.
func NewUUID() (id uuid.UUID) {
	high, low := rand.Uint64(), rand.Uint64()
	binary.BigEndian.PutUint64(id[:8], high&^0xf000|0x4000)
	binary.BigEndian.PutUint64(id[8:], low&^(0xc<<60)|0x8<<60)
	return id
}

// appendID appends an id; a new one for none.
func appendID(b []byte, id uuid.UUID) []byte {
	if id == uuid.Nil {
		id = NewUUID()
	}
	b = append(hex.AppendEncode(b, id[:4]), '-')
	b = append(hex.AppendEncode(b, id[4:6]), '-')
	b = append(hex.AppendEncode(b, id[6:8]), '-')
	b = append(hex.AppendEncode(b, id[8:10]), '-')
	return hex.AppendEncode(b, id[10:])
}

func (e *Event) appendResources(b []byte) []byte {
	b = append(b, `,"resources":[`...)
	if e.hidden() {
		return append(b, ']')
	}
	if e.Resource != "" {
		b = appendResource(b, e.Resource)
	}
	if e.Alias != "" {
		if e.Resource != "" {
			b = append(b, ',')
		}
		b = appendResource(b, e.Alias)
	}
	return append(b, ']')
}

// appendResource appends what an ARN names: arn:aws:kms:REGION:ACCOUNT:key/ID.
func appendResource(b []byte, arn string) []byte {
	b = append(b, '{')
	rest, account := arn, ""
	for range 4 {
		_, rest, _ = strings.Cut(rest, ":")
	}
	if account, rest, _ = strings.Cut(rest, ":"); account != "" {
		b = appendText(append(b, `"accountId":`...), account)
		b = append(b, ',')
	}
	kind := ""
	switch name, _, _ := strings.Cut(rest, "/"); name {
	case "key":
		kind = "AWS::KMS::Key"
	case "alias":
		kind = "AWS::KMS::Alias"
	case "user":
		kind = "AWS::IAM::User"
	case "role":
		kind = "AWS::IAM::Role"
	}
	if kind != "" {
		b = append(append(append(b, `"type":"`...), kind...), `",`...)
	}
	return append(appendText(append(b, `"ARN":`...), arn), '}')
}

func (e *Event) appendTLS(b []byte) []byte {
	if e.Origin.TLSVersion == 0 {
		return b
	}
	version := "TLSv1.3"
	if e.Origin.TLSVersion == tls.VersionTLS12 {
		version = "TLSv1.2"
	}
	b = append(append(b, `,"tlsDetails":{"tlsVersion":"`...), version...)
	b = append(b, '"')
	b = appendMember(b, "cipherSuite", tls.CipherSuiteName(e.Origin.CipherSuite))
	b = appendMember(b, "clientProvidedHostHeader", cut(e.Origin.Host, maxText))
	return append(b, '}')
}
