package pkcs11kms

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// Simulation is a question about a call that nobody makes.
type Simulation struct {
	Region    string              // empty: the default region
	Principal string              // ARN of a user, a role, a session of a role (which need not be there) or the account's root
	Action    string              // such as kms:GenerateMac
	KeyID     string              // what GenerateMac takes; empty: an action that names no key
	Session   string              // the session policy of a session; empty: none
	Context   map[string][]string // values of condition keys, in place of those of the key, the principal and now
}

// Verdict is the answer to a Simulation.
type Verdict struct {
	policy.Decision
	Resource string // ARN of the key, or *
}

// SimulatePolicy tells whether policies or grants allow a principal an action on a key, and which statement decides: what authorisation
// would find for a call in process with the same condition keys. State and usage of the key do not matter. Of operations on
// aliases it tells the part of the key, of RetireGrant what the policies say of it, and CreateGrant by a grant is allowed for the
// operations in kms:GrantOperations.
func (b *Bridge) SimulatePolicy(ctx context.Context, s Simulation) (Verdict, error) {
	c, err := b.Client(s.Region)
	if err != nil {
		return Verdict{}, err
	}
	caller, err := b.simulatedCaller(ctx, s)
	if err != nil {
		return Verdict{}, err
	}
	c = c.As(caller)
	op, err := simulated(s.Action)
	if err != nil {
		return Verdict{}, err
	}
	req := request{given: defaultConditions(op)}
	for name, values := range s.Context {
		req.given[strings.ToLower(name)] = values
	}
	if operations, ok := req.given["kms:grantoperations"]; ok && op == ops.CreateGrant {
		req.child = &policy.Child{Operations: operations}
	}
	q := accountQuestion(&req)
	switch {
	case s.KeyID != "":
		found, err := c.questionOn(ctx, op, s.KeyID, &req)
		if err != nil {
			return Verdict{}, c.answer(ctx, "SimulatePolicy", "", err)
		}
		if found.across(c.caller) && !op.Across {
			return Verdict{noKeyPolicyAllows, found.resource}, nil
		}
		if !op.IdentityOnly {
			q = found
		}
	case !op.IdentityOnly:
		return Verdict{}, apierr.Validation(fmt.Sprintf("%s is decided on a key: name one", s.Action))
	}
	d, err := c.decision(ctx, op, &q)
	return Verdict{d, q.resource}, c.answer(ctx, "SimulatePolicy", "", err)
}

// simulatedCaller is who asks.
func (b *Bridge) simulatedCaller(ctx context.Context, s Simulation) (Caller, error) {
	identities := b.core.Identities
	switch isSession := identities.IsSessionARN(s.Principal); {
	case isSession:
		return identities.SimulatedSession(ctx, s.Principal, s.Session)
	case s.Session != "":
		return Caller{}, apierr.Validation("Only a session of a role has a session policy.")
	}
	return b.Caller(ctx, s.Principal)
}

// simulated returns the operation of an action.
func simulated(action string) (*ops.Operation, error) {
	op := ops.FindAction(action)
	if op == nil || !strings.HasPrefix(action, "kms:") {
		return nil, apierr.Validation(fmt.Sprintf("%q is no action of AWS KMS, such as kms:GenerateMac", action))
	}
	return op, nil
}

// defaultConditions are the condition keys that an operation has values of when its input says nothing.
func defaultConditions(op *ops.Operation) map[string][]string {
	switch op {
	case ops.CreateKey:
		return givenCreate(&kms.CreateKeyInput{})
	case ops.PutKeyPolicy:
		return givenBypass(false)
	case ops.CreateGrant, ops.ListGrants, ops.RevokeGrant:
		return givenForService()
	case ops.ScheduleKeyDeletion:
		return givenWindow(defaultPendingWindow)
	}
	return map[string][]string{}
}

// questionOn is the question about a key that must be there.
func (c *Client) questionOn(ctx context.Context, op *ops.Operation, keyID string, req *request) (question, error) {
	name, err := c.parseKeyID(keyID, op.TakesAlias)
	if err != nil {
		return question{}, err
	}
	found, err := c.readSubject(ctx, name)
	if err != nil {
		return question{}, err
	}
	if found.missing != nil {
		return question{}, found.missing
	}
	return c.questionAbout(found, req, false)
}
