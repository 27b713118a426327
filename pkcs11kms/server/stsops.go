package server

import (
	"context"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

const stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"

// securityTokens is AWS STS, of which there is what needs no sessions.
var securityTokens = &service{signingName: "sts", codec: query("sts", stsNamespace), global: true, operations: map[string]handler{
	"GetCallerIdentity": queryOp(stsNamespace, getCallerIdentity),
}}

// callerIdentity has its members in the order of the real service's answer.
type callerIdentity struct{ Arn, UserId, Account string }

func getCallerIdentity(ctx context.Context, c *pkcs11kms.Client, _ *struct{}) (*callerIdentity, error) {
	who, err := c.IAM().GetCallerIdentity(ctx)
	return &callerIdentity{Arn: who.ARN, UserId: who.UserID, Account: who.Account}, err
}
