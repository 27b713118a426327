package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// compiler makes statements of nodes. Everything that can be refused is refused here, and everything that can be
// computed without a request is computed here.
type compiler struct {
	kind      Kind
	text      string
	variables bool // the Version knows policy variables
	sids      map[string]bool
}

func parse(kind Kind, text string) (*Document, error) {
	root, err := readJSON(text)
	if err != nil {
		return nil, err
	}
	return compile(kind, text, &root)
}

func compile(kind Kind, text string, root *node) (*Document, error) {
	c := compiler{kind: kind, text: text, sids: map[string]bool{}}
	if err := c.object(root, "", "Version", "Id", "Statement"); err != nil {
		return nil, err
	}
	if err := c.head(root); err != nil {
		return nil, err
	}
	list := root.member("Statement")
	if list == nil || len(list.items) == 0 {
		return nil, c.errorf(root, "", "no Statement")
	}
	d := &Document{kind: kind, text: text}
	for i, n := range list.list() {
		path := itemPath(list, "Statement", i)
		s, err := c.statement(&n, path)
		if err != nil {
			return nil, err
		}
		s.steps = stepsPerByte * min(n.end-n.start, maxPaid)
		d.statements = append(d.statements, s)
		d.spans = append(d.spans, principalSpans(&n, path)...)
	}
	return d, nil
}

// head reads Version and Id. A document without Version has the old one, as in IAM.
func (c *compiler) head(root *node) error {
	if n := root.member("Version"); n != nil {
		if n.kind != aString || n.text != "2012-10-17" && n.text != "2008-10-17" {
			return c.errorf(n, "Version", `want "2012-10-17" or "2008-10-17"`)
		}
		c.variables = n.text == "2012-10-17"
	}
	if n := root.member("Id"); n != nil && n.kind != aString {
		return c.errorf(n, "Id", "want a string, not %s", n.kind)
	}
	return nil
}

func (c *compiler) statement(n *node, path string) (statement, error) {
	var s statement
	err := c.object(n, path, "Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition")
	if err != nil {
		return s, err
	}
	steps := []func(*node, string, *statement) error{c.sid, c.effect, c.principals, c.actions, c.resources, c.conditions}
	for _, step := range steps {
		if err := step(n, path, &s); err != nil {
			return s, err
		}
	}
	return s, nil
}

var identitySid = regexp.MustCompile(`^[0-9A-Za-z]*$`)

// sid takes any text in a key policy; IAM takes letters and digits. No two statements have the same.
func (c *compiler) sid(n *node, path string, s *statement) error {
	sid := n.member("Sid")
	if sid == nil {
		return nil
	}
	path += ".Sid"
	switch {
	case sid.kind != aString:
		return c.errorf(sid, path, "want a string, not %s", sid.kind)
	case c.kind == IdentityPolicy && !identitySid.MatchString(sid.text):
		return c.errorf(sid, path, "want letters and digits only")
	case strings.ContainsFunc(sid.text, unicode.IsControl):
		return c.errorf(sid, path, "want no control characters")
	case sid.text != "" && c.sids[sid.text]:
		return c.errorf(sid, path, "%s is the Sid of another statement", excerpt(sid.text))
	}
	c.sids[sid.text] = true
	s.sid = sid.text
	return nil
}

func (c *compiler) effect(n *node, path string, s *statement) error {
	e := n.member("Effect")
	if e == nil {
		return c.errorf(n, path, "no Effect")
	}
	if e.kind != aString || e.text != "Allow" && e.text != "Deny" {
		return c.errorf(e, path+".Effect", `want "Allow" or "Deny"`)
	}
	s.allow = e.text == "Allow"
	return nil
}

// Action names of other services are legal, and never asked for here. A service prefix has no wildcards.
var actionPattern = regexp.MustCompile(`^(\*|[A-Za-z0-9-]+:[A-Za-z0-9*?]+)$`)

func (c *compiler) actions(n *node, path string, s *statement) error {
	list, path, not, err := c.either(n, path, "Action", "NotAction")
	if err != nil {
		return err
	}
	s.notAction = not
	return c.each(list, path, func(item *node, path string) error {
		if !actionPattern.MatchString(item.text) {
			return c.errorf(item, path, "%s is no action", excerpt(item.text))
		}
		if c.kind == TrustPolicy && (not || !assumes(item.text)) {
			return c.errorf(item, path, "%s", onlyAssumeText)
		}
		s.actions = append(s.actions, newPattern(strings.ToLower(item.text)))
		return nil
	})
}

func (c *compiler) resources(n *node, path string, s *statement) error {
	if c.kind == TrustPolicy {
		for _, name := range []string{"Resource", "NotResource"} {
			if prohibited := n.member(name); prohibited != nil {
				return c.errorf(prohibited, path+"."+name, "Has prohibited field %s", name)
			}
		}
		s.resources = append(s.resources, template{pattern: newPattern("*")}) // the role that the document is of
		return nil
	}
	list, path, not, err := c.either(n, path, "Resource", "NotResource")
	if err != nil {
		return err
	}
	if c.kind == KeyPolicy && not {
		return c.errorf(list, path, `want Resource "*" in a key policy`)
	}
	s.notResource = not
	return c.each(list, path, func(item *node, path string) error {
		if item.text == "*" {
			s.resources = append(s.resources, template{pattern: newPattern("*")})
			return nil
		}
		if c.kind == KeyPolicy {
			return c.errorf(item, path, `want "*" in a key policy`)
		}
		if !strings.HasPrefix(item.text, "arn:") || strings.Count(item.text, ":") < arnParts-1 {
			return c.errorf(item, path, `want "*" or an ARN, not %s`, excerpt(item.text))
		}
		t, err := c.template(item, path, item.text, true)
		s.resources = append(s.resources, t)
		return err
	})
}

// either returns the one of two members of which a statement has exactly one.
func (c *compiler) either(n *node, path, name, notName string) (value *node, valuePath string, not bool, err error) {
	yes, no := n.member(name), n.member(notName)
	switch {
	case yes != nil && no != nil:
		return nil, path, false, c.errorf(n, path, "both %s and %s", name, notName)
	case yes != nil:
		return yes, path + "." + name, false, nil
	case no != nil:
		return no, path + "." + notName, true, nil
	}
	return nil, path, false, c.errorf(n, path, "no %s", name)
}

// each calls f for a string or for every string of a list that has some.
func (c *compiler) each(n *node, path string, f func(*node, string) error) error {
	if n.kind == aList && len(n.items) == 0 {
		return c.errorf(n, path, "an empty list")
	}
	for i, item := range n.list() {
		itemPath := itemPath(n, path, i)
		if item.kind != aString {
			return c.errorf(&item, itemPath, "want a string, not %s", item.kind)
		}
		if err := f(&item, itemPath); err != nil {
			return err
		}
	}
	return nil
}

// itemPath is the path of an element of a list, or of the value that stands for a list of one.
func itemPath(n *node, path string, i int) string {
	if n.kind != aList {
		return path
	}
	return fmt.Sprintf("%s[%d]", path, i)
}

// object refuses what is no object and what has a member of another name.
func (c *compiler) object(n *node, path string, names ...string) error {
	if n.kind != anObject {
		return c.errorf(n, path, "want an object, not %s", n.kind)
	}
	for i := range n.names {
		if name := &n.names[i]; !slices.Contains(names, name.text) {
			return c.errorf(name, path, "unknown element %s", excerpt(name.text))
		}
	}
	return nil
}

func (c *compiler) errorf(n *node, path, format string, args ...any) error {
	return errorAt(c.text, n.start, path, format, args...)
}
