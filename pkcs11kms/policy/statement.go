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
}

// matches tells whether the statement speaks about the request, whoever makes it.
func (s *statement) matches(e *evaluation) verdict {
	if s.matchesAction(e) == s.notAction {
		return no
	}
	v := s.matchesResource(e)
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
	v := s.matches(e)
	return v == yes || v == unknown && !s.allow
}

func (s *statement) matchesAction(e *evaluation) bool {
	for i := range s.actions {
		if s.actions[i].match(e.request.Action, true, &e.steps) {
			return true
		}
	}
	return false
}

func (s *statement) matchesResource(e *evaluation) verdict {
	v := anyOf(s.resources, func(t *template) verdict { return t.match(e, e.request.Resource) })
	if s.notResource {
		return v.not()
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

func verdictOf(b bool) verdict {
	if b {
		return yes
	}
	return no
}

// anyOf is yes as soon as one element is.
func anyOf[T any](list []T, test func(*T) verdict) verdict {
	v := no
	for i := range list {
		if v = v.or(test(&list[i])); v == yes {
			break
		}
	}
	return v
}
