package keystore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ManagedPolicy is a policy of an account that users, roles and groups can have attached. What has it attached names its ID: a namesake
// made later has another.
type ManagedPolicy struct {
	Account string `json:"-"` // 12 digits
	ID      string `json:"-"` // ANPA and 17 characters of base32

	Name        string    `json:"name"` // ASCII, unique in the account without regard to case
	Path        string    `json:"path"` // begins and ends with a slash
	Description string    `json:"description,omitempty"`
	Created     time.Time `json:"created"`
	Updated     time.Time `json:"updated"` // when it got its newest version

	// Revision counts the changes of what the policy says: who has it attached names the one of then, and takes none from before.
	Revision int             `json:"revision"`
	Default  int             `json:"default"`  // the number of the version that counts
	Last     int             `json:"last"`     // the greatest number that a version has had: none has it again
	Versions []PolicyVersion `json:"versions"` // ordered by number
	Tags     []Tag           `json:"tags,omitempty"`
}

// PolicyVersion is one text of a managed policy.
type PolicyVersion struct {
	Number   int       `json:"number"`
	Created  time.Time `json:"created"`
	Document string    `json:"document"` // as it was given
}

// managedPolicyPrefix begins the unique ids of managed policies, as in AWS IAM.
const managedPolicyPrefix = "ANPA"

// ManagedPolicyID puts a unique id together from PrincipalIDLength characters of base32.
func ManagedPolicyID(random string) string { return managedPolicyPrefix + random }

// Ref names the policy's record.
func (p ManagedPolicy) Ref() Ref { return ManagedPolicyRef(p.Account, p.ID) }

// ManagedPolicyRef names the record of a managed policy by its unique id.
func ManagedPolicyRef(account, id string) Ref {
	return Ref{Kind: KindManagedPolicy, Account: account, ID: id}
}

// ManagedPolicyValue is the value of IndexPolicyName for the one managed policy that has the name, in whatever case.
func ManagedPolicyValue(account, name string) string { return account + "/" + strings.ToLower(name) }

// Version finds a version by its number.
func (p ManagedPolicy) Version(number int) (PolicyVersion, bool) {
	at := slices.IndexFunc(p.Versions, func(v PolicyVersion) bool { return v.Number == number })
	if at < 0 {
		return PolicyVersion{}, false
	}
	return p.Versions[at], true
}

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (p ManagedPolicy) Put(expect uint64) Change {
	index := []Entry{{IndexPolicyName, ManagedPolicyValue(p.Account, p.Name)}}
	return Change{Op: Put, Ref: p.Ref(), Expect: expect, Value: encode(p), Index: index}
}

// DecodeManagedPolicy reads the managed policy of a record.
func DecodeManagedPolicy(r Record) (ManagedPolicy, error) {
	p := ManagedPolicy{Account: r.Ref.Account, ID: r.Ref.ID}
	if r.Ref.Kind != KindManagedPolicy || r.Ref.Region != "" {
		return ManagedPolicy{}, fmt.Errorf("record %s/%s is not a managed policy", r.Ref.Kind, r.Ref.ID)
	}
	return decodeChecked(r, p, "policy record")
}

// check refuses what would give the record another meaning than it has.
func (p ManagedPolicy) check() error {
	rest, ok := strings.CutPrefix(p.ID, managedPolicyPrefix)
	if !ok || !principalIDPattern.MatchString(rest) {
		return errors.New("the id is not one of a managed policy")
	}
	last := 0
	for _, v := range p.Versions {
		if v.Number <= last || v.Number > p.Last {
			return errors.New("versions are not in order")
		}
		last = v.Number
	}
	if _, ok := p.Version(p.Default); !ok || p.Revision < 1 {
		return errors.New("it has no version that counts")
	}
	return nil
}

// Attached says in the record of a user, role or group that it has a managed policy attached, and in that of a user that it is in a group.
type Attached struct {
	ID string `json:"id"` // unique id of the policy or group
	// Revision is the least one that the record of the policy or group must have: what is from before, or is missing, decides nothing, and
	// nothing is decided without it.
	Revision int `json:"revision"`
}

func checkAttached(list []Attached, prefix string) error {
	for i, a := range list {
		rest, ok := strings.CutPrefix(a.ID, prefix)
		if !ok || !principalIDPattern.MatchString(rest) || a.Revision < 1 || i > 0 && list[i-1].ID >= a.ID {
			return errors.New("what is attached is not in order")
		}
	}
	return nil
}

// FindAttached tells where an id is in a list, or would be.
func FindAttached(list []Attached, id string) (int, bool) {
	return slices.BinarySearchFunc(list, id, func(a Attached, id string) int { return strings.Compare(a.ID, id) })
}

// Member says beside a policy or group who has it attached or is in it, so that those can be listed. It is written with the record of the
// user, role or group, which decides; CounterMembers counts them.
type Member struct {
	Account string `json:"-"`
	Of      string `json:"-"` // unique id of the policy or group
	ID      string `json:"-"` // unique id of the user, role or group
}

// Ref names the record.
func (m Member) Ref() Ref {
	return Ref{Kind: KindMember, Account: m.Account, ID: m.Of + "/" + m.ID}
}

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (m Member) Put(expect uint64) Change {
	return Change{Op: Put, Ref: m.Ref(), Expect: expect, Value: encode(m)}
}

// DecodeMember reads the member of a record.
func DecodeMember(r Record) (Member, error) {
	of, id, ok := strings.Cut(r.Ref.ID, "/")
	m := Member{Account: r.Ref.Account, Of: of, ID: id}
	if r.Ref.Kind != KindMember || r.Ref.Region != "" || !ok {
		return Member{}, fmt.Errorf("record %s/%s is not a member", r.Ref.Kind, r.Ref.ID)
	}
	if err := decode(r, &m); err != nil {
		return Member{}, fmt.Errorf("member record %s: %w", r.Ref.ID, err)
	}
	return m, nil
}
