package iam

import (
	"context"
	"errors"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// CallerIdentity is who a caller is, as AWS STS tells it.
type CallerIdentity struct {
	UserID  string // the unique id of the user, role or session; of the account's root the account
	Account string
	ARN     string
}

// GetCallerIdentity tells a caller who it is. No policy allows that, and none can deny it. (AWS STS, GetCallerIdentity)
func (c *Client) GetCallerIdentity(ctx context.Context) (who CallerIdentity, err error) {
	err = c.perform(ctx, ops.GetCallerIdentity, request{input: input{}}, func(context.Context, *call, subject) error {
		who = CallerIdentity{UserID: c.caller.id, Account: c.caller.account, ARN: c.caller.arn}
		return nil
	})
	return answered(who, err)
}

// Name returns the name of the Client's caller: the zero PrincipalName for the account's root, and for a user or role that has gone. A
// session has that of its role.
func (c *Client) Name(ctx context.Context) (PrincipalName, error) {
	if c.caller.IsNobody() || c.caller.IsRoot() {
		return PrincipalName{}, nil
	}
	p, err := c.dir.principal(ctx, c.caller.account, c.caller.recordID())
	if errors.Is(err, keystore.ErrNotFound) {
		return PrincipalName{}, nil
	}
	if err != nil {
		return PrincipalName{}, err
	}
	return PrincipalName{p.record.Type, p.record.Name}, nil
}
