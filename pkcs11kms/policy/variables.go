package policy

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// template is a pattern that may have policy variables in it.
type template struct {
	pattern pattern // when there are no variables
	parts   []part  // otherwise: its pieces
}

// part is a piece of a template: a text with compiled wildcards, or a variable.
type part struct {
	text     string
	key      string // lower case; "" for a text
	fallback bool   // text is the value when the key is not in the request: ${key, 'text'}
}

// match compares the whole of s. A variable without a value makes a template that fits nothing; what is negated then
// cannot be judged (evaluation.not).
func (t *template) match(e *evaluation, s string) verdict {
	if t.parts == nil {
		return t.pattern.match(s, false, &e.left)
	}
	p, v := t.expand(e)
	if v != yes {
		return v
	}
	return p.match(s, false, &e.left)
}

// expand puts the values of this request into the template. The answer is no when a variable has no value, and unknown
// when the values cannot be used: more than one, too long, or no text.
func (t *template) expand(e *evaluation) (pattern, verdict) {
	if t.parts == nil {
		return t.pattern, yes
	}
	var b []byte
	for i := range t.parts {
		text, v := t.parts[i].value(e)
		if v != yes {
			return pattern{}, v
		}
		b = append(b, text...)
	}
	return compiledPattern(string(b)), yes
}

// value returns what a piece stands for in this request, and pays for its bytes.
func (p *part) value(e *evaluation) (string, verdict) {
	if !e.spend(len(p.text)) {
		return "", unknown
	}
	if p.key == "" {
		return p.text, yes
	}
	values := e.values(p.key)
	switch {
	case len(values) == 0 && p.fallback:
		return p.text, yes
	case len(values) == 0:
		e.unset = true
		return "", no
	case len(values) > 1, !e.spend(len(values[0])), !utf8.ValidString(values[0]):
		return "", unknown
	}
	return values[0], yes
}

// literalVariables are the ones that stand for a character which would mean something else.
var literalVariables = map[string]string{"*": "*", "?": "?", "$": "$"}

var variablePattern = regexp.MustCompile(`^\s*(` + conditionKey + `)\s*(?:,\s*'([^']*)'\s*)?$`)

// template compiles a text of the document. With wild, "*" and "?" are wildcards.
func (c *compiler) template(n *node, path, text string, wild bool) (template, error) {
	var parts []part
	literal := "" // wildcards compiled
	add := func(s string) {
		if wild {
			s = wildcards.Replace(s)
		}
		literal += s
	}
	for {
		before, after, found := strings.Cut(text, "${")
		if !found || !c.variables {
			add(text)
			break
		}
		add(before)
		name, rest, closed := strings.Cut(after, "}")
		if !closed {
			return template{}, c.errorf(n, path, "a policy variable without end")
		}
		text = rest
		if s, ok := literalVariables[name]; ok {
			literal += s
			continue
		}
		m := variablePattern.FindStringSubmatch(name)
		if m == nil || utf8.RuneCountInString(m[2]) > maxKeyName {
			return template{}, c.errorf(n, path, "%s is no policy variable", excerpt("${"+name+"}"))
		}
		key := strings.ToLower(strings.TrimSpace(m[1]))
		if err := c.identityKey(n, path, key); err != nil {
			return template{}, err
		}
		parts = append(parts, part{text: literal}, part{key: key, text: m[3], fallback: strings.Contains(name, "'")})
		literal = ""
	}
	if parts == nil {
		return template{pattern: compiledPattern(literal)}, nil
	}
	return template{parts: append(parts, part{text: literal})}, nil
}
