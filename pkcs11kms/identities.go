package pkcs11kms

import (
	"context"
	"errors"

	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

// Caller is the principal in whose name a Client acts. The zero Caller is nobody: every operation is denied to it.
type Caller = iam.Caller

// Connection is where a request came from, as far as policies may ask.
type Connection = iam.Connection

// IAM returns a handle on users, roles and access keys, without a Caller: give it one with As. It is cheap.
func (b *Bridge) IAM() *iam.Client { return b.core.Identities.Client() }

// IAM returns a handle on AWS IAM that acts in the name of the Client's caller.
func (c *Client) IAM() *iam.Client { return c.bridge.IAM().As(c.caller) }

// Root returns the root principal of the account that the configuration names. The default key policy allows it everything, and whatever
// needs a policy of the caller's own is allowed to it without one.
func (b *Bridge) Root() Caller { return b.core.Identities.Root(b.cfg.AccountID) }

// Caller returns the Caller with this ARN, for Client.As: the root of an account, or a user or role that there is.
// NoSuchEntity when there is none.
func (b *Bridge) Caller(ctx context.Context, arn string) (Caller, error) {
	return b.core.Identities.Caller(ctx, arn)
}

// As returns a handle on the same Bridge and region that acts in the name of caller. It is cheap.
func (c *Client) As(caller Caller) *Client {
	other := *c
	other.caller = caller
	return &other
}

// SigningKey returns the key that requests of an access key are signed with on a date (yyyymmdd), for a region and a service by
// its signing name, and the Caller that the access key stands for. Unknown and inactive ids, and those of an owner that was
// removed, are iam.ErrUnknownAccessKey. Failures of store and token are errors of the API, as operations return them.
func (b *Bridge) SigningKey(ctx context.Context, accessKeyID, date, region, service string) (sigv4.Key, Caller, error) {
	key, caller, err := b.core.Identities.SigningKey(ctx, accessKeyID, date, region, service)
	if err != nil && !errors.Is(err, iam.ErrUnknownAccessKey) {
		err = b.authenticationFailed(ctx, err)
	}
	return key, caller, err
}

// SessionKey is SigningKey for the access key of a session of a role and its token. A token that this service has not made for that access
// key, or whose role was removed, is iam.ErrUnknownAccessKey; one of a session that has ended is iam.ErrExpiredToken.
func (b *Bridge) SessionKey(ctx context.Context, accessKeyID, token, date, region, service string) (sigv4.Key, Caller, error) {
	key, caller, err := b.core.Identities.SessionKey(ctx, accessKeyID, token, date, region, service)
	if err != nil && !errors.Is(err, iam.ErrUnknownAccessKey) && !errors.Is(err, iam.ErrExpiredToken) {
		err = b.authenticationFailed(ctx, err)
	}
	return key, caller, err
}

// AccessKeyUsed notes that a caller has proved to hold an access key, by a request to a region. It costs no more than a look at
// the clock.
func (b *Bridge) AccessKeyUsed(caller Caller, id, region string) {
	b.core.Identities.AccessKeyUsed(caller, id, region)
}
