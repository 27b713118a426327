package policy

import (
	"strings"
)

// operator is a name such as ForAnyValue:StringLikeIfExists, taken apart.
type operator struct {
	family   family
	wild     bool // "*" and "?" are wildcards
	negated  bool
	set      setOperator
	ifExists bool
	compile  compileValues
}

// compileValues makes the test of a condition from the values in the document.
type compileValues func(c *compiler, n *node, path string, cond *condition) error

// family is the type of the values that an operator compares.
type family int

const (
	stringFamily family = iota
	numericFamily
	dateFamily
	boolFamily
	binaryFamily
	ipFamily
	arnFamily
	nullFamily
)

// order is a set of results of a comparison.
type order uint8

const (
	less order = 1 << iota
	equal
	greater
)

// has tells whether the set has the result of cmp.Compare and its like.
func (o order) has(result int) bool { return o&(1<<(result+1)) != 0 }

// operators are the base names with their meaning: semantics 6.4.
var operators = map[string]operator{
	"StringEquals":              {family: stringFamily, compile: compileString(false, false)},
	"StringNotEquals":           {family: stringFamily, compile: compileString(false, false), negated: true},
	"StringEqualsIgnoreCase":    {family: stringFamily, compile: compileString(false, true)},
	"StringNotEqualsIgnoreCase": {family: stringFamily, compile: compileString(false, true), negated: true},
	"StringLike":                {family: stringFamily, compile: compileString(true, false), wild: true},
	"StringNotLike":             {family: stringFamily, compile: compileString(true, false), wild: true, negated: true},
	"NumericEquals":             {family: numericFamily, compile: compileNumeric(equal)},
	"NumericNotEquals":          {family: numericFamily, compile: compileNumeric(equal), negated: true},
	"NumericLessThan":           {family: numericFamily, compile: compileNumeric(less)},
	"NumericLessThanEquals":     {family: numericFamily, compile: compileNumeric(less | equal)},
	"NumericGreaterThan":        {family: numericFamily, compile: compileNumeric(greater)},
	"NumericGreaterThanEquals":  {family: numericFamily, compile: compileNumeric(greater | equal)},
	"DateEquals":                {family: dateFamily, compile: compileDate(equal)},
	"DateNotEquals":             {family: dateFamily, compile: compileDate(equal), negated: true},
	"DateLessThan":              {family: dateFamily, compile: compileDate(less)},
	"DateLessThanEquals":        {family: dateFamily, compile: compileDate(less | equal)},
	"DateGreaterThan":           {family: dateFamily, compile: compileDate(greater)},
	"DateGreaterThanEquals":     {family: dateFamily, compile: compileDate(greater | equal)},
	"Bool":                      {family: boolFamily, compile: compileBool},
	"BinaryEquals":              {family: binaryFamily, compile: compileBinary},
	"IpAddress":                 {family: ipFamily, compile: compileIP},
	"NotIpAddress":              {family: ipFamily, compile: compileIP, negated: true},
	"ArnEquals":                 {family: arnFamily, compile: compileARN, wild: true},
	"ArnLike":                   {family: arnFamily, compile: compileARN, wild: true},
	"ArnNotEquals":              {family: arnFamily, compile: compileARN, wild: true, negated: true},
	"ArnNotLike":                {family: arnFamily, compile: compileARN, wild: true, negated: true},
	"Null":                      {family: nullFamily, compile: compileNull},
}

// parseOperator takes prefix and suffix off a name. Null has neither.
func parseOperator(name string) (operator, bool) {
	base, set := name, single
	if s, ok := strings.CutPrefix(name, "ForAnyValue:"); ok {
		base, set = s, forAny
	} else if s, ok := strings.CutPrefix(name, "ForAllValues:"); ok {
		base, set = s, forAll
	}
	base, ifExists := strings.CutSuffix(base, "IfExists")
	op, ok := operators[base]
	if op.family == nullFamily && base != name {
		return operator{}, false
	}
	op.set, op.ifExists = set, ifExists
	return op, ok
}

// values calls f for a value or each value of a list. Besides strings only the literals of the given kind are taken.
func (c *compiler) values(n *node, path string, literal shape, f func(item *node, path string) error) error {
	items := n.list()
	if len(items) == 0 {
		return c.errorf(n, path, "an empty list")
	}
	for i := range items {
		item, itemPath := &items[i], itemPath(n, path, i)
		if item.kind != aString && item.kind != literal {
			return c.errorf(item, itemPath, "want a string, not %s", item.kind)
		}
		if err := f(item, itemPath); err != nil {
			return err
		}
	}
	return nil
}

// stringTest is StringEquals and its relatives.
type stringTest struct {
	values []template
	fold   bool
}

func (t *stringTest) fits(e *evaluation, value string) verdict {
	if !t.fold {
		return anyOf(e, t.values, func(want *template) verdict { return want.match(e, value) })
	}
	return anyOf(e, t.values, func(want *template) verdict {
		p, v := want.expand(e)
		if v != yes {
			return v
		}
		if !e.spend(min(len(p.text), len(value))) {
			return unknown
		}
		return verdictOf(strings.EqualFold(p.text, value))
	})
}

func compileString(wild, fold bool) compileValues {
	return func(c *compiler, n *node, path string, cond *condition) error {
		t := &stringTest{fold: fold}
		cond.test = t
		return c.values(n, path, aString, func(item *node, path string) error {
			value, err := c.template(item, path, item.text, wild)
			t.values = append(t.values, value)
			return err
		})
	}
}
