package policy

import (
	"slices"
	"strings"
)

// actions remarks on actions that do not exist, and on those that do nothing where they stand.
func (l *linter) actions(p place) {
	if l.kind == TrustPolicy {
		l.trustActions(p)
		return
	}
	n, path := p.node.member("Action"), p.path+".Action"
	if p.compiled.notAction {
		n, path = p.node.member("NotAction"), p.path+".NotAction"
		if p.compiled.allow {
			l.warn(n, path, "Allow with NotAction allows every action that is not listed")
		}
	}
	for _, item := range n.list() {
		covered := l.covered(item.text)
		name := strings.ToLower(item.text)
		switch {
		case !strings.HasPrefix(name, "kms:") && name != "*":
			if l.kind == KeyPolicy {
				l.warn(&item, path, "%s is an action of another service", excerpt(item.text))
			}
		case len(covered) == 0:
			l.warn(&item, path, "%s is no action of KMS", excerpt(item.text))
		case l.kind == KeyPolicy && identityOnly(covered):
			l.warn(&item, path, "%s has no effect in a key policy: only identity policies allow it", excerpt(item.text))
		case l.kind == KeyPolicy && p.compiled.allow && !p.compiled.notAction && strings.EqualFold(item.text, retireGrant):
			l.warn(&item, path, "kms:RetireGrant has no effect in a key policy: the grant decides")
		}
	}
}

// trustActions remarks on those of AWS STS that nobody asks for here.
func (l *linter) trustActions(p place) {
	for _, item := range p.node.member("Action").list() {
		name := strings.ToLower(item.text)
		if strings.HasPrefix(name, "sts:assumerolewithsaml") || name == "sts:setcontext" {
			l.warn(&item, p.path+".Action", "%s is not here: no request is for it", excerpt(item.text))
		}
	}
}

// federated remarks on identity providers that there cannot be, and on those of which every token is enough.
func (l *linter) federated(p place, providers *node, path string) {
	for _, item := range providers.list() {
		_, url, isOIDC := strings.Cut(item.text, ":oidc-provider/")
		switch {
		case !isOIDC:
			l.warn(&item, path, "nobody logs in by %s here: name the ARN of an OIDC provider", excerpt(item.text))
		case p.compiled.allow && !p.tells(url+":sub"):
			l.warn(&item, path, "without a condition on %s, everybody who has a token of the issuer may assume the role", excerpt(url+":sub"))
		}
	}
}

// tells tells whether a condition of the statement asks for values of a key of which not every one will do.
func (p place) tells(key string) bool {
	block := p.node.member("Condition")
	if block == nil {
		return false
	}
	for i := range block.names {
		op, _ := parseOperator(block.names[i].text)
		if op.family != stringFamily || op.negated || op.ifExists || op.set == forAll {
			continue
		}
		for j := range block.items[i].names {
			any := func(value node) bool { return strings.Trim(value.text, "*") == "" }
			if strings.EqualFold(block.items[i].names[j].text, key) && !slices.ContainsFunc(block.items[i].items[j].list(), any) {
				return true
			}
		}
	}
	return false
}

// conditions remarks on condition keys and on the operators they stand under.
func (l *linter) conditions(p place) {
	block := p.node.member("Condition")
	if block == nil {
		return
	}
	if len(block.names) == 0 {
		l.warn(block, p.path+".Condition", "an empty Condition is none: the statement holds without one")
	}
	for i := range block.names {
		op, _ := parseOperator(block.names[i].text)
		path := p.path + ".Condition." + block.names[i].text
		switch {
		case len(block.items[i].names) > 0:
		case op.set == forAny:
			l.warn(&block.names[i], path, "without a condition key this never holds: the statement has no effect")
		default:
			l.warn(&block.names[i], path, "without a condition key this is no condition")
		}
		for j := range block.items[i].names {
			name, values := &block.items[i].names[j], &block.items[i].items[j]
			l.operands(op, values, path+"."+beginning(name.text, maxPathKey))
			l.conditionKey(p, op, name, path)
		}
	}
}

// operands remarks on wildcards that are none.
func (l *linter) operands(op operator, values *node, path string) {
	if op.family != stringFamily || op.wild {
		return
	}
	for _, item := range values.list() {
		if strings.Contains(strings.NewReplacer("${*}", "", "${?}", "").Replace(item.text), "*") {
			l.warn(&item, path, `"*" is plain text here: wildcards need StringLike`)
		}
	}
}

func (l *linter) conditionKey(p place, op operator, name *node, path string) {
	key := strings.ToLower(name.text)
	service, _, _ := strings.Cut(key, ":")
	if own := map[bool]string{false: "kms", true: "sts"}[l.kind == TrustPolicy]; service != own && service != "aws" {
		return // of another service, in an identity policy; or of a provider
	}
	info, known := lookupKey(key)
	short := excerpt(name.text)
	switch {
	case !known:
		l.warn(name, path, "%s is no condition key of %s", short, map[bool]string{false: "KMS", true: "STS"}[l.kind == TrustPolicy])
		return
	case info.of == noRequest:
		l.warn(name, path, "no request to this service has %s", short)
		return
	}
	switch {
	case info.multi && op.set == single && op.family != nullFamily:
		l.warn(name, path, "%s has several values: it needs ForAnyValue or ForAllValues", short)
	case !info.multi && op.set == forAll:
		l.warn(name, path, "ForAllValues is true without %s, which has one value: leave it out", short)
	case !info.multi && op.set == forAny:
		l.warn(name, path, "%s has one value: leave ForAnyValue out", short)
	}
	if !op.family.compares(info.family) {
		l.warn(name, path, "%s has values of another type than the operator compares", short)
	}
	l.reachable(p, op, name, info, path)
}

// reachable remarks on a key that the requests of a listed action never have.
func (l *linter) reachable(p place, op operator, name *node, info keyInfo, path string) {
	list := p.node.member("Action")
	if list == nil || op.ifExists || op.family == nullFamily {
		return
	}
	for _, action := range list.list() {
		covered := l.covered(action.text)
		if len(covered) > 0 && !slices.ContainsFunc(covered, func(a *Action) bool { return a.has(info) }) {
			l.warn(name, path, "requests of %s never have %s", excerpt(action.text), excerpt(name.text))
		}
	}
}

// compares tells whether an operator makes sense for the values of a key.
func (f family) compares(key family) bool {
	switch f {
	case nullFamily, key:
		return true
	case stringFamily:
		return key != ipFamily && key != dateFamily
	case dateFamily, numericFamily:
		return key == numericFamily && f == dateFamily // aws:EpochTime
	}
	return false
}
