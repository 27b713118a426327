package iam

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// Identity is a caller as policies see it; the zero Identity is nobody. Every call makes one, so it is small.
type Identity struct {
	// Policies are its inline policies, ordered by name, then the managed ones that it has attached, by their ARNs, and then those of its
	// groups, which are named "group/NAME: " and that. Those of a session are those of its role.
	Policies []policy.Named
	Session  []policy.Named // the session policies of a session that is Limited to what they allow
	Limited  bool

	caller Caller
	user   *keystore.Principal // the record of a user or role, which is not changed; nil for others
}

// Principal is the caller as the statements of policies name it.
func (who *Identity) Principal() policy.Principal {
	c := &who.caller
	p := policy.Principal{Account: c.account, ARN: c.arn, ID: c.id, Root: c.IsRoot()}
	if c.session != nil {
		p.RoleARN, p.RoleID = c.session.roleARN, c.session.RoleID
	}
	return p
}

// Judged are the policies that a request of the caller is judged by, to which what is of the resource is added.
func (who *Identity) Judged() policy.Policies {
	return policy.Policies{Identity: who.Policies, Session: who.Session, Limited: who.Limited}
}

// record is that of a user or role, and empty for others.
func (who *Identity) record() keystore.Principal {
	if who.user == nil {
		return keystore.Principal{}
	}
	return *who.user
}

// principal is a principal record as decisions see it; it is never changed.
type principal struct {
	record   keystore.Principal
	version  uint64
	arn      string
	caller   Caller
	policies []policy.Named // the inline policies, ordered by name
	length   int            // of these

	all atomic.Pointer[composed] // with what else it has: see allPolicies
}

// principal returns a user or role by its unique id: from the cache, whose knowledge is confirmed within the last second.
// keystore.ErrNotFound when there is none (any more). A stored policy that cannot be read is an error: it may deny.
func (d *Directory) principal(ctx context.Context, account, id string) (*principal, error) {
	return records.CachedOrFresh(ctx, d.cfg.Cache, keystore.PrincipalRef(account, id), d.decodePrincipal)
}

func (d *Directory) decodePrincipal(rec keystore.Record) (*principal, error) {
	record, err := keystore.DecodePrincipal(rec)
	if err != nil {
		return nil, err
	}
	p := &principal{record: record, version: rec.Version, arn: d.principalARN(record), caller: d.callerOf(record)}
	for _, inline := range record.Policies {
		document, err := policy.ParseIdentityPolicy(inline.Document)
		if err != nil {
			return nil, fmt.Errorf("policy %q of %s: %w", inline.Name, p.arn, err)
		}
		p.policies = append(p.policies, policy.Named{Name: inline.Name, Document: document})
		p.length += policyLength(inline.Document)
	}
	return p, nil
}

// Identify looks a caller up. A user or role that is not there any more is nobody, whom every policy denies everything, and so is
// a session that has ended, or whose role is not there any more, and who is of no account of this service.
func (d *Directory) Identify(ctx context.Context, caller Caller) (Identity, error) {
	if there, err := d.answersFor(ctx, caller.account); err != nil || !there {
		return Identity{}, err
	}
	if caller.IsRoot() {
		return Identity{caller: caller}, nil
	}
	p, err := d.principal(ctx, caller.account, caller.recordID())
	var policies []policy.Named
	if err == nil {
		p, policies, err = d.allPolicies(ctx, p)
	}
	if errors.Is(err, keystore.ErrNotFound) {
		return Identity{}, nil
	}
	if err != nil || !p.record.Type.IsCaller() {
		return Identity{}, err
	}
	who := Identity{Policies: policies, caller: caller, user: &p.record}
	if s := caller.session; s != nil {
		if s.expired(d.cfg.Now()) {
			return Identity{}, nil
		}
		who.Limited = s.limited()
		who.Session, err = d.sessionPolicies(ctx, s)
		if _, gone := errors.AsType[partError](err); gone {
			return Identity{}, nil
		}
	}
	return who, err
}

// Unchanged binds the commits of an operation to the caller's user or role, and what it has attached, as it is when the operation is
// permitted: a policy or a principal that is taken away before the commit makes it fail, and the operation is decided anew. From the
// root nothing is taken away.
func (d *Directory) Unchanged(ctx context.Context, caller Caller) ([]keystore.Change, error) {
	if caller.IsNobody() || caller.IsRoot() {
		return nil, nil
	}
	p, err := d.principal(ctx, caller.account, caller.recordID())
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil // and nothing is permitted to it
	}
	if err != nil {
		return nil, err
	}
	parts, err := d.unchangedParts(ctx, p, caller.session)
	return append(parts, keystore.Change{Op: keystore.Check, Ref: p.record.Ref(), Expect: p.version}), err
}

// Condition returns the value of a condition key that every request of the caller has, in whatever service: of the caller, the
// connection and the time. name is what follows "aws:", in lower case.
func (who *Identity) Condition(name string, now time.Time) ([]string, bool) {
	if s := who.caller.session; s != nil {
		if values, ok := s.condition(name); ok {
			return values, true
		}
	}
	if tag, ok := strings.CutPrefix(name, "principaltag/"); ok {
		return TagValues(who.record().Tags, tag)
	}
	switch name {
	case "currenttime":
		return one(now.UTC().Format(time.RFC3339))
	case "epochtime":
		return one(strconv.FormatInt(now.Unix(), 10))
	case "viaawsservice", "principalisawsservice":
		return one("false") // nobody but users, roles, their sessions and root calls this service
	}
	if values, ok := who.principalCondition(name); ok {
		return values, true
	}
	return who.caller.condition(name)
}

func (who *Identity) principalCondition(name string) ([]string, bool) {
	switch name {
	case "principalarn":
		return one(who.caller.arn)
	case "principalaccount":
		return one(who.caller.account)
	case "principaltype":
		return one(principalTypes[who.record().Type])
	case "userid":
		return one(who.caller.id)
	case "username":
		if who.record().Type == keystore.PrincipalUser {
			return one(who.record().Name)
		}
	}
	return nil, false
}

// principalTypes are the values of aws:PrincipalType. Who uses an access key of a role is called as its sessions are.
var principalTypes = map[keystore.PrincipalType]string{"": "Account", keystore.PrincipalUser: "User", keystore.PrincipalRole: "AssumedRole"}

func (c Caller) condition(name string) ([]string, bool) {
	if !c.connected {
		return nil, false
	}
	switch name {
	case "sourceip":
		if c.conn.SourceIP.IsValid() {
			return one(c.conn.SourceIP.WithZone("").String())
		}
	case "securetransport":
		return one(strconv.FormatBool(c.conn.TLS))
	case "useragent":
		return userAgent(c.conn.UserAgent)
	}
	return nil, false
}

// maxUserAgent is more than clients send. Comparing a longer one with the patterns of a policy could take long, so it
// counts as one that cannot be judged: as two.
const maxUserAgent = 1024

func userAgent(name string) ([]string, bool) {
	switch {
	case len(name) > maxUserAgent:
		return []string{name[:maxUserAgent], name[:maxUserAgent]}, true
	case name == "":
		return nil, false
	}
	return one(name)
}

func one(value string) ([]string, bool) { return []string{value}, true }

// Tag keys that differ in case alone are several tags and one condition key, since condition keys know no case: it has
// several values then, which a condition on one value cannot judge. Both sides are folded by strings.ToLower, as the policy
// is.

// RequestTags are the condition keys of a request that gives tags: aws:RequestTag/KEY and aws:TagKeys, by their names in lower case.
func RequestTags(tags []keystore.Tag) map[string][]string {
	given := map[string][]string{}
	for _, tag := range tags {
		name := "aws:requesttag/" + strings.ToLower(tag.Key)
		given[name] = append(given[name], tag.Value)
		given["aws:tagkeys"] = append(given["aws:tagkeys"], tag.Key)
	}
	return given
}

// TagValues returns the values of the tags whose key is folded to name: those of a condition key such as aws:ResourceTag/name.
func TagValues(tags []keystore.Tag, name string) (values []string, ok bool) {
	for _, tag := range tags {
		if strings.ToLower(tag.Key) == name {
			values = append(values, tag.Value)
		}
	}
	return values, len(values) > 0
}
