package policy

import "strings"

// arnParts: arn:partition:service:region:account:resource. The last one may have colons of its own.
const arnParts = 6

// arnTest is ArnEquals and ArnLike, which are the same: each part is compared by itself, so a "*" never reaches over a
// colon of the first five.
type arnTest []arnPattern

// arnPattern has six templates, or one for the whole: "*", or a variable whose value is an ARN.
type arnPattern []template

func (t arnTest) fits(e *evaluation, value string) verdict {
	if !e.spend(len(value)) || !strings.HasPrefix(value, "arn:") || strings.Count(value, ":") < arnParts-1 {
		return unknown
	}
	return anyOf(e, t, func(p *arnPattern) verdict { return p.match(e, value) })
}

func (p arnPattern) match(e *evaluation, value string) verdict {
	v := yes
	for i := range p {
		part := value
		if i < len(p)-1 {
			part, value, _ = strings.Cut(value, ":")
		}
		if v = v.and(p[i].match(e, part)); v == no {
			break
		}
	}
	return v
}

func compileARN(c *compiler, n *node, path string, cond *condition) error {
	var t arnTest
	err := c.values(n, path, aString, func(item *node, path string) error {
		parts := splitARN(item.text)
		if len(parts) < arnParts {
			if item.text != "*" && !(c.variables && strings.HasPrefix(item.text, "${")) {
				return c.errorf(item, path, "%s is no ARN", excerpt(item.text))
			}
			parts = []string{item.text}
		}
		var p arnPattern
		for _, part := range parts {
			value, err := c.template(item, path, part, true)
			if err != nil {
				return err
			}
			p = append(p, value)
		}
		t = append(t, p)
		return nil
	})
	cond.test = t
	return err
}

// splitARN cuts at the first five colons that are not inside a policy variable.
func splitARN(s string) []string {
	var parts []string
	start, variable := 0, false
	for i := 0; i < len(s) && len(parts) < arnParts-1; i++ {
		switch {
		case strings.HasPrefix(s[i:], "${"):
			variable = true
		case s[i] == '}':
			variable = false
		case s[i] == ':' && !variable:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}
