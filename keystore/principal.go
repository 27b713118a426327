package keystore

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// PrincipalType says what a principal is.
type PrincipalType string

const (
	PrincipalUser PrincipalType = "user"
	PrincipalRole PrincipalType = "role"
	// PrincipalGroup is no principal, and has a record of the same form: users are in it and have its policies.
	PrincipalGroup PrincipalType = "group"
)

// idPrefix begins the unique ids of a type, as in AWS IAM.
func (t PrincipalType) idPrefix() string {
	switch t {
	case PrincipalUser:
		return "AIDA"
	case PrincipalRole:
		return "AROA"
	case PrincipalGroup:
		return "AGPA"
	}
	return ""
}

// IsCaller tells whether those of the type can act. Groups cannot.
func (t PrincipalType) IsCaller() bool { return t == PrincipalUser || t == PrincipalRole }

// Counter is the name of the counter of an account's principals of a type.
func (t PrincipalType) Counter() string {
	switch t {
	case PrincipalUser:
		return CounterUsers
	case PrincipalRole:
		return CounterRoles
	case PrincipalGroup:
		return CounterGroups
	}
	return ""
}

// PrincipalIDLength is the number of characters of a unique id after its prefix.
const PrincipalIDLength = 17

var principalIDPattern = regexp.MustCompile(`^[A-Z2-7]{17}$`)

// PrincipalID puts a unique id together from PrincipalIDLength characters of base32.
func PrincipalID(t PrincipalType, random string) string { return t.idPrefix() + random }

// Principal is a user, a role or a group of an account. What is bound to one is bound to its ID: a namesake made later has another.
type Principal struct {
	Account     string        `json:"-"` // 12 digits
	ID          string        `json:"-"` // AIDA, AROA or AGPA and 17 characters of base32
	Type        PrincipalType `json:"type"`
	Name        string        `json:"name"` // ASCII, unique in account and type without regard to case
	Path        string        `json:"path"` // begins and ends with a slash
	Created     time.Time     `json:"created"`
	Description string        `json:"description,omitempty"` // roles only
	// Trust is the trust policy of a role as programs kept it that took any JSON for one: it is shown, and lets nobody assume the role.
	Trust string `json:"trust,omitempty"`
	// TrustPolicy says who may assume a role: a policy document with unique ids in the place of the ARNs of users, roles and sessions.
	TrustPolicy        string         `json:"trust_policy,omitempty"`
	MaxSessionDuration int            `json:"max_session_duration,omitempty"` // see LongestSession, in seconds; roles only
	AccessKeys         int            `json:"access_keys,omitempty"`          // how many access keys that are not deleted name the principal
	Tags               []Tag          `json:"tags,omitempty"`                 // ordered by key
	Policies           []InlinePolicy `json:"policies,omitempty"`             // ordered by name
	Attached           []Attached     `json:"attached,omitempty"`             // managed policies, ordered by id
	Groups             []Attached     `json:"groups,omitempty"`               // that the user is in, ordered by id; users only
	Revision           int            `json:"revision,omitempty"`             // counts the changes of what a group allows; groups only
}

// How long a session of a role may last, in seconds.
const (
	LeastMaxSession   = 3600
	MostMaxSession    = 43200
	DefaultMaxSession = 3600 // of roles that were made without one
)

// LongestSession is how long a session of the role may last.
func (p Principal) LongestSession() time.Duration {
	return time.Duration(cmp.Or(p.MaxSessionDuration, DefaultMaxSession)) * time.Second
}

// InlinePolicy is a policy that is part of its principal.
type InlinePolicy struct {
	Name     string `json:"name"`
	Document string `json:"document"` // the text as it was given
}

// Ref names the principal's record.
func (p Principal) Ref() Ref { return PrincipalRef(p.Account, p.ID) }

// PrincipalRef names the record of a principal by its unique id.
func PrincipalRef(account, id string) Ref { return Ref{Kind: KindPrincipal, Account: account, ID: id} }

// RightsRef names the record that the rights of a principal are in, by its unique id: that of a session of a role (AROA...:NAME) is its
// role's.
func RightsRef(account, id string) Ref {
	record, _, _ := strings.Cut(id, ":")
	return PrincipalRef(account, record)
}

// PrincipalNameValue is the value of IndexPrincipalName for the one principal that has the name, in whatever case.
func PrincipalNameValue(account string, t PrincipalType, name string) string {
	return account + "/" + string(t) + "/" + strings.ToLower(name)
}

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (p Principal) Put(expect uint64) Change {
	index := []Entry{{IndexPrincipalName, PrincipalNameValue(p.Account, p.Type, p.Name)}}
	return Change{Op: Put, Ref: p.Ref(), Expect: expect, Value: encode(p), Index: index}
}

// DecodePrincipal reads the principal of a record.
func DecodePrincipal(r Record) (Principal, error) {
	p := Principal{Account: r.Ref.Account, ID: r.Ref.ID}
	if r.Ref.Kind != KindPrincipal || r.Ref.Region != "" {
		return Principal{}, fmt.Errorf("record %s/%s is not a principal", r.Ref.Kind, r.Ref.ID)
	}
	return decodeChecked(r, p, "principal record")
}

// check refuses what would give the record another meaning than its reference or its type has.
func (p Principal) check() error {
	prefix := p.Type.idPrefix()
	rest, ok := strings.CutPrefix(p.ID, prefix)
	switch {
	case prefix == "":
		return fmt.Errorf("unknown type %q", p.Type)
	case !ok || !principalIDPattern.MatchString(rest):
		return fmt.Errorf("the id is not one of a %s", p.Type)
	case p.Type != PrincipalRole && (p.Trust != "" || p.TrustPolicy != "" || p.Description != "" || p.MaxSessionDuration != 0):
		return fmt.Errorf("a %s with a trust policy, a description or sessions", p.Type)
	case p.MaxSessionDuration != 0 && (p.MaxSessionDuration < LeastMaxSession || p.MaxSessionDuration > MostMaxSession):
		return fmt.Errorf("sessions of %d seconds", p.MaxSessionDuration)
	case p.Trust != "" && p.TrustPolicy != "":
		return errors.New("a role with two trust policies")
	case p.AccessKeys < 0, p.Type == PrincipalGroup && p.AccessKeys > 0:
		return errors.New("a wrong number of access keys")
	case !slices.IsSortedFunc(p.Policies, func(a, b InlinePolicy) int { return strings.Compare(a.Name, b.Name) }):
		return errors.New("policies are not in order")
	case p.Type != PrincipalUser && len(p.Groups) > 0, (p.Type == PrincipalGroup) != (p.Revision > 0):
		return errors.New("members of a group, or a revision, where none can be")
	}
	if err := checkAttached(p.Groups, PrincipalGroup.idPrefix()); err != nil {
		return err
	}
	return checkAttached(p.Attached, managedPolicyPrefix)
}
