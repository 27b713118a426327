// Package ops is the table of operations: one row says all that is true of an operation, whichever part of the program asks.
// Whoever adds an operation writes its row in kms.go, iam.go or own.go, its method of a Client, and its test; tests tell what is
// missing.
//
// It imports nothing of this project, so that every package may read it.
package ops

import (
	"cmp"
	"strings"
	"time"
)

// Operation is a row of the table. Rows are made once and never changed.
type Operation struct {
	Service string // the service's prefix in policies, and the signing name of its requests: kms, iam, sts, cloudtrail; pkcs11kms for our own
	Name    string // as in the API
	Action  string // what policies call it by, without the service, where that is not Name

	actionName string // see ActionName; made once, since every decision asks for it

	Subject      Subject  // what a decision is about
	TakesAlias   bool     // KeyId may be an alias name or alias ARN
	Free         bool     // nobody is denied it: policies have no say
	IdentityOnly bool     // no key policy can allow it: only the caller's own policies can, on the user or role, or on the resource *
	Grantable    bool     // a grant on a key of this service can allow it
	Across       bool     // the key may be of another account than the caller; of others that is AccessDeniedException
	Conditions   []string // condition keys that its requests have beyond those of the caller, the connection and the key

	Writes bool          // changes something: reads records from the store, and is decided anew when it lost a race
	States States        // the key states in which it is allowed
	Origin Origin        // what the operation asks of the key's origin
	Usage  string        // the KeyUsage that the key must have; empty: any
	Rate   *Rate         // the requests a second that it shares with the other rows that name this Rate; nil: unlimited
	Curve  *Rate         // Rate for elliptic curve keys, where they have another
	Longer time.Duration // how much longer than others it may take
	Answer Answer        // what it answers where that does not depend on the key
	Uses   bool          // uses the key's material: GetKeyLastUsage tells of the last one
	Read   bool          // CloudTrail calls it read-only: its record has readOnly true
	Record []string      // the members of its input that a CloudTrail record may show, as the record spells them

	// Respond are the members of its output that a CloudTrail record shows, in the same way. Where an operation on a key that writes has
	// none, the record shows the key's ARN as keyId; of operations that do not write nothing is shown.
	Respond []string
}

// ActionName is how policies call the operation: kms:GenerateMac.
func (op *Operation) ActionName() string { return op.actionName }

// Subject is what an operation is about, and what a policy's Resource is compared with.
type Subject int

// The subjects.
const (
	Key           Subject = iota // a key, named by KeyId
	Alias                        // an alias and the key that it leads to
	Account                      // nothing that has a name
	Principal                    // a user, a role, a group or the account's root
	ManagedPolicy                // a managed policy
	OIDCProvider                 // an issuer of OpenID Connect tokens
)

// States is a row of the key state table (AWS KMS developer guide, "Key states").
type States int

// The rows.
const (
	AnyState    States = iota
	EnabledOnly        // DisabledException, or KMSInvalidStateException in PendingDeletion
	NotPending         // KMSInvalidStateException in PendingDeletion
	PendingOnly        // KMSInvalidStateException in every other state
	HasMaterial        // KMSInvalidStateException in PendingDeletion and PendingImport
)

// Origin is what an operation asks of a key's origin.
type Origin int

// The rules, of which each is asked before the state.
const (
	AnyOrigin    Origin = iota
	ExternalOnly        // UnsupportedOperationException for a key that the token made
	Rotates             // UnsupportedOperationException for a key that is pending import
)

// Answer tells operations apart by whether they can succeed here.
type Answer int

// The answers.
const (
	Done         Answer = iota // it is done, or refused for a reason that lies in the request or the key
	Refused                    // found, authorised and checked like the others, then refused for every key
	NotSupported               // UnsupportedOperationException without a look at the key
	ActionOnly                 // policies know the action, but no request asks for it
)

// Rate is a class of the request quotas (AWS KMS developer guide, "Request quotas"): requests a second of an account in a
// region, shared by the operations that name it.
type Rate struct{ PerSecond float64 }

// The rows in the order of their declaration, and by their names. They are written while the program starts, and only read
// afterwards.
var (
	all    []*Operation
	byName = map[name]*Operation{}
)

type name struct{ service, operation string }

func add(op Operation) *Operation {
	op.actionName = op.Service + ":" + cmp.Or(op.Action, op.Name)
	all = append(all, &op)
	byName[name{op.Service, op.Name}] = &op
	return &op
}

// All visits every row, ordered as they are declared.
func All(yield func(*Operation) bool) {
	for _, op := range all {
		if !yield(op) {
			return
		}
	}
}

// Find returns the row of an operation, or nil. Names are compared exactly.
func Find(service, operation string) *Operation { return byName[name{service, operation}] }

// FindAction returns the row that policies call by an action such as kms:GenerateMac, in whatever case, or nil.
func FindAction(action string) *Operation {
	for _, op := range all {
		if strings.EqualFold(op.ActionName(), action) {
			return op
		}
	}
	return nil
}
