package pkcs11kms

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// Every operation runs through guard, which holds the order of checks of the real service in one place: resolve the
// key id, authorise, throttle, key state, key usage and algorithm, run. The checks of the input's form come before it, in the
// operation itself; dry runs end inside run, after everything that could fail.

// stateAllows returns the refusal of the key's state, or nil.
func stateAllows(rule ops.States, k *key) error {
	pending := k.record.State == keystore.PendingDeletion
	switch {
	case rule == ops.PendingOnly && !pending:
		return apierr.InvalidState("%s is not pending deletion.", k.arn)
	case (rule == ops.EnabledOnly || rule == ops.NotPending) && pending:
		return apierr.InvalidState("%s is pending deletion.", k.arn)
	case rule == ops.EnabledOnly && k.record.State != keystore.Enabled:
		return apierr.Disabled(k.arn)
	}
	return nil
}

// request is what guard must know of one call.
type request struct {
	keyID       *string
	byAlias     string // the alias that keyID was resolved from earlier
	aliasName   string // of operations on an alias: the caller needs the permission on it as well
	grantTokens []string
	algorithm   types.MacAlgorithmSpec     // of GenerateMac and VerifyMac
	signing     types.SigningAlgorithmSpec // of Sign and Verify
	messageType types.MessageType          // of Sign and Verify, never empty there
	given       map[string][]string        // more condition keys that the input has values of, in lower case
}

// guard runs an operation on a key, and turns its error into the caller's answer.
func (c *Client) guard(ctx context.Context, op *ops.Operation, req request, run func(context.Context, *key) error) error {
	var k *key
	var err error
	for {
		began := c.bridge.cfg.Now()
		if k, err = c.admitWitnessed(ctx, op, req); err == nil {
			err = run(ctx, k)
		}
		// A token that is busy or hangs can take longer than a permission may get old. Then the result counts only if
		// the key may still be used.
		if took := c.bridge.cfg.Now().Sub(began); err == nil && op.States == ops.EnabledOnly && (took < 0 || took >= recheckInterval) {
			_, err = c.admit(ctx, op, req)
		}
		// A conflict means that somebody else changed the record between admit and run: decide anew.
		if !op.Writes || !errors.Is(err, keystore.ErrConflict) || ctx.Err() != nil {
			break
		}
	}
	arn := ""
	if k != nil {
		arn = k.arn
	}
	return c.answer(ctx, op.Name, arn, err)
}

// guardAccount runs an operation that names no key. run gets what every commit of it must be bound to.
func (c *Client) guardAccount(ctx context.Context, op *ops.Operation, req request, run func(context.Context, witness) error) error {
	for {
		w, err := c.witness(ctx, op)
		if err == nil {
			err = c.authoriseAccount(ctx, op, &req)
		}
		if err == nil {
			err = c.throttle(op, nil)
		}
		if err == nil {
			err = run(ctx, w)
		}
		if !op.Writes || !errors.Is(err, keystore.ErrConflict) || ctx.Err() != nil {
			return c.answer(ctx, op.Name, "", err)
		}
	}
}

// admitWitnessed is admit, with the witness of an operation that changes something in the key.
func (c *Client) admitWitnessed(ctx context.Context, op *ops.Operation, req request) (*key, error) {
	w, err := c.witness(ctx, op)
	if err != nil {
		return nil, err
	}
	k, err := c.admit(ctx, op, req)
	if err != nil || len(w) == 0 {
		return k, err
	}
	own := *k
	own.witness = w
	return &own, nil
}

// admit returns the key when the caller may run the operation on it and its state and kind allow it.
func (c *Client) admit(ctx context.Context, op *ops.Operation, req request) (*key, error) {
	k, err := c.permitted(ctx, op, &req)
	if err != nil {
		return k, err
	}
	if err := c.throttle(op, k); err != nil {
		return k, err
	}
	if len(req.grantTokens) > 0 {
		return nil, apierr.InvalidGrantToken() // this service makes no grants, so it never gave one out
	}
	if err := stateAllows(op.States, k); err != nil {
		return k, err
	}
	return k, k.fits(op, req)
}

// fits checks usage, then algorithm, as the real service does.
func (k *key) fits(op *ops.Operation, req request) error {
	if op.Usage != "" && k.record.Usage != op.Usage {
		return apierr.InvalidKeyUsage("%s key usage is %s which is not valid for %s.", k.arn, k.record.Usage, op.Name)
	}
	if req.algorithm != "" && (k.mac == nil || k.mac.algorithm != req.algorithm) {
		return apierr.InvalidKeyUsage("Algorithm %s is incompatible with key spec %s.", req.algorithm, k.record.Spec)
	}
	if req.signing != "" && (k.signing == nil || !k.signing.signs(req.signing)) {
		return apierr.InvalidKeyUsage("Algorithm %s is incompatible with key spec %s.", req.signing, k.record.Spec)
	}
	if algorithm, ok := signingAlgorithm(req.signing); ok && !k.token.Makes(algorithm) {
		return apierr.Unsupported("The token makes no %s signatures. Use ED25519_SHA_512 with MessageType RAW.", req.signing)
	}
	return nil
}
