package iam

import (
	"cmp"
	"context"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/guard"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// Client answers the operations of AWS IAM in the name of one Caller, in the Caller's account. It is safe for concurrent use.
type Client struct {
	dir    *Directory
	caller Caller
}

// As returns a handle that acts in the name of caller. It is cheap.
func (c *Client) As(caller Caller) *Client { return &Client{dir: c.dir, caller: caller} }

// Caller returns the principal in whose name the Client acts.
func (c *Client) Caller() Caller { return c.caller }

// input is what a request says, by the names that CloudTrail gives to the members, such as userName.
type input map[string]any

// request is what guard must know of one call.
type request struct {
	input input
	form  error               // what is wrong with the form of the input
	given map[string][]string // condition keys that the input has values of, in lower case
	// find reads what the call is about, each time that it is decided. missing is what those are told who may ask when it is not
	// there. Nil: the call is about nothing that has a name.
	find    func(context.Context) (s subject, missing, err error)
	actions []*ops.Operation // of AssumeRole: what it must be allowed beside itself
	// rootOnly: if the call is about the account's root, no policy can allow it to anybody else.
	rootOnly bool
}

// perform makes a call of an operation by guard's way. run gets what find found.
func (c *Client) perform(ctx context.Context, op *ops.Operation, req request, run func(context.Context, *call, subject) error) error {
	x := &call{Client: c, op: op, req: req}
	return guard.Perform(ctx, op, x, c.dir.cfg.Audit, req.form, func(ctx context.Context, s subject) error { return run(ctx, x, s) })
}

// answered is what a call is answered with: nothing beside an error, which may have come after everything was found or done.
func answered[Out any](out Out, err error) (Out, error) {
	if err != nil {
		var nothing Out
		return nothing, err
	}
	return out, nil
}

// byType is the operations that users, roles and groups have for one thing; nil where they have none.
type byType struct{ user, role, group *ops.Operation }

// of returns the operation of a type; another one for a type that has none, which is refused by its form.
func (p byType) of(t keystore.PrincipalType) *ops.Operation {
	op := p.user
	switch t {
	case keystore.PrincipalRole:
		op = p.role
	case keystore.PrincipalGroup:
		op = p.group
	}
	return cmp.Or(op, p.user, p.role, p.group)
}

// has tells whether a type has the operation.
func (p byType) has(t keystore.PrincipalType) error {
	if op := p.of(t); op != p.user && t == keystore.PrincipalUser || op != p.role && t == keystore.PrincipalRole ||
		op != p.group && t == keystore.PrincipalGroup {
		return failure(validationError, "A %s has nothing for %s.", t, op.Name)
	}
	return nil
}
