package policy

import (
	"regexp"
	"slices"
	"strings"
)

// What trust policies have of their own: the texts of AWS IAM for what it refuses, the actions that they can allow, and condition keys of
// identity providers beside those of AWS.

const onlyAssumeText = "AssumeRole policy may only specify STS AssumeRole actions."

// trustActions are the actions of AWS STS that are decided on a role, in lower case.
var trustActions = []string{"sts:assumerole", "sts:assumerolewithsaml", "sts:assumerolewithwebidentity", "sts:tagsession",
	"sts:setsourceidentity", "sts:setcontext"}

// assumes tells whether a pattern is of AWS STS and covers one of the actions that are decided on a role.
func assumes(text string) bool {
	const maxAction, enough = 128, 1 << 16
	text = strings.ToLower(text)
	if !strings.HasPrefix(text, "sts:") || len(text) > maxAction {
		return false
	}
	p := newPattern(text)
	return slices.ContainsFunc(trustActions, func(action string) bool {
		left := enough
		return p.match(action, true, &left) == yes
	})
}

// providerKey is a condition key of an identity provider: oidc.example.org/id/1:sub.
var providerKey = regexp.MustCompile(`^(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?:/[\w.~-]+)*|(?i:saml)):[A-Za-z_]+$`)

// isTrustKey reports whether a text has the form of a condition key that a trust policy may have.
func isTrustKey(text string) bool {
	prefix, _, _ := strings.Cut(strings.ToLower(text), ":")
	if prefix == "aws" || prefix == "sts" || prefix == "iam" {
		return isConditionKey(text)
	}
	return len(text) <= maxOtherPrincipal && providerKey.MatchString(text)
}

// reaches tells how a statement of a trust policy names who has logged in by an identity provider. "*" is everybody who is a principal
// somewhere: it allows such a one nothing, and denies him what it denies.
func (p *principals) reaches(provider string, allow bool) bool {
	named := slices.Contains(p.federated, provider)
	switch {
	case allow:
		return named && !p.not
	case p.not:
		return !named && !p.everyone
	}
	return named || p.everyone
}

// decideFederated decides for who has logged in by an identity provider, by the trust policy alone.
func (e *evaluation) decideFederated(p *Policies) Decision {
	who := &e.request.Principal
	if *who != (Principal{Federated: who.Federated}) || p.Trust == nil || !p.usable() {
		return Decision{Reason: NoIdentityAllow, Statement: -1}
	}
	var found hits
	for i := range p.Trust.statements {
		s := &p.Trust.statements[i]
		into := &found.deny
		if s.allow {
			into = &found.allow
		}
		if !into.found && s.principals.reaches(who.Federated, s.allow) && s.applies(e) {
			into.note("", i, s)
		}
	}
	switch {
	case found.deny.found:
		return found.deny.decision(DeniedByKeyPolicy, found.allow.found)
	case found.allow.found:
		d := found.allow.allowed(AllowedByKeyPolicy)
		d.ByKey = true
		return d
	}
	return Decision{Reason: NoKeyPolicyAllow, Statement: -1}
}
