package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Severity grades a Finding.
type Severity int

const (
	Warning Severity = iota // legal, and probably not what was meant
	Error                   // the document would be refused
)

// String returns "warning" or "error".
func (s Severity) String() string {
	if s == Error {
		return "error"
	}
	return "warning"
}

// Finding is one remark of Lint.
type Finding struct {
	Line     int    // from 1
	Path     string // "Statement[0].Condition.StringEquals", "" for the document itself
	Severity Severity
	Text     string
}

// Lint says what is wrong with a document, and what is legal but probably a mistake, in the order of the lines. A
// document that would be refused has one finding, the Error of the first thing that is wrong. actions are those of the service.
func Lint(kind Kind, text string, actions []Action) []Finding {
	root, err := readJSON(text)
	var d *Document
	if err == nil {
		d, err = compile(kind, text, &root)
	}
	var syntax *SyntaxError
	if errors.As(err, &syntax) {
		return []Finding{{syntax.Line, syntax.Path, Error, syntax.Reason}}
	}
	l := linter{kind: kind, text: text, doc: d, known: actions}
	l.document(&root)
	slices.SortStableFunc(l.findings, func(a, b Finding) int { return cmp.Compare(a.Line, b.Line) })
	return l.findings
}

// linter walks a valid document: the nodes for the places, the compiled statements for the meaning.
type linter struct {
	kind     Kind
	text     string
	doc      *Document
	known    []Action // of the service
	findings []Finding
}

func (l *linter) warn(n *node, path, format string, args ...any) {
	line, _ := position(l.text, n.start)
	l.findings = append(l.findings, Finding{line, path, Warning, fmt.Sprintf(format, args...)})
}

// place is a statement on the linter's way.
type place struct {
	node     *node
	path     string
	compiled *statement
}

func (l *linter) document(root *node) {
	list := root.member("Statement")
	keeper := false // somebody may change the policy
	for i := range l.doc.statements {
		p := place{&list.list()[i], itemPath(list, "Statement", i), &l.doc.statements[i]}
		l.actions(p)
		l.conditions(p)
		l.variables(root, p)
		if l.kind == IdentityPolicy {
			l.resources(p)
		} else {
			l.principals(p)
		}
		keeper = keeper || p.compiled.allow && p.compiled.speaksOf("kms:PutKeyPolicy")
	}
	if l.kind == KeyPolicy && !keeper {
		l.warn(root, "", "no statement allows kms:PutKeyPolicy: nobody could change this policy again")
	}
}

// speaksOf tells whether the actions of the statement cover one.
func (s *statement) speaksOf(action string) bool {
	e := evaluation{request: Request{Action: action}, left: s.steps}
	return s.matchesAction(&e) == yes
}

// principals remarks on who is named.
func (l *linter) principals(p place) {
	who := &p.compiled.principals
	n, path := p.node.member("Principal"), p.path+".Principal"
	if who.not {
		n, path = p.node.member("NotPrincipal"), p.path+".NotPrincipal"
	}
	switch {
	case who.not && who.everyone:
		l.warn(n, path, "the statement has no effect: everybody is excepted")
	case who.not && len(who.accounts) == 0:
		l.warn(n, path, "without the account beside it, the identity is denied as well: list both")
	case !who.not && who.everyone && p.compiled.allow && len(p.compiled.conditions) == 0:
		l.warn(n, path, `"*" without a Condition allows every identity of every account`)
	}
	if n.kind == aString {
		return
	}
	if providers := n.member("Federated"); providers != nil {
		l.federated(p, providers, path+".Federated")
	}
	if services := n.member("Service"); services != nil {
		l.warn(services, path+".Service", "no AWS service calls this service")
	}
	if aws := n.member("AWS"); aws != nil {
		for _, item := range aws.list() {
			if strings.Contains(item.text, ":federated-user/") {
				l.warn(&item, path+".AWS", "there are no federated users here: name the role or the user")
			}
			if idPrincipal.MatchString(item.text) {
				l.warn(&item, path+".AWS", "a unique id: the identity may be gone")
			}
		}
	}
}

// resources remarks on ARNs that the actions never meet.
func (l *linter) resources(p place) {
	n := p.node.member("Resource")
	if n == nil {
		if p.compiled.allow {
			l.warn(p.node, p.path+".NotResource", "Allow with NotResource allows everything on all that is not listed")
		}
		return
	}
	everything := slices.ContainsFunc(n.list(), func(item node) bool { return item.text == "*" })
	list := p.node.member("Action")
	if list == nil {
		return
	}
	var some []*Action
	for _, action := range list.list() {
		covered := l.covered(action.text)
		some = append(some, covered...)
		if identityOnly(covered) && !everything {
			l.warn(&action, p.path+".Action", `%s has no resource: it needs Resource "*"`, excerpt(action.text))
		}
	}
	onAlias := slices.ContainsFunc(some, func(a *Action) bool { return a.OnAlias })
	for _, item := range n.list() {
		if strings.Contains(item.text, ":alias/") && len(some) > 0 && !onAlias {
			l.warn(&item, p.path+".Resource",
				"an alias ARN counts for alias operations only: name the key ARN, or use kms:RequestAlias or kms:ResourceAliases")
		}
	}
}

// variables remarks on what would be a policy variable with the newer Version.
func (l *linter) variables(root *node, p place) {
	if n := root.member("Version"); n != nil && n.text == "2012-10-17" {
		return
	}
	for _, name := range []string{"Resource", "NotResource", "Condition"} {
		n := p.node.member(name)
		if n != nil && strings.Contains(l.text[n.start:n.end], "${") {
			l.warn(n, p.path+"."+name, `policy variables need "Version": "2012-10-17"; here they are plain text`)
		}
	}
}
