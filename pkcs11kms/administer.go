package pkcs11kms

import (
	"context"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/guard"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// Refused tells the audit log of a request of the Client's caller that was refused before it reached an operation: what was sent is no
// input, or the operation is none of this service's. in is a pointer to the SDK's input, or nil. It returns what the request is to be
// answered with. It is for this module's server.
func (c *Client) Refused(ctx context.Context, service, operation string, in any, err error) error {
	x := &call{Client: c, op: ops.Find(service, operation), input: in}
	if x.op == nil {
		x.op = &ops.Operation{Service: service, Name: operation}
	}
	return guard.Perform[subject](ctx, x.op, x, c.bridge.cfg.Audit, err, nil)
}

// administration is a call of one of this service's own operations. What it ends with is said to an operator, who needs the cause.
type administration struct{ *call }

// Check implements guard.Call: these operations are about all of the service, so that nobody of an account that was made in it may do them.
func (a administration) Check() error {
	if a.caller.Account() != a.bridge.cfg.AccountID {
		return accessDenied(a.caller, a.op, "*", policy.Decision{})
	}
	return a.call.Check()
}

// Answer implements guard.Call.
func (a administration) Answer(_ context.Context, _ subject, err error) error { return err }

// Administer makes a call of one of this service's own operations (internal/ops/own.go) in the name of the Client's caller: it is
// decided, and told to the audit log, like every other. in are its options, by the names of the row's Record. run binds what it commits
// first to the precondition, and returns keystore.ErrConflict when that does not hold any more. It is for this module's other
// packages: the types are internal.
func Administer(
	ctx context.Context, c *Client, op *ops.Operation, in map[string]any,
	run func(ctx context.Context, inside *core.Core, precondition []keystore.Change) error,
) error {
	x := administration{&call{Client: c, op: op, input: in}}
	return guard.Perform[subject](ctx, op, x, c.bridge.cfg.Audit, nil, func(ctx context.Context, _ subject) error {
		return run(ctx, c.bridge.Core(), x.precondition)
	})
}
