package policy

import (
	"strings"
	"sync"
)

// retireGrant is decided by the grant. A key policy can forbid it, and cannot allow it.
const retireGrant = "kms:RetireGrant"

// Evaluate judges a request: an explicit deny anywhere wins; else the key policy must allow the caller, or leave it to
// an account whose identity policy does; or a grant must give it to the caller. It does no I/O and reads no clock.
//
// What cannot be judged counts against the caller: a statement with such a condition does not allow, and does deny.
func Evaluate(r Request, p Policies) Decision {
	e := evaluations.Get().(*evaluation)
	e.request = r
	d := e.decide(&p)
	*e = evaluation{} // it keeps nothing of the request
	evaluations.Put(e)
	return d
}

// evaluations are those that are not in use: there is one for each call.
var evaluations = sync.Pool{New: func() any { return new(evaluation) }}

// evaluation is one request on its way through the policies.
type evaluation struct {
	request Request
	left    int  // steps that the statement at hand may still take
	unset   bool // a variable without a value was met since the last negation
	spent   int  // steps that all statements took

	asked [8]answer // what the request was asked for already: statements ask for the same keys again and again
	n     int       // how many of them
}

// answer is what the request has for a condition key.
type answer struct {
	key    string
	values []string
}

// stepsPerByte is what a statement may cost: so many steps of comparing for each byte of its text. Far more than
// statements need that are meant well, and a bound for the ones that are not: whatever the request, a document costs at
// most so many steps for each of its bytes. As each statement pays for itself, the order of statements does not count.
const stepsPerByte = 512

// maxPaid is as long as a key policy may be. Bytes of a statement beyond it, which can only be blanks in a policy that
// IAM's quotas allow, pay for nothing.
const maxPaid = 32768

// spend takes n steps, before they are made. When there are not so many left, the answer is unknown.
func (e *evaluation) spend(n int) bool {
	if n > e.left {
		e.left = 0
		return false
	}
	e.left -= n
	return true
}

// hit is a statement that applies to the request.
type hit struct {
	found     bool
	policy    string
	statement int
	sid       string
}

// note keeps the first statement.
func (h *hit) note(policy string, index int, s *statement) {
	if !h.found {
		*h = hit{true, policy, index, s.sid}
	}
}

// hits are the statements of one kind of policy that apply.
type hits struct {
	deny      hit
	allow     hit
	byRole    hit // key policy: an Allow for a session's role, or for everybody
	delegated hit // key policy: an Allow for the caller's account
}

// contributed is the Allow of a key policy in whatever way it names the caller.
func (h *hits) contributed() *hit {
	for _, found := range []*hit{&h.allow, &h.byRole} {
		if found.found {
			return found
		}
	}
	return &h.delegated
}

func (e *evaluation) decide(p *Policies) Decision {
	who := &e.request.Principal
	if who.Federated != "" {
		return e.decideFederated(p)
	}
	if who.Account == "" || who.ARN == "" || who.ID == "" || !p.usable() {
		return Decision{Reason: NoIdentityAllow, Statement: -1}
	}
	identity, key := e.identityHits(p.Identity), e.keyHits(p.resource())
	var session hits
	if p.Limited {
		session = e.identityHits(p.Session)
	}
	d := e.withoutDeny(p, &identity, &key, !p.Limited || session.allow.found)
	otherwise := d.Allowed
	switch {
	// The identity's own policies first: what they deny looks the same whatever the key policy says.
	case identity.deny.found:
		d = identity.deny.decision(DeniedByIdentityPolicy, otherwise)
	case session.deny.found:
		d = session.deny.decision(DeniedBySessionPolicy, otherwise)
	case key.deny.found:
		d = key.deny.decision(DeniedByKeyPolicy, otherwise)
	}
	d.ByIdentity = who.Root || identity.allow.found
	d.ByKey = !key.deny.found && (key.contributed().found || e.granted(p.Grants) != notNamed)
	return d
}

// usable refuses documents of the wrong kind: a key policy taken as an inline policy would lose its Principal.
func (p *Policies) usable() bool {
	for _, list := range [][]Named{p.Identity, p.Session} {
		for i := range list {
			if d := list[i].Document; d == nil || d.kind != IdentityPolicy {
				return false
			}
		}
	}
	if p.Trust != nil {
		return p.Key == nil && p.Trust.kind == TrustPolicy
	}
	return p.Key == nil || p.Key.kind == KeyPolicy
}

func (h *hit) decision(reason Reason, otherwise bool) Decision {
	return Decision{Reason: reason, Policy: h.policy, Statement: h.statement, Sid: h.sid, Otherwise: otherwise}
}

// retiring tells whether the action is one that key policies can only forbid.
func (e *evaluation) retiring() bool { return strings.EqualFold(e.request.Action, retireGrant) }

// withoutDeny decides as if there were no denying statement. inSession tells whether session policies allow it, or there are none.
func (e *evaluation) withoutDeny(p *Policies, identity, key *hits, inSession bool) Decision {
	d := e.byPolicies(p, identity, key, inSession)
	if d.Allowed {
		return d
	}
	byIdentity := e.request.Principal.Root || identity.allow.found
	how := e.granted(p.Grants)
	if how == directly || inSession && (how == byRole || how == byAccount && byIdentity) {
		return Decision{Allowed: true, Reason: AllowedByGrant, Statement: -1}
	}
	return d
}

// byPolicies decides as if there were no denying statement and no grant.
func (e *evaluation) byPolicies(p *Policies, identity, key *hits, inSession bool) Decision {
	who := &e.request.Principal
	own := who.Account == e.request.Account
	byIdentity := who.Root || identity.allow.found
	document := p.resource()
	asked := document != nil && !e.retiring() // whether the resource's policy has a say in what is allowed
	from := key.contributed()                 // what it contributes when the identity allows as well
	switch {
	case own && key.allow.found:
		return key.allow.allowed(AllowedByKeyPolicy)
	case own && key.byRole.found && inSession:
		return key.byRole.allowed(AllowedByKeyPolicy)
	case !byIdentity:
		return Decision{Reason: NoIdentityAllow, Statement: -1}
	case !inSession:
		return Decision{Reason: NoSessionAllow, Statement: -1}
	case !asked && !own, asked && !from.found:
		return Decision{Reason: NoKeyPolicyAllow, Statement: -1}
	case who.Root && !asked:
		return Decision{Allowed: true, Reason: AllowedRoot, Statement: -1}
	case who.Root:
		return from.allowed(AllowedRoot)
	}
	return identity.allow.allowed(AllowedByIdentityPolicy)
}

func (h *hit) allowed(reason Reason) Decision {
	return Decision{Allowed: true, Reason: reason, Policy: h.policy, Statement: h.statement, Sid: h.sid}
}

func (e *evaluation) identityHits(policies []Named) hits {
	var h hits
	for i := range policies {
		d := policies[i].Document
		for j := range d.statements {
			s := &d.statements[j]
			into := &h.deny
			if s.allow {
				into = &h.allow
			}
			if !into.found && s.applies(e) {
				into.note(policies[i].Name, j, s)
			}
		}
	}
	return h
}

func (e *evaluation) keyHits(d *Document) hits {
	var h hits
	if d == nil {
		return h
	}
	for i := range d.statements {
		s := &d.statements[i]
		how := s.principals.names(&e.request.Principal)
		if how == notNamed || s.allow && e.retiring() {
			continue
		}
		into := &h.deny
		switch {
		case s.allow && how == directly:
			into = &h.allow
		case s.allow && how == byRole:
			into = &h.byRole
		case s.allow:
			into = &h.delegated
		}
		if !into.found && s.applies(e) {
			into.note("", i, s)
		}
	}
	return h
}

// values returns what the request has for a condition key: nothing for a key that is not there.
func (e *evaluation) values(key string) []string {
	for i := range e.asked[:e.n] {
		if e.asked[i].key == key {
			return e.asked[i].values
		}
	}
	if e.request.Context == nil {
		return nil
	}
	values, ok := e.request.Context.Values(key)
	if !ok {
		values = nil
	}
	if e.n < len(e.asked) {
		e.asked[e.n] = answer{key, values}
		e.n++
	}
	return values
}
