package policy

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// condition is one key of one operator.
type condition struct {
	key      string // lower case
	set      setOperator
	negated  bool
	ifExists bool
	null     bool // the Null operator: test is unused
	absent   verdict
	present  verdict
	test     test
}

type setOperator int

const (
	single setOperator = iota
	forAny
	forAll
)

// test compares one value of the request with the values of the policy: yes when it fits one of them.
type test interface {
	fits(e *evaluation, value string) verdict
}

// holds judges the condition. The rules for a key that is not in the request are decided when the policy is compiled.
func (c *condition) holds(e *evaluation) verdict {
	values := e.values(c.key)
	switch {
	case len(values) == 0:
		return c.absent
	case c.null:
		return c.present
	}
	switch c.set {
	case forAny:
		return anyOf(e, values, func(s *string) verdict { return c.one(e, *s) })
	case forAll:
		return anyOf(e, values, func(s *string) verdict { return c.one(e, *s).not() }).not()
	}
	if len(values) > 1 {
		return unknown // without a set operator nothing says which one counts
	}
	return c.one(e, values[0])
}

// one judges one value: one of the values of the policy must fit, or, for a negated operator, none.
func (c *condition) one(e *evaluation, value string) verdict {
	e.unset = false
	v := c.test.fits(e, value)
	if c.negated {
		return e.not(v)
	}
	return v
}

// missing is the verdict on a key that is not in the request, or has no value there.
func (c *condition) missing() verdict {
	switch {
	case c.ifExists, c.set == forAll:
		return yes
	case c.set == forAny:
		return no
	}
	return verdictOf(c.negated)
}

// conditionKey: a service prefix, a name, and for some a tag key or the like, of the characters that tag keys have. How long that may be
// is counted: as a part of the expression it makes a program of 10 MB, in every process.
const conditionKey = `[A-Za-z0-9.-]{1,64}:[A-Za-z0-9_-]{1,64}(?:[/:]([\p{L}\p{Z}\p{N}_.:/=+@-]+))?`

var conditionKeyPattern = regexp.MustCompile(`^` + conditionKey + `$`)

// maxKeyName is how many characters the tag key in a condition key may have at most.
const maxKeyName = 256

// isConditionKey reports whether a text has the form of one.
func isConditionKey(text string) bool {
	m := conditionKeyPattern.FindStringSubmatch(text)
	return m != nil && utf8.RuneCountInString(m[1]) <= maxKeyName
}

func (c *compiler) conditions(n *node, path string, s *statement) error {
	block := n.member("Condition")
	if block == nil {
		return nil
	}
	path += ".Condition"
	if block.kind != anObject {
		return c.errorf(block, path, "want an object, not %s", block.kind)
	}
	for i := range block.names {
		name, keys := &block.names[i], &block.items[i]
		op, ok := parseOperator(name.text)
		if !ok {
			return c.errorf(name, path, "%s is no condition operator", excerpt(name.text))
		}
		if err := c.keys(keys, path+"."+name.text, op, s); err != nil {
			return err
		}
	}
	return nil
}

const maxPathKey = 64 // bytes of a condition key in the path of an error

// keys compiles what stands under one operator.
func (c *compiler) keys(n *node, path string, op operator, s *statement) error {
	if n.kind != anObject {
		return c.errorf(n, path, "want an object, not %s", n.kind)
	}
	if len(n.items) == 0 && op.set == forAny {
		s.never = true // none of no values fits; without ForAnyValue all of no keys do
	}
	seen := map[string]bool{}
	for i := range n.names {
		name := &n.names[i]
		key := strings.ToLower(name.text)
		if err := c.key(name, path, key, op); err != nil {
			return err
		}
		if seen[key] {
			return c.errorf(name, path, "condition key %s twice", excerpt(name.text))
		}
		seen[key] = true
		cond := condition{key: key, set: op.set, negated: op.negated, ifExists: op.ifExists}
		cond.absent = cond.missing()
		if err := op.compile(c, &n.items[i], path+"."+beginning(name.text, maxPathKey), &cond); err != nil {
			return err
		}
		s.conditions = append(s.conditions, cond)
	}
	return nil
}

// key refuses names that are none, and in a key policy those of other services, which no request here can have.
func (c *compiler) key(name *node, path, key string, op operator) error {
	if c.kind == TrustPolicy {
		if !isTrustKey(name.text) {
			return c.errorf(name, path, "%s is no condition key of a trust policy", excerpt(name.text))
		}
		return nil
	}
	if !isConditionKey(name.text) {
		return c.errorf(name, path, "%s is no condition key", excerpt(name.text))
	}
	if c.kind != KeyPolicy {
		return nil
	}
	if !strings.HasPrefix(key, "aws:") && !strings.HasPrefix(key, "kms:") {
		return c.errorf(name, path, "%s is no condition key of aws: or kms:", excerpt(name.text))
	}
	if err := c.identityKey(name, path, key); err != nil {
		return err
	}
	if op.set == forAll && (strings.HasPrefix(key, "kms:encryptioncontext:") || strings.HasPrefix(key, "aws:requesttag/")) {
		return c.errorf(name, path, "OverlyPermissiveCondition: Using the ForAllValues set operator with a single-valued "+
			"condition key matches requests without the specified [encryption context or tag] or with an unspecified "+
			"[encryption context or tag]. To fix, remove ForAllValues.")
	}
	return nil
}

// identityKey refuses in a key policy what has an effect in the policies of users and roles only: it would be believed.
func (c *compiler) identityKey(n *node, path, key string) error {
	if c.kind == KeyPolicy && key == "kms:resourcealiases" {
		return c.errorf(n, path, "kms:ResourceAliases works in identity policies only")
	}
	return nil
}
