package keystore

import (
	"fmt"
	"time"
)

// Alias is another name of a key.
type Alias struct {
	Region  string    `json:"-"`
	Account string    `json:"-"`
	Name    string    `json:"-"`       // with its prefix alias/
	Target  string    `json:"target"`  // bare key id
	Created time.Time `json:"created"` // UTC, whole milliseconds
	Updated time.Time `json:"updated"` // UTC, whole milliseconds
}

// Ref names the alias's record.
func (a Alias) Ref() Ref { return AliasRef(a.Region, a.Account, a.Name) }

// AliasRef names the record of an alias by its name, with the prefix alias/.
func AliasRef(region, account, name string) Ref {
	return Ref{Kind: KindAlias, Region: region, Account: account, ID: name}
}

// TargetValue is the value of IndexAliasTarget for the aliases of one key.
func TargetValue(region, account, keyID string) string { return region + "/" + account + "/" + keyID }

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (a Alias) Put(expect uint64) Change {
	index := []Entry{{IndexAliasTarget, TargetValue(a.Region, a.Account, a.Target)}}
	return Change{Op: Put, Ref: a.Ref(), Expect: expect, Value: encode(a), Index: index}
}

// DecodeAlias reads the alias of a record.
func DecodeAlias(r Record) (Alias, error) {
	a := Alias{Region: r.Ref.Region, Account: r.Ref.Account, Name: r.Ref.ID}
	if r.Ref.Kind != KindAlias {
		return Alias{}, fmt.Errorf("record %s/%s is not an alias", r.Ref.Kind, r.Ref.ID)
	}
	if err := decode(r, &a); err != nil {
		return Alias{}, fmt.Errorf("alias record %s: %w", r.Ref.ID, err)
	}
	return a, nil
}

// Counter is a number that changes together with the records it counts, so that a quota holds for all processes at once.
type Counter struct {
	Region  string `json:"-"`
	Account string `json:"-"`
	Name    string `json:"-"`
	N       int    `json:"n"`
}

// The counters that quotas bound.
const (
	CounterKeys  = "keys"  // the KMS keys of a region and account, in whatever state
	CounterUsers = "users" // the users of an account; of no region
	CounterRoles = "roles" // the roles of an account; of no region

	CounterGroups   = "groups"   // the groups of an account; of no region
	CounterPolicies = "policies" // the managed policies of an account; of no region
)

// CounterGrants begins the names of the counters of the grants on a key of a region and account, whose id follows.
const CounterGrants = "grants/"

// CounterMembers begins the names of the counters of those who have a managed policy attached, or are in a group, of an account and of no
// region; its id follows.
const CounterMembers = "members/"

// CounterPolicyChanges is a counter that no quota bounds: how often what managed policies and groups of an account say has changed. A
// commit that one of them has permitted is bound to it.
const CounterPolicyChanges = "policy-changes"

// CounterSealed begins the names of counters that no quota bounds, of no region and account: up to which record a chain of the audit log,
// whose id follows, was sealed when a seal of it was last kept here. They only rise.
const CounterSealed = "audit-sealed/"

// CounterHandover is the name of another such: the number of the newest key of the audit log's seals that the log tells of.
const CounterHandover = "audit-handover"

// CounterKeyUses is a counter that no quota bounds: since when the uses of the keys of a region and account are noted, in seconds since
// 1970. It is made with the first key, or with the first use that is noted, and stays.
const CounterKeyUses = "key-uses-since"

// CounterRef names the record of a counter.
func CounterRef(region, account, name string) Ref {
	return Ref{Kind: KindCounter, Region: region, Account: account, ID: name}
}

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (c Counter) Put(expect uint64) Change {
	return Change{Op: Put, Ref: CounterRef(c.Region, c.Account, c.Name), Expect: expect, Value: encode(c)}
}

// DecodeCounter reads the counter of a record.
func DecodeCounter(r Record) (Counter, error) {
	c := Counter{Region: r.Ref.Region, Account: r.Ref.Account, Name: r.Ref.ID}
	if r.Ref.Kind != KindCounter {
		return Counter{}, fmt.Errorf("record %s/%s is not a counter", r.Ref.Kind, r.Ref.ID)
	}
	if err := decode(r, &c); err != nil {
		return Counter{}, fmt.Errorf("counter record %s: %w", r.Ref.ID, err)
	}
	return c, nil
}
