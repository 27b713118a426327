package keystore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Grant lets somebody do some operations with one key. What it names is bound to what is never used again: principals to their unique
// ids, the key to the CKA_ID of its object, so that neither a namesake nor a key that was made anew under the same id has it.
type Grant struct {
	Region  string `json:"-"` // of the key, as Account
	Account string `json:"-"`
	ID      string `json:"-"` // 64 characters of lower-case hexadecimal

	Key        string    `json:"key"` // bare key id
	CKAID      HexBytes  `json:"cka_id"`
	Name       string    `json:"name,omitempty"`
	Grantee    string    `json:"grantee"`            // see OwnerValue
	Retiring   string    `json:"retiring,omitempty"` // see OwnerValue; empty: nobody but those who may by their policies
	Issuer     string    `json:"issuer"`             // the account of whoever made it
	Operations []string  `json:"operations"`         // types.GrantOperation; ordered, none twice
	SourceARN  string    `json:"source_arn,omitempty"`
	Created    time.Time `json:"created"`   // UTC, whole milliseconds
	TokenKey   HexBytes  `json:"token_key"` // what the MACs of its tokens are made by
}

// Ref names the grant's record.
func (g Grant) Ref() Ref { return GrantRef(g.Region, g.Account, g.ID) }

// GrantRef names the record of a grant by its id.
func GrantRef(region, account, id string) Ref {
	return Ref{Kind: KindGrant, Region: region, Account: account, ID: id}
}

// GranteeValue is the value of IndexGrantGrantee for the grants on one key to one grantee, see OwnerValue.
func GranteeValue(region, account, keyID, grantee string) string {
	return TargetValue(region, account, keyID) + "/" + grantee
}

// RetiringValue is the value of IndexGrantRetiring for the grants in a region that a principal may retire, see OwnerValue.
func RetiringValue(region, retiring string) string { return region + "/" + retiring }

// SameValue is the value of IndexGrantSame: equal for grants with a name that are the same to whoever asks for them.
func (g Grant) SameValue() string {
	g.Created, g.TokenKey = time.Time{}, nil
	sum := sha256.Sum256(encode([]json.RawMessage{encode(g.Region), encode(g.Account), encode(g)}))
	return hex.EncodeToString(sum[:])
}

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (g Grant) Put(expect uint64) Change {
	index := []Entry{
		{IndexGrantKey, TargetValue(g.Region, g.Account, g.Key)},
		{IndexGrantGrantee, GranteeValue(g.Region, g.Account, g.Key, g.Grantee)},
	}
	if g.Retiring != "" {
		index = append(index, Entry{IndexGrantRetiring, RetiringValue(g.Region, g.Retiring)})
	}
	if g.Name != "" {
		index = append(index, Entry{IndexGrantSame, g.SameValue()})
	}
	return Change{Op: Put, Ref: g.Ref(), Expect: expect, Value: encode(g), Index: index}
}

// DecodeGrant reads the grant of a record.
func DecodeGrant(r Record) (Grant, error) {
	g := Grant{Region: r.Ref.Region, Account: r.Ref.Account, ID: r.Ref.ID}
	if r.Ref.Kind != KindGrant {
		return Grant{}, fmt.Errorf("record %s/%s is not a grant", r.Ref.Kind, r.Ref.ID)
	}
	return decodeChecked(r, g, "grant record")
}

var (
	grantIDPattern   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	grantNamePattern = regexp.MustCompile(`^[0-9]{12}/([0-9]{12}|A[A-Z]{3}[A-Z2-7]{17}|AROA[A-Z2-7]{17}:[\w+=,.@-]{2,64})$`)
)

// IsGrantID tells whether a text has the form of a grant's id.
func IsGrantID(id string) bool { return grantIDPattern.MatchString(id) }

// check refuses what would give the record another meaning than it has.
func (g Grant) check() error {
	switch {
	case !IsGrantID(g.ID):
		return errors.New("the id is not one of a grant")
	case g.Key == "" || strings.Contains(g.Key, "/") || len(g.CKAID) == 0:
		return errors.New("it names no key")
	case !grantNamePattern.MatchString(g.Grantee), g.Retiring != "" && !grantNamePattern.MatchString(g.Retiring):
		return errors.New("it names no principal")
	case len(g.TokenKey) != sha256.Size:
		return errors.New("it has no key for its tokens")
	}
	return checkOperations(g.Operations)
}

func checkOperations(operations []string) error {
	if len(operations) == 0 || !slices.IsSorted(operations) || len(slices.Compact(slices.Clone(operations))) != len(operations) {
		return errors.New("operations are missing or not in order")
	}
	return nil
}

// Grantee is what the grants on a key that have no constraint give to one grantee, all together. It changes in one Commit with them, so
// that a decision reads one record however many grants there are.
type Grantee struct {
	Region    string `json:"-"` // of the key, as Account and Key
	Account   string `json:"-"`
	Key       string `json:"-"` // bare key id
	Principal string `json:"-"` // see OwnerValue

	CKAID HexBytes       `json:"cka_id"` // of the key; grants on what had the key id before do not count
	Gives []OperationSet `json:"gives"`  // ordered
}

// OperationSet is the operations of a grant, and how many grants give just them.
type OperationSet struct {
	Operations []string `json:"operations"`
	Grants     int      `json:"grants"`
}

// GranteeRef names the record of what the grants on a key give to a grantee, see OwnerValue.
func GranteeRef(region, account, keyID, principal string) Ref {
	return Ref{Kind: KindGrantee, Region: region, Account: account, ID: GranteePrefix(keyID) + principal}
}

// GranteePrefix begins the ids of the grantee records of a key.
func GranteePrefix(keyID string) string { return keyID + "/" }

// Ref names the record.
func (g Grantee) Ref() Ref { return GranteeRef(g.Region, g.Account, g.Key, g.Principal) }

// Add counts n grants of these operations in, or out where n is negative.
func (g *Grantee) Add(operations []string, n int) {
	gives := slices.Clone(g.Gives)
	i, found := slices.BinarySearchFunc(gives, operations, func(s OperationSet, want []string) int {
		return slices.Compare(s.Operations, want)
	})
	if !found {
		gives = slices.Insert(gives, i, OperationSet{Operations: slices.Clone(operations)})
	}
	if gives[i].Grants += n; gives[i].Grants <= 0 {
		gives = slices.Delete(gives, i, i+1)
	}
	g.Gives = gives
}

// Put returns the change that writes the record, given the version it must have now (0: it must be new). One that gives nothing goes.
func (g Grantee) Put(expect uint64) Change {
	if len(g.Gives) == 0 && expect != 0 {
		return Change{Op: Delete, Ref: g.Ref(), Expect: expect}
	}
	return Change{Op: Put, Ref: g.Ref(), Expect: expect, Value: encode(g)}
}

// DecodeGrantee reads the grantee of a record.
func DecodeGrantee(r Record) (Grantee, error) {
	g := Grantee{Region: r.Ref.Region, Account: r.Ref.Account}
	var ok bool
	g.Key, g.Principal, ok = strings.Cut(r.Ref.ID, "/")
	if r.Ref.Kind != KindGrantee || !ok || !grantNamePattern.MatchString(g.Principal) {
		return Grantee{}, fmt.Errorf("record %s/%s is not of a grantee", r.Ref.Kind, r.Ref.ID)
	}
	return decodeChecked(r, g, "record of grantee")
}

func (g Grantee) check() error {
	for i, set := range g.Gives {
		if err := checkOperations(set.Operations); err != nil {
			return err
		}
		if set.Grants <= 0 || i > 0 && slices.Compare(g.Gives[i-1].Operations, set.Operations) >= 0 {
			return errors.New("the sets of operations are empty or not in order")
		}
	}
	if len(g.Gives) == 0 {
		return errors.New("it gives nothing")
	}
	return nil
}
