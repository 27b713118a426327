package pkcs11kms

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
)

// Every operation runs through guard, which holds the order of checks of the real service in one place: resolve the
// key id, authorise, throttle, key state, key usage and algorithm, run. The checks of the input's form come before it, in the
// operation itself; dry runs end inside run, after everything that could fail.

// operation is what guard must know of an API operation.
type operation struct {
	name    string
	aliases bool               // KeyId may be an alias name or alias ARN
	fresh   bool               // reads the record from the store, not from the cache, and repeats when it lost a race
	states  stateRule          // the key states in which it is allowed
	usage   types.KeyUsageType // the usage that the key must have; empty: any
}

// stateRule is a row of the key state table (AWS KMS developer guide, "Key states").
type stateRule int

const (
	anyState    stateRule = iota
	enabledOnly           // DisabledException, or KMSInvalidStateException in PendingDeletion
	notPending            // KMSInvalidStateException in PendingDeletion
	pendingOnly           // KMSInvalidStateException in every other state
)

// allows returns the refusal of the key's state, or nil.
func (rule stateRule) allows(k *key) error {
	pending := k.record.State == keystore.PendingDeletion
	switch {
	case rule == pendingOnly && !pending:
		return invalidState("%s is not pending deletion.", k.arn)
	case (rule == enabledOnly || rule == notPending) && pending:
		return invalidState("%s is pending deletion.", k.arn)
	case rule == enabledOnly && k.record.State != keystore.Enabled:
		return disabled(k.arn)
	}
	return nil
}

// request is what guard must know of one call.
type request struct {
	keyID       *string
	grantTokens []string
	algorithm   types.MacAlgorithmSpec     // of GenerateMac and VerifyMac
	signing     types.SigningAlgorithmSpec // of Sign and Verify
	messageType types.MessageType          // of Sign and Verify, never empty there
}

// guard runs an operation on a key, and turns its error into the caller's answer.
func (c *Client) guard(ctx context.Context, op *operation, req request, run func(context.Context, *key) error) error {
	var k *key
	var err error
	for {
		began := c.bridge.cfg.Now()
		if k, err = c.admit(ctx, op, req); err == nil {
			err = run(ctx, k)
		}
		// A token that is busy or hangs can take longer than a permission may get old. Then the result counts only if
		// the key may still be used.
		if took := c.bridge.cfg.Now().Sub(began); err == nil && op.states == enabledOnly && (took < 0 || took >= recheckInterval) {
			_, err = c.admit(ctx, op, req)
		}
		// A conflict means that somebody else changed the record between admit and run: decide anew.
		if !op.fresh || !errors.Is(err, keystore.ErrConflict) || ctx.Err() != nil {
			break
		}
	}
	arn := ""
	if k != nil {
		arn = k.arn
	}
	return c.answer(ctx, op.name, arn, err)
}

// guardAccount runs an operation that names no key.
func (c *Client) guardAccount(ctx context.Context, op *operation, run func(context.Context) error) error {
	err := c.authoriseAccount(op)
	if err == nil {
		err = c.allow(op, nil)
	}
	if err == nil {
		err = run(ctx)
	}
	return c.answer(ctx, op.name, "", err)
}

// admit returns the key when the caller may run the operation on it and its state and kind allow it.
func (c *Client) admit(ctx context.Context, op *operation, req request) (*key, error) {
	if c.caller.nobody() {
		return nil, accessDenied(c.caller, op.name, *req.keyID)
	}
	k, err := c.resolve(ctx, op, *req.keyID)
	if err != nil {
		return nil, err
	}
	if err := c.allow(op, k); err != nil {
		return k, err
	}
	if len(req.grantTokens) > 0 {
		return nil, invalidGrantToken() // this service makes no grants, so it never gave one out
	}
	if err := op.states.allows(k); err != nil {
		return k, err
	}
	return k, k.fits(op, req)
}

// resolve finds the key that a KeyId names. Keys of other accounts are denied without a look: whether they exist is
// none of the caller's business.
func (c *Client) resolve(ctx context.Context, op *operation, text string) (*key, error) {
	id, err := c.parseKeyID(text, op.aliases)
	if err != nil {
		return nil, err
	}
	if id.account != c.caller.account {
		return nil, accessDenied(c.caller, op.name, c.arn(id))
	}
	if id.alias != "" {
		return c.resolveAlias(ctx, op, id)
	}
	k, err := c.bridge.key(ctx, keystore.KeyRef(id.region, id.account, id.id), op.fresh)
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, notFound("Key '%s' does not exist", c.arn(id))
	}
	return k, err
}

// resolveAlias finds the key that an alias names.
func (c *Client) resolveAlias(ctx context.Context, op *operation, id keyID) (*key, error) {
	ref := keystore.AliasRef(id.region, id.account, id.alias)
	alias, err := cachedRecord(ctx, c.bridge.cache, ref, op.fresh, decodeAlias)
	if err == nil {
		var k *key
		if k, err = c.bridge.key(ctx, keystore.KeyRef(id.region, id.account, alias.record.Target), op.fresh); err == nil {
			return k, nil
		}
	}
	if errors.Is(err, keystore.ErrNotFound) {
		err = aliasNotFound(c.arn(id))
	}
	return nil, err
}

func (c *Client) authoriseAccount(op *operation) error {
	if c.caller.nobody() {
		return accessDenied(c.caller, op.name, "*")
	}
	return nil
}

// fits checks usage, then algorithm, as the real service does.
func (k *key) fits(op *operation, req request) error {
	if op.usage != "" && types.KeyUsageType(k.record.Usage) != op.usage {
		return invalidKeyUsage("%s key usage is %s which is not valid for %s.", k.arn, k.record.Usage, op.name)
	}
	if req.algorithm != "" && (k.mac == nil || k.mac.algorithm != req.algorithm) {
		return invalidKeyUsage("Algorithm %s is incompatible with key spec %s.", req.algorithm, k.record.Spec)
	}
	if req.signing != "" && (k.signing == nil || !k.signing.signs(req.signing)) {
		return invalidKeyUsage("Algorithm %s is incompatible with key spec %s.", req.signing, k.record.Spec)
	}
	return nil
}
