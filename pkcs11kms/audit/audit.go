// Package audit is where a Bridge tells what was asked of it and how that ended. A Writer is asked before anything is changed and
// told of every outcome, so that what it cannot write down is not done, or not answered.
//
// AppendRecord makes the record of an Event, of the shape that AWS CloudTrail gives its own. The package imports nothing of this
// project.
package audit

import (
	"context"
	"net/netip"
	"time"

	"github.com/google/uuid"
)

// Kind tells what an Event is about.
type Kind uint8

// The kinds. Their texts are the eventType of the records.
const (
	Call         Kind = iota // AwsApiCall: a call that has ended, whatever the end
	Intent                   // Pkcs11KmsIntent: a call that is about to change something. The record of its end has the same requestID
	ServiceEvent             // AwsServiceEvent: something that the service did by itself
	StreamEnd                // Pkcs11KmsStreamEnd: the end of a stream, whose beginning was a Call
	Seal                     // Pkcs11KmsSeal: a signature over what was recorded before, see Sealer
)

var kinds = [...]string{"AwsApiCall", "Pkcs11KmsIntent", "AwsServiceEvent", "Pkcs11KmsStreamEnd", "Pkcs11KmsSeal"}

// String returns the eventType.
func (k Kind) String() string { return kinds[k] }

// Event is one call of an operation, or something else that a record is made of.
type Event struct {
	Kind      Kind
	Service   string // kms, iam, or pkcs11kms for our own
	Operation string // as in the API: GenerateMac
	ReadOnly  bool   // as CloudTrail calls it
	Region    string

	Account     string // of the caller, 12 digits; empty when nobody calls
	Principal   string // ARN of the caller; empty when nobody calls
	PrincipalID string // the unique id of a user, role or session; of the account's root the account
	Session     *Session
	WebIdentity *WebIdentity // who calls has a token of an OIDC provider, and is no principal; Account is that of the provider
	Origin      Origin
	// RequestID is that of the call, the same in its Intent and its end. Empty: it is CallID. EventID is that of the record. What is zero of
	// both is made with the record.
	RequestID       string
	CallID, EventID uuid.UUID

	Across *Across // the key, or the role that is assumed, is of another account than the caller; nil: it is not

	// Resource is the ARN of the key that the request led to, or of the user or role that was decided on; empty when it names none, or no
	// key that there is. Alias is that of the alias that is made, changed or deleted.
	Resource, Alias string
	// Input is a pointer to the SDK's input, which must not be changed or kept; of services without one a map[string]any by the names of
	// its members. Recorded are the members that may be shown, as CloudTrail spells them: messages, MACs and secrets are not among them.
	Input    any
	Recorded []string
	// Output is what responseElements shows of the answer, in the same way by Responded; nil for nothing, as of all calls that only read.
	Output    any
	Responded []string
	// Additional is what additionalEventData shows beside that, and Wrote what was written to a store whose records are sealed.
	Additional map[string]any
	Wrote      Writes

	// Intended tells that Intend was called for this call and allowed it: whatever it was to change may be changed.
	Intended bool
	Err      error // what the call is answered with; nil in Intend, and when it succeeded
}

// Session is what a caller that is a session of a role is of; nil for others.
type Session struct {
	RoleARN, RoleID, RoleName string
	Created                   time.Time
	SourceIdentity            string // empty: none
}

// WebIdentity is who has a token of an OIDC provider.
type WebIdentity struct {
	Issuer, Audience, Subject string // as the token has them
	Provider                  string // the ARN
}

// Across says for whom a call is recorded beside the caller's account, see ForOwner. It is not changed.
type Across struct {
	Owner    string    // the account of the key or role, 12 digits
	EventID  uuid.UUID // of that record
	SharedID uuid.UUID // of both

	forOwner bool // the event is that record's
}

// Origin is where a request came from. That of a call in process is zero.
type Origin struct {
	Remote      bool       // the request came over a connection
	SourceIP    netip.Addr // of the peer; the zero Addr where the peer has none
	UserAgent   string
	AccessKeyID string // what the request is signed with
	TLSVersion  uint16 // as crypto/tls numbers them; 0: none
	CipherSuite uint16
	Host        string // the Host header
}

// Writer takes the events of a Bridge. It is called by many goroutines at once, and its context is that of the call.
type Writer interface {
	// Intend is called before an operation changes something: once a call, when everything allows it, and not for dry runs. An
	// error keeps the change from being made. After a nil error Record is called with the same RequestID and Intended set.
	Intend(ctx context.Context, e Event) error
	// Record is called at the end of every call, refusals included. An error takes the place of the call's answer. The context may
	// have ended before: what was done is written down all the same, so a Writer bounds its own waiting.
	Record(ctx context.Context, e Event) error
}

// Watched is what a Writer can tell of itself beside, as a Log does.
type Watched interface {
	// Health returns why nothing can be recorded, or nil.
	Health() error
	// Warning is what an operator must know before that comes; empty when there is nothing.
	Warning() string
	Stats() Stats
}

// Discard keeps nothing.
var Discard Writer = discard{}

type discard struct{}

func (discard) Intend(context.Context, Event) error { return nil }
func (discard) Record(context.Context, Event) error { return nil }
