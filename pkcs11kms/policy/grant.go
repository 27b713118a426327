package policy

import (
	"slices"
	"strings"
)

// Grant lets a principal do some operations with the resource of a request: it counts like an Allow of the key policy for the grantee,
// and never against a Deny. The caller of Evaluate gives those grants alone that are on the resource.
type Grant struct {
	Account    string   // of the grantee, 12 digits
	Grantee    string   // the unique id of a user, role or session; the account itself: like a key policy that leaves it to the account
	Operations []string // GenerateMac, without the service
	SourceARN  string   // a constraint: what aws:SourceArn must be, except for RetireGrant; empty: none
}

// Child is the grant that a request for kms:CreateGrant would make.
type Child struct {
	Operations []string
	SourceARN  string
}

// createGrant by a grant makes grants that give no more than it does itself.
const createGrant = "kms:CreateGrant"

// granted tells how grants allow the request: as a statement of a key policy would that names the caller or its account.
func (e *evaluation) granted(grants []Grant) reach {
	who, how := &e.request.Principal, notNamed
	for i := range grants {
		g := &grants[i]
		if g.Account != who.Account || !e.gives(g) {
			continue
		}
		switch {
		case g.Grantee == who.ID:
			return directly
		case who.isSession() && g.Grantee == who.RoleID:
			how = byRole
		case g.Grantee == g.Account:
			how = max(how, byAccount)
		}
	}
	return how
}

// gives tells whether a grant gives its grantee what the request asks for.
func (e *evaluation) gives(g *Grant) bool {
	operation, ok := strings.CutPrefix(e.request.Action, "kms:")
	if !ok || !slices.Contains(g.Operations, operation) {
		return false
	}
	if g.SourceARN != "" && !e.retiring() && !slices.Equal(e.values("aws:sourcearn"), []string{g.SourceARN}) {
		return false
	}
	return e.request.Action != createGrant || g.covers(e.request.Child)
}

// covers tells whether a grant gives all that another would, and its constraint stays.
func (g *Grant) covers(child *Child) bool {
	if child == nil || g.SourceARN != "" && child.SourceARN != g.SourceARN {
		return false
	}
	for _, operation := range child.Operations {
		if !slices.Contains(g.Operations, operation) {
			return false
		}
	}
	return true
}
