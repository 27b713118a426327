package pkcs11kms

import (
	"cmp"
	"context"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// Whether a caller may do what it asks for is decided here, and nowhere else, by the key's policy and the caller's own
// (package policy). Key and principal come from the cache, so that a policy, a principal or an access key that is taken
// away counts in every process within a second.

// question is one decision that is asked for.
type question struct {
	resource string           // the ARN that is decided on, or *
	shown    string           // what the refusal names instead, where the resource must not be told
	document *policy.Document // the key policy; nil: only the caller's own policies count, and in other accounts nobody's
	about    conditions
}

// account is the owner of what is decided on: of a key its account, whoever asks. A grant is retired in the account that has made it.
func (q *question) account(op *ops.Operation, caller Caller) string {
	if op == ops.RetireGrant && q.about.req.retire != nil {
		return q.about.req.retire.Issuer
	}
	return cmp.Or(q.about.ref.Account, caller.Account())
}

// across tells whether the question is about a key of another account than the caller's.
func (q *question) across(caller Caller) bool {
	return q.about.ref.Account != "" && q.about.ref.Account != caller.Account()
}

// accountQuestion is the question about what concerns no key.
func accountQuestion(req *request) question {
	return question{resource: "*", shown: "*", about: conditions{req: req}}
}

// decide answers a question: nil, AccessDeniedException, or what kept it from being answered.
func (c *Client) decide(ctx context.Context, op *ops.Operation, q *question) error {
	d, err := c.decision(ctx, op, q)
	if err != nil || d.Allowed {
		return err
	}
	if q.across(c.caller) && !d.ByKey {
		// What the policies of the caller say can hang on what the key is like, and that of the key on whether it is there.
		d = noKeyPolicyAllows
	}
	return accessDenied(c.caller, op, q.shown, d)
}

func (c *Client) decision(ctx context.Context, op *ops.Operation, q *question) (policy.Decision, error) {
	who, err := c.bridge.core.Identities.Identify(ctx, c.caller)
	if err != nil {
		return policy.Decision{}, err
	}
	q.about.client, q.about.ctx, q.about.who = c, ctx, who
	asked := policy.Request{
		Principal: who.Principal(),
		Action:    op.ActionName(),
		Resource:  q.resource,
		Account:   q.account(op, c.caller),
		Context:   &q.about,
		Child:     q.about.req.child,
	}
	policies := who.Judged()
	policies.Key = q.document
	d := policy.Evaluate(asked, policies)
	q.about.req.bound = nil
	if !d.Allowed && op.Grantable && q.about.ref != (keystore.Ref{}) && q.about.err == nil {
		if policies.Grants, err = c.grantsFor(ctx, op, q, who); err != nil {
			return d, err
		}
		if len(policies.Grants) > 0 {
			d = policy.Evaluate(asked, policies)
		}
	}
	return d, q.about.err
}

// authorise decides on a key, or on the place where one would be: there, only the caller's own policies count, as with a key that has the
// default policy. So who may use any key of its account by them learns that there is none. With cached, nothing may be asked of the store
// for it.
func (c *Client) authorise(ctx context.Context, op *ops.Operation, req *request, s subject, cached bool) error {
	if op.IdentityOnly {
		q := accountQuestion(req)
		return c.decide(ctx, op, &q)
	}
	if err := c.authoriseAlias(ctx, op, req); err != nil {
		return err
	}
	q, err := c.questionAbout(s, req, cached)
	if err != nil {
		return err
	}
	return c.decide(ctx, op, &q)
}

func (c *Client) questionAbout(s subject, req *request, cached bool) (question, error) {
	q := question{about: conditions{req: req, key: s.key, alias: cmp.Or(s.name.alias, req.byAlias), cached: cached}}
	var err error
	if s.key == nil {
		q.about.ref = keystore.KeyRef(c.region.Name, s.name.account, s.id)
		q.resource = c.arn(keyID{region: s.name.region, account: s.name.account, id: s.id})
	} else {
		q.about.ref = s.key.Record.Ref()
		q.resource = s.key.ARN
		q.document, err = s.key.policy()
	}
	q.shown = q.resource
	if req.keyID == nil {
		q.shown = "*" // which key a grant token leads to is told to those who may use it
	}
	if s.name.alias != "" {
		q.shown = c.arn(s.name) // which key an alias leads to is told to those who may use it
	}
	return q, err
}

// authoriseTarget decides on the key that an alias leads to, which a refusal does not name.
func (c *Client) authoriseTarget(ctx context.Context, op *ops.Operation, aliasName string, k *key) error {
	q, err := c.questionAbout(subject{id: k.Record.ID, key: k}, &request{}, false)
	if err != nil {
		return err
	}
	q.shown = c.aliasARN(aliasName)
	return c.decide(ctx, op, &q)
}

// authoriseAlias decides on the alias of an operation that concerns one. No key policy can allow that.
func (c *Client) authoriseAlias(ctx context.Context, op *ops.Operation, req *request) error {
	if req.aliasName == "" {
		return nil
	}
	arn := c.aliasARN(req.aliasName)
	return c.decide(ctx, op, &question{resource: arn, shown: arn, about: conditions{req: req}})
}

// authoriseAccount decides on an operation that names no key.
func (c *Client) authoriseAccount(ctx context.Context, op *ops.Operation, req *request) error {
	if req.aliasName != "" {
		return c.authoriseAlias(ctx, op, req)
	}
	q := accountQuestion(req)
	return c.decide(ctx, op, &q)
}

// noKeyPolicyAllows is the decision on those who are refused without a look at any policy.
var noKeyPolicyAllows = policy.Decision{Reason: policy.NoKeyPolicyAllow, Statement: -1}
