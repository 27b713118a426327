package pkcs11kms

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/uuid"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/guard"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// Every operation is one call of perform, with its row in the table of operations, what it asks for, and what it does. The order
// of the checks is guard's. Dry runs end inside run, after everything that could fail.

// request is what guard must know of one call.
type request struct {
	keyID       *string // nil: the request names no key
	byAlias     string  // the alias that keyID was resolved from earlier
	aliasName   string  // of operations on an alias: the caller needs the permission on it as well
	grantTokens []string
	algorithm   types.MacAlgorithmSpec     // of GenerateMac and VerifyMac
	signing     types.SigningAlgorithmSpec // of Sign and Verify
	messageType types.MessageType          // of Sign and Verify, never empty there
	given       map[string][]string        // more condition keys that the input has values of, in lower case
	dryRun      bool
	child       *policy.Child     // of CreateGrant: what the grant would give
	retiring    *string           // the token of RetireGrant, or nil
	retiringID  *string           // the id of the grant of RetireGrant, beside keyID
	retire      *grantRecord      // what was found by either; nil: no such grant
	bound       []keystore.Change // what commits are bound to because the permission rests on grants
	shown       any               // what the audit log is to be shown of in place of the input: the same with its defaults
}

// perform makes a call of an operation: the SDK's option functions, no input for an empty one, the constraints of the API model,
// and then guard's way. ask checks what the constraints leave to the operation, and returns what it is about. run gets the
// key, or nil when the request names none; no output is returned beside an error.
func perform[In, Out any](
	ctx context.Context, c *Client, op *ops.Operation, in *In, optFns []func(*kms.Options),
	ask func(*Client, *In) (request, error), run func(context.Context, *call, *In, *key) (*Out, error),
) (*Out, error) {
	c, err := c.with(optFns)
	if err != nil {
		return nil, err
	}
	if in == nil {
		in = new(In)
	}
	return guarded(ctx, c, op, in, func(c *Client, in *In) (request, error) {
		if err := form.Check(in).Err(); err != nil {
			return request{}, err
		}
		return ask(c, in)
	}, run)
}

// guarded is perform without what only AWS KMS has: ask checks all of the form.
func guarded[In, Out any](
	ctx context.Context, c *Client, op *ops.Operation, in *In, ask func(*Client, *In) (request, error),
	run func(context.Context, *call, *In, *key) (*Out, error),
) (*Out, error) {
	x := &call{Client: c, op: op, input: in}
	var err error
	x.req, err = ask(c, in)
	var out *Out
	err = guard.Perform(ctx, op, x, c.bridge.cfg.Audit, err, func(ctx context.Context, s subject) (err error) {
		x.settle(s)
		if op.Uses {
			x.used = s.key
		}
		out, err = run(ctx, x, in, s.key)
		x.output = out
		return err
	})
	if err != nil {
		return nil, err
	}
	if x.used != nil {
		x.noteUse()
	}
	return out, nil
}

// call is one call of an operation on the Client of its region: guard's view of it.
type call struct {
	*Client
	op           *ops.Operation
	input        any // the SDK's
	output       any // the SDK's, once the operation has run
	requestID    string
	req          request
	used         *key      // whose material an operation uses
	callID       uuid.UUID // of the record of that, see audit.Event; made when they are first asked for
	eventID      uuid.UUID
	across       *audit.Across               // made when the key's account is first seen to be another one
	name         keyID                       // what req.keyID names
	precondition []keystore.Change           // what every commit is bound to
	software     bool                        // key material was opened in the memory of this process
	created      func(context.Context) error // undoes what the call has created; nil: nothing that a repeated call makes again
}

var _ guard.Call[subject] = (*call)(nil)

// settle keeps the key that an alias led to, for as long as a call that only reads lasts: an alias that moves meanwhile must not change
// the key, and what was allowed by the alias stays allowed by it.
func (c *call) settle(s subject) {
	if c.name.alias == "" || s.key == nil || c.op.Writes {
		return
	}
	c.req.byAlias = c.name.alias
	c.name = keyID{region: c.name.region, account: c.name.account, id: s.key.Record.ID}
}

// commit changes the store, if what permitted the call is as it was then. Otherwise the error is keystore.ErrConflict.
func (c *call) commit(ctx context.Context, changes ...keystore.Change) error {
	_, err := c.commitVersion(ctx, changes...)
	return err
}

// commitVersion is commit, and returns the version of the first change.
func (c *call) commitVersion(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	all := append(changes, c.precondition...)
	for _, bound := range c.req.bound {
		i := slices.IndexFunc(changes, func(change keystore.Change) bool { return change.Ref == bound.Ref })
		switch {
		case i < 0:
			all = append(all, bound)
		case changes[i].Expect != bound.Expect:
			return 0, keystore.ErrConflict
		}
	}
	return c.bridge.core.Cache.Commit(ctx, all...)
}

// Now implements guard.Call.
func (c *call) Now() time.Time { return c.bridge.cfg.Now() }

// Check implements guard.Call.
func (c *call) Check() (err error) {
	if c.req.keyID == nil {
		if c.caller.IsNobody() {
			err = accessDenied(c.caller, c.op, "*", noKeyPolicyAllows)
		}
		return err
	}
	if c.caller.IsNobody() {
		return accessDenied(c.caller, c.op, *c.req.keyID, noKeyPolicyAllows)
	}
	if c.name, err = c.parseKeyID(*c.req.keyID, c.op.TakesAlias); err != nil {
		return err
	}
	if c.name.account != c.caller.Account() && !c.op.Across {
		return accessDenied(c.caller, c.op, c.arn(c.name), noKeyPolicyAllows)
	}
	return nil
}

// Bind implements guard.Call: the user or role must be as it was when the call was permitted. From the root nothing is taken
// away.
func (c *call) Bind(ctx context.Context) (err error) {
	c.precondition, err = c.bridge.core.Identities.Unchanged(ctx, c.caller)
	return err
}

// Cached implements guard.Call.
func (c *call) Cached(ctx context.Context) (subject, bool, error) {
	if c.req.keyID == nil {
		return subject{}, false, nil
	}
	s, err := c.cachedSubject(ctx, c.name)
	return s, s.key != nil, err
}

// Stored implements guard.Call.
func (c *call) Stored(ctx context.Context) (s subject, missing error, err error) {
	if c.op == ops.RetireGrant {
		return c.storedGrant(ctx)
	}
	if c.req.keyID == nil {
		return subject{}, nil, nil
	}
	s, err = c.readSubject(ctx, c.name)
	return s, s.missing, err
}

// Authorise implements guard.Call.
func (c *call) Authorise(ctx context.Context, s subject, cached bool) error {
	if c.req.keyID == nil && s.key == nil {
		return c.authoriseAccount(ctx, c.op, &c.req)
	}
	return c.authorise(ctx, c.op, &c.req, s, cached)
}

// Throttle implements guard.Call.
func (c *call) Throttle(s subject) error { return c.throttle(c.op, s.key) }

// Fits implements guard.Call: grant tokens, then the key's state, then its usage and the algorithm.
func (c *call) Fits(ctx context.Context, s subject) error {
	if s.key == nil {
		return nil
	}
	if err := c.checkGrantTokens(ctx, c.req.grantTokens); err != nil {
		return err
	}
	if err := originAllows(c.op.Origin, s.key); err != nil {
		return err
	}
	if err := stateAllows(c.op.States, s.key); err != nil {
		return err
	}
	return s.key.fits(c.op, &c.req)
}

// Answer implements guard.Call.
func (c *call) Answer(ctx context.Context, s subject, err error) error {
	return c.answer(ctx, c.op.Name, s.arn(), err)
}

// Event implements guard.Call.
func (c *call) Event(s subject) audit.Event {
	e := audit.Event{
		Service: c.op.Service, Operation: c.op.Name, ReadOnly: c.op.Read, Region: c.region.Name, Resource: s.arn(),
		Input: c.input, Recorded: c.op.Record,
	}
	if c.req.shown != nil {
		e.Input = c.req.shown
	}
	c.caller.Describe(&e)
	if s.key != nil && s.key.Record.Account != e.Account {
		c.share(&e, s.key.Record.Account)
	}
	if c.op.Writes {
		c.describeChange(&e, s)
	}
	if e.RequestID == "" {
		e.RequestID = c.requestID
	}
	if c.op.Uses {
		c.identify(&e)
	}
	return e
}

// share has a call recorded for the account of the key as well.
func (c *call) share(e *audit.Event, owner string) {
	if c.across == nil {
		c.across = &audit.Across{Owner: owner, EventID: audit.NewUUID(), SharedID: audit.NewUUID()}
	}
	e.Across = c.across
}

// keyIDAlone is what CloudTrail shows of the answer where the API answers nothing.
var keyIDAlone = []string{"keyId"}

// describeChange tells what only those events have that change something: one id for two records, and response elements.
func (c *call) describeChange(e *audit.Event, s subject) {
	if c.requestID == "" {
		c.requestID = audit.NewID()
	}
	if c.req.aliasName != "" {
		e.Alias = c.aliasARN(c.req.aliasName)
	}
	if c.software {
		e.Additional = map[string]any{"unwrappedBy": "software"}
	}
	if c.req.retire != nil {
		e.Additional = map[string]any{"grantId": c.req.retire.ID}
	}
	if granted, ok := c.output.(*kms.CreateGrantOutput); ok && granted != nil {
		e.Output, e.Responded = map[string]any{"keyId": s.arn(), "grantId": *granted.GrantId}, slices.Concat(keyIDAlone, c.op.Respond)
		return
	}
	switch made, ok := c.output.(*kms.CreateKeyOutput); {
	case ok && made != nil:
		e.Resource = *made.KeyMetadata.Arn
		fallthrough
	case c.op.Respond != nil:
		e.Output, e.Responded = c.output, c.op.Respond
	case s.key != nil:
		e.Output, e.Responded = map[string]any{"keyId": s.arn()}, keyIDAlone
	}
}

// DryRun implements guard.Call.
func (c *call) DryRun() bool { return c.req.dryRun }

// TakeBack implements guard.Call.
func (c *call) TakeBack(ctx context.Context) bool {
	if c.created == nil {
		return false
	}
	if err := c.created(ctx); err != nil {
		c.bridge.cfg.Logger.Error("what was created and could not be recorded is there still: who repeats the call makes another",
			"operation", c.op.Name, "request", c.requestID, "error", err)
	}
	return true
}

// originAllows returns the refusal of the key's origin, or nil.
func originAllows(rule ops.Origin, k *key) error {
	switch {
	case rule == ops.ExternalOnly && k.Record.Import == nil, rule == ops.Rotates && k.State() == keystore.PendingImport:
		return apierr.Unsupported("%s origin is %s which is not valid for this operation.", k.ARN, k.Record.Origin)
	}
	return nil
}

// stateAllows returns the refusal of the key's state, or nil.
func stateAllows(rule ops.States, k *key) error {
	state := k.State()
	pending := state == keystore.PendingDeletion
	switch {
	case rule == ops.PendingOnly && !pending:
		return apierr.InvalidState("%s is not pending deletion.", k.ARN)
	case rule != ops.AnyState && rule != ops.PendingOnly && pending:
		return apierr.InvalidState("%s is pending deletion.", k.ARN)
	case (rule == ops.EnabledOnly || rule == ops.HasMaterial) && state == keystore.PendingImport:
		return apierr.InvalidState("%s is pending import.", k.ARN)
	case rule == ops.EnabledOnly && state != keystore.Enabled:
		return apierr.Disabled(k.ARN)
	}
	return nil
}

// fits checks usage, then algorithm, as the real service does; then whether both are to be had here.
func (k *key) fits(op *ops.Operation, req *request) error {
	if op.Usage != "" && k.Record.Usage != op.Usage {
		return apierr.InvalidKeyUsage("%s key usage is %s which is not valid for %s.", k.ARN, k.Record.Usage, op.Name)
	}
	mac, signature := req.algorithm == "", req.signing == "" // whether the key has what is asked for
	switch material := k.Material.(type) {
	case *keyring.HMAC:
		mac = mac || material.Spec.Algorithm == req.algorithm
	case *keyring.Pair:
		signature = signature || material.Spec.Signs(req.signing)
	}
	switch algorithm, signs := keyring.SigningAlgorithm(req.signing); {
	case !mac:
		return apierr.InvalidKeyUsage("Algorithm %s is incompatible with key spec %s.", req.algorithm, k.Record.Spec)
	case !signature:
		return apierr.InvalidKeyUsage("Algorithm %s is incompatible with key spec %s.", req.signing, k.Record.Spec)
	case signs && k.pair().Spec.NotApproved() != nil:
		return k.pair().Spec.NotApproved()
	case signs && op == ops.Sign: // to verify takes no token
		return k.algorithmGap(req.signing, k.pair().Gap(algorithm))
	}
	return nil
}
