package iam

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/guard"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// subject is what a call is about: a user, a role or the account's root, or the place where one would be.
type subject struct {
	arn     string             // what is decided on
	shown   string             // what a refusal names instead, where the ARN would tell more than the caller has said
	record  keystore.Principal // of a user or role
	version uint64             // of the record; 0: there is none
	root    bool               // the account's root

	assumed bool             // a role that the caller wants to assume
	trust   *policy.Document // its trust policy; nil: nobody may

	policy        keystore.ManagedPolicy // of operations on a managed policy
	policyVersion uint64                 // of its record

	provider        keystore.OIDCProvider // of operations on an OIDC provider
	providerVersion uint64                // of its record; 0: there is none

	key        keystore.AccessKey // of operations on an access key
	keyVersion uint64
}

// tags are those of what the call is about.
func (s subject) tags() []keystore.Tag {
	if s.policy.ID != "" {
		return s.policy.Tags
	}
	if s.provider.URL != "" {
		return s.provider.Tags
	}
	return s.record.Tags
}

// name is what a refusal calls the subject.
func (s subject) name() string { return cmp.Or(s.shown, s.arn) }

// call is one call of an operation: guard's view of it.
type call struct {
	*Client
	op           *ops.Operation
	req          request
	precondition []keystore.Change // what every commit is bound to
	output       map[string]any    // what the audit log is shown of the answer, by the names of the row's Respond
	requestID    string            // of a call in process that writes
	created      string            // the id of an access key that it has made
	across       *audit.Across     // made when the role that is assumed is first seen to be of another account
}

var _ guard.Call[subject] = (*call)(nil)

// commit changes the store, if what permitted the call is as it was then. Otherwise the error is keystore.ErrConflict, and the call is
// decided anew.
func (c *call) commit(ctx context.Context, changes ...keystore.Change) error {
	for _, bound := range c.precondition {
		own := slices.IndexFunc(changes, func(change keystore.Change) bool { return change.Ref == bound.Ref })
		switch {
		case own < 0:
			changes = append(changes, bound)
		case changes[own].Expect != bound.Expect: // who changes himself was permitted by what he is no more
			c.dir.cfg.Cache.Drop()
			return keystore.ErrConflict
		}
	}
	_, err := c.dir.cfg.Cache.Commit(ctx, changes...)
	return err
}

// Now implements guard.Call.
func (c *call) Now() time.Time { return c.dir.cfg.Now() }

// Check implements guard.Call.
func (c *call) Check() error {
	if c.caller.IsNobody() {
		return denied(c.caller, c.op, "*", policy.Decision{})
	}
	return nil
}

// Bind implements guard.Call.
func (c *call) Bind(ctx context.Context) (err error) {
	c.precondition, err = c.dir.Unchanged(ctx, c.caller)
	return err
}

// Cached implements guard.Call: these operations are seldom, and always ask the store.
func (c *call) Cached(context.Context) (s subject, ok bool, err error) { return s, false, nil }

// Stored implements guard.Call.
func (c *call) Stored(ctx context.Context) (s subject, missing, err error) {
	if c.req.find == nil {
		return subject{arn: "*"}, nil, nil
	}
	return c.req.find(ctx)
}

// Authorise implements guard.Call.
func (c *call) Authorise(ctx context.Context, s subject, _ bool) error {
	if c.op.Free {
		return nil
	}
	if s.assumed {
		return c.trusts(ctx, s)
	}
	who, err := c.dir.Identify(ctx, c.caller)
	if err != nil {
		return err
	}
	if c.req.rootOnly && s.root && !who.Principal().Root {
		return denied(c.caller, c.op, s.name(), policy.Decision{})
	}
	d := policy.Evaluate(policy.Request{
		Principal: who.Principal(), Action: c.op.ActionName(), Resource: s.arn, Account: c.caller.account,
		Context: &conditions{call: c, who: &who, tags: s.tags()},
	}, who.Judged())
	if d.Allowed {
		return nil
	}
	return denied(c.caller, c.op, s.name(), d)
}

// Throttle implements guard.Call. The rates are of an account, wherever it calls.
func (c *call) Throttle(subject) error {
	if c.op.Rate == nil || c.dir.cfg.NoRates || c.dir.rates.Take(c.caller.account, "", c.op.Rate, c.Now()) {
		return nil
	}
	return apierr.RateExceeded()
}

// Fits implements guard.Call: users and roles have no states.
func (c *call) Fits(context.Context, subject) error { return nil }

// Answer implements guard.Call.
func (c *call) Answer(_ context.Context, _ subject, err error) error { return err }

// Event implements guard.Call.
func (c *call) Event(s subject) audit.Event {
	resource := s.arn
	if resource == "*" {
		resource = ""
	}
	e := audit.Event{Service: c.op.Service, Operation: c.op.Name, ReadOnly: c.op.Read, Region: c.dir.cfg.Regions[0],
		Resource: resource, Input: map[string]any(c.req.input), Recorded: c.op.Record, Responded: c.op.Respond}
	if c.output != nil {
		e.Output = c.output
	}
	c.caller.Describe(&e)
	if account := s.record.Account; s.assumed && account != "" && account != c.caller.account {
		if c.across == nil {
			c.across = &audit.Across{Owner: account, EventID: audit.NewUUID(), SharedID: audit.NewUUID()}
		}
		e.Across = c.across
	}
	if e.RequestID == "" && c.op.Writes {
		if c.requestID == "" {
			c.requestID = audit.NewID()
		}
		e.RequestID = c.requestID
	}
	return e
}

// DryRun implements guard.Call.
func (c *call) DryRun() bool { return false }

// TakeBack implements guard.Call. Other things that are made have names that the caller has chosen: nothing is made twice.
func (c *call) TakeBack(ctx context.Context) bool {
	if c.created == "" {
		return false
	}
	if err := c.takeBackAccessKey(ctx, c.created); err != nil {
		c.dir.cfg.Log.Error("an access key that was made and could not be recorded is there still; nobody was told its secret",
			"access_key", c.created, "error", err)
	}
	return true
}

// conditions is the context of one decision.
type conditions struct {
	call *call
	who  *Identity
	tags []keystore.Tag // of what the call is about

	account string // of what the call is about; empty: the caller's
}

// Values implements policy.Context.
func (x *conditions) Values(name string) ([]string, bool) {
	if given, ok := x.call.req.given[name]; ok {
		return given, true
	}
	for _, prefix := range []string{"aws:resourcetag/", "iam:resourcetag/"} {
		if tag, ok := strings.CutPrefix(name, prefix); ok {
			return TagValues(x.tags, tag)
		}
	}
	if name == "aws:resourceaccount" {
		return one(cmp.Or(x.account, x.call.caller.account))
	}
	if rest, ok := strings.CutPrefix(name, "aws:"); ok {
		return x.who.Condition(rest, x.call.Now())
	}
	return nil, false
}
