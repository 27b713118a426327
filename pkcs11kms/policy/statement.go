package policy

// statement is one compiled statement.
type statement struct {
	sid         string
	allow       bool // Effect
	principals  principals
	actions     []pattern // lower case
	notAction   bool
	resources   []template
	notResource bool
	conditions  []condition
	never       bool // there is a condition that nothing can fulfil
	steps       int  // that an evaluation of it may take
}

// matches tells whether the statement speaks about the request, whoever makes it.
func (s *statement) matches(e *evaluation) verdict {
	if s.never {
		return no
	}
	v := s.matchesAction(e)
	if v != no {
		v = v.and(s.matchesResource(e))
	}
	for i := range s.conditions {
		if v == no {
			return no
		}
		v = v.and(s.conditions[i].holds(e))
	}
	return v
}

// applies settles what cannot be judged: such a statement does not allow, and does deny.
func (s *statement) applies(e *evaluation) bool {
	e.left = s.steps
	v := s.matches(e)
	e.spent += s.steps - e.left
	return v == yes || v == unknown && !s.allow
}

func (s *statement) matchesAction(e *evaluation) verdict {
	v := anyOf(e, s.actions, func(p *pattern) verdict { return p.match(e.request.Action, true, &e.left) })
	if s.notAction {
		return v.not()
	}
	return v
}

func (s *statement) matchesResource(e *evaluation) verdict {
	e.unset = false
	v := anyOf(e, s.resources, func(t *template) verdict { return t.match(e, e.request.Resource) })
	if s.notResource {
		return e.not(v)
	}
	return v
}

// verdict is the answer of a test that may be impossible to make: a number that is none, a value too long to look at.
type verdict uint8

const (
	no verdict = iota
	unknown
	yes
)

func (v verdict) and(w verdict) verdict { return min(v, w) }
func (v verdict) or(w verdict) verdict  { return max(v, w) }
func (v verdict) not() verdict          { return yes - v }

// not turns a verdict over. That nothing fitted says nothing where a variable had no value: what it would have stood for
// might have fitted.
func (e *evaluation) not(v verdict) verdict {
	if v == no && e.unset {
		return unknown
	}
	return v.not()
}

func verdictOf(b bool) verdict {
	if b {
		return yes
	}
	return no
}

// anyOf is yes as soon as one element is. It gives up when there are no steps left.
func anyOf[T any](e *evaluation, list []T, test func(*T) verdict) verdict {
	v := no
	for i := range list {
		if !e.spend(1) {
			return unknown
		}
		if v = v.or(test(&list[i])); v == yes {
			break
		}
	}
	return v
}
