package policy

import (
	"slices"
	"strings"
)

// Action is what Lint must know of an action of the service: where it may stand, and what its requests can tell a condition.
type Action struct {
	Name         string // such as kms:GenerateMac
	OnAlias      bool   // has an alias as its resource, besides a key
	ByAlias      bool   // takes an alias in the place of a key id
	IdentityOnly bool   // concerns no key: no key policy decides it, and its resource is *
	// Conditions are the condition keys that its requests have beyond those of the caller, the connection and the key. A name
	// that ends with a slash has a tag key behind it: aws:RequestTag/.
	Conditions []string
}

// has tells whether requests of the action can have a condition key.
func (a *Action) has(info keyInfo) bool {
	switch {
	case info.of == anyRequest,
		info.of == aboutKey && !a.IdentityOnly,
		info.of == namingKey && a.ByAlias:
		return true
	}
	return slices.ContainsFunc(a.Conditions, func(name string) bool { return strings.EqualFold(name, info.name) })
}

// covered returns the actions that a pattern covers.
func (l *linter) covered(text string) (found []*Action) {
	const maxBytes = 64 // longer than any name
	p := newPattern(strings.ToLower(text))
	left := len(l.known) * maxBytes * (len(text) + 2)
	for i := range l.known {
		if p.match(strings.ToLower(l.known[i].Name), true, &left) == yes {
			found = append(found, &l.known[i])
		}
	}
	return found
}

// identityOnly tells whether no key policy decides any of the actions, of which there is at least one.
func identityOnly(actions []*Action) bool {
	return len(actions) > 0 && !slices.ContainsFunc(actions, func(a *Action) bool { return !a.IdentityOnly })
}
