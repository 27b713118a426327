// Package audit is where a Bridge tells what was asked of it and how that ended. A Writer is asked before anything is changed and
// told of every outcome, so that what it cannot write down is not done, or not answered.
package audit

import "context"

// Event is one call of an operation.
type Event struct {
	Service   string // kms, iam, or pkcs11kms for our own
	Operation string // as in the API: GenerateMac
	ReadOnly  bool   // as CloudTrail calls it
	Region    string
	Account   string // of the caller, 12 digits; empty when nobody calls
	Principal string // ARN of the caller; empty when nobody calls
	// Resource is the ARN of the key that the request led to, or of the user or role that was decided on; empty when it names none, or no
	// key that there is.
	Resource string
	// Input is a pointer to the SDK's input, which must not be changed or kept; of services without one a map[string]any by the names of
	// its members. Recorded are the members that may be shown, as CloudTrail spells them: messages, MACs and secrets are not among them.
	Input    any
	Recorded []string
	Err      error // what the call is answered with; nil in Intend, and when it succeeded
}

// Writer takes the events of a Bridge. It is called by many goroutines at once, and its context is that of the call.
type Writer interface {
	// Intend is called before an operation changes something: once a call, when everything allows it, and not for dry runs. An
	// error keeps the change from being made.
	Intend(ctx context.Context, e Event) error
	// Record is called at the end of every call, refusals included. An error takes the place of the call's answer. The context may
	// have ended before: what was done is written down all the same, so a Writer bounds its own waiting.
	Record(ctx context.Context, e Event) error
}

// Discard keeps nothing.
var Discard Writer = discard{}

type discard struct{}

func (discard) Intend(context.Context, Event) error { return nil }
func (discard) Record(context.Context, Event) error { return nil }
