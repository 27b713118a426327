package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/aws/smithy-go"
	"github.com/google/uuid"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// accessDenied tells which kind of policy was in the way. That a policy denies explicitly is told only to those whom others
// allow: whoever may do nothing with a key gets the same answer whether there is one or not.
func accessDenied(caller Caller, op *ops.Operation, resource string, d policy.Decision) error {
	because := "because no identity-based policy allows the " + op.ActionName() + " action"
	switch {
	case d.Reason == policy.DeniedByKeyPolicy && d.Otherwise:
		because = "with an explicit deny in a resource-based policy"
	case d.Reason == policy.DeniedByIdentityPolicy && (d.Otherwise || d.ByIdentity):
		because = "with an explicit deny in an identity-based policy"
	case d.Reason == policy.DeniedBySessionPolicy && (d.Otherwise || d.ByIdentity):
		because = "with an explicit deny in a session policy"
	case d.Reason == policy.NoSessionAllow:
		because = "because no session policy allows the " + op.ActionName() + " action"
	case d.Reason == policy.NoKeyPolicyAllow:
		because = "because no resource-based policy allows the " + op.ActionName() + " action"
	}
	return apierr.AccessDenied(caller.ARN(), op.ActionName(), resource, because)
}

// ErrClosed says that a Client or a MACStream was used after its end: Close, Sum, or the end of its context.
var ErrClosed = errors.New("client or stream is closed")

// answer turns whatever an operation ended with into what its caller is told. Errors of the API pass; the end of the
// caller's own context stays recognisable; the rest is logged with its cause and told with a fixed text.
func (c *Client) answer(ctx context.Context, op, arn string, err error) error {
	if err == nil {
		return nil // without making the error that it is not
	}
	return c.answerLost(ctx, op, arn, apierr.Unavailable(arn), err)
}

// authenticationFailed is the answer when store or token fail before it is known who asks.
func (b *Bridge) authenticationFailed(ctx context.Context, err error) error {
	return (&Client{bridge: b}).answerLost(ctx, opAuthentication, "", apierr.ServiceUnavailable(), err)
}

// answerLost is answer, with lost for what a token that does not serve is answered with.
func (c *Client) answerLost(ctx context.Context, op, arn string, lost, err error) error {
	var api smithy.APIError
	if err == nil || errors.As(err, &api) {
		return err
	}
	if errors.Is(err, token.ErrClosed) || errors.Is(err, keystore.ErrClosed) {
		return fmt.Errorf("%s: %w", op, ErrClosed)
	}
	c.bridge.tokenErrors.count(err)
	switch {
	case errors.Is(err, token.ErrBusy):
		return apierr.WithCause(apierr.Throttled(), err)
	case errors.Is(err, keystore.ErrBusy):
		c.log(ctx, op, arn, "the store is busy", err)
		return apierr.WithCause(apierr.Throttled(), err)
	case ctx.Err() != nil:
		return &smithy.CanceledError{Err: ctx.Err()}
	case errors.Is(err, token.ErrMessageTooLong):
		return apierr.WithCause(apierr.Validation("The message is longer than the token takes: its limit is less than that of the API."), err)
	case tokenLost(err), tokenFailed(err):
		c.log(ctx, op, arn, "the token does not serve", err)
		return apierr.WithCause(lost, err)
	}
	id := uuid.NewString()
	c.log(ctx, op, arn, "internal error", err, slog.String("error_id", id))
	return apierr.WithCause(apierr.Internal(id), err)
}

// opAuthentication is what the log calls the making of a signing key.
const opAuthentication = "authentication"

// tokenLost reports whether the token does not answer, or has no such object.
func tokenLost(err error) bool {
	_, hung := errors.AsType[*token.HungError](err)
	return hung || errors.Is(err, token.ErrGone) || errors.Is(err, token.ErrKeyMissing)
}

// tokenFailed reports whether the token's answer is an error of whatever kind: the device is in trouble or, where a key is used, its
// object is damaged. Both pass or are mended without us, so that trying again is right, and none is a mistake of this program.
func tokenFailed(err error) bool {
	_, answered := errors.AsType[*token.Error](err)
	return answered || errors.Is(err, token.ErrKeyAmbiguous) || errors.Is(err, token.ErrKeyForeign) || errors.Is(err, token.ErrMalformed)
}

func (c *Client) log(ctx context.Context, op, arn, what string, err error, more ...slog.Attr) {
	attrs := append([]slog.Attr{slog.String("operation", op), slog.String("key", arn), slog.Any("error", err)}, more...)
	c.bridge.core.Log.LogAttrs(ctx, slog.LevelError, what, attrs...)
}
