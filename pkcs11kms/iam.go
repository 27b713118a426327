package pkcs11kms

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// The operations of AWS IAM on users and roles. The state directory is their permission: no caller is asked for.

// Principal is a user or role as the operations of AWS IAM return it.
type Principal struct {
	PrincipalName
	PrincipalOptions
	ID      string // unique, never used again: AIDA or AROA and 17 characters of base32
	ARN     string
	Created time.Time // UTC, whole seconds
}

// PrincipalOptions is what a principal may have from the beginning.
type PrincipalOptions struct {
	Path        string // begins and ends with a slash; empty: /
	Description string // of a role, up to 1,000 characters
	// TrustPolicy is the assume-role policy document of a role. It is kept and shown and has no effect: nobody can assume a
	// role here, since there are no sessions. Roles have access keys instead.
	TrustPolicy string
	Tags        []keystore.Tag // ordered by key; at most 50
}

// principalKind is what the rules of users and of roles differ in.
type principalKind struct {
	member      string // of the API's inputs
	entity      string // in the texts of errors
	quota       string // the name of limit
	limit       int
	inlineBytes int // of all inline policies together, blanks not counted
}

var principalKinds = map[keystore.PrincipalType]principalKind{
	keystore.PrincipalUser: {"userName", "User", "UsersPerAccount", 5000, 2048},
	keystore.PrincipalRole: {"roleName", "Role", "RolesPerAccount", 1000, 10240},
}

func kindOf(t keystore.PrincipalType) principalKind { return principalKinds[t] }

const maxTrustBytes = 2048 // blanks not counted

var (
	namePattern        = regexp.MustCompile(`^[\w+=,.@-]+$`)
	pathPattern        = regexp.MustCompile(`^(/|/[\x21-\x7e]+/)$`)
	pathPrefixPattern  = regexp.MustCompile(`^/[\x21-\x7f]*$`)
	descriptionPattern = regexp.MustCompile(`^[\x{0009}\x{000A}\x{000D}\x{0020}-\x{007E}\x{00A1}-\x{00FF}]*$`)
)

// check refuses names that no principal can have.
func (n PrincipalName) check() error {
	kind, ok := principalKinds[n.Type]
	if !ok {
		return iamError(iamValidation, "The account's root is neither a user nor a role.")
	}
	return checkName(kind.member, n.Name, 64)
}

func checkName(member, name string, most int) error {
	var v form.Violations
	v.Text(member, name, 1, most, nil)
	if err := iamInvalid(v); err != nil {
		return err
	}
	if !namePattern.MatchString(name) {
		return invalidMember(member)
	}
	return nil
}

func (o PrincipalOptions) check(t keystore.PrincipalType) error {
	var v form.Violations
	v.Text("path", o.Path, 1, 512, nil)
	v.Hidden("description", o.Description, 0, 1000, descriptionPattern)
	if o.TrustPolicy != "" {
		v.Hidden("assumeRolePolicyDocument", o.TrustPolicy, 1, policyModelLimit, policyPattern)
	}
	iamTags(&v, o.Tags)
	if err := iamInvalid(v); err != nil {
		return err
	}
	if !pathPattern.MatchString(o.Path) {
		return invalidPath("path")
	}
	if t != keystore.PrincipalRole && (o.TrustPolicy != "" || o.Description != "") {
		return iamError(iamValidation, "Only a role has a description and an assume role policy.")
	}
	return checkTrustPolicy(o.TrustPolicy)
}

// checkTrustPolicy asks for a JSON object and no more: what it says has no effect here.
func checkTrustPolicy(text string) error {
	var object map[string]json.RawMessage
	switch {
	case text == "":
		return nil
	case policyLength(text) > maxTrustBytes:
		return quotaExceeded("ACLSizePerRole", maxTrustBytes)
	case json.Unmarshal([]byte(text), &object) != nil || object == nil:
		return iamError(malformedPolicyDocument, "This policy contains invalid Json")
	}
	return nil
}

// CreatePrincipal makes a user or role with an id of its own. EntityAlreadyExists when the name is taken, in whatever case;
// LimitExceeded beyond 5,000 users or 1,000 roles, which holds for all processes at once.
func (b *Bridge) CreatePrincipal(ctx context.Context, name PrincipalName, options PrincipalOptions) (Principal, error) {
	options.Path = cmp.Or(options.Path, "/")
	if err := name.check(); err != nil {
		return Principal{}, err
	}
	if err := options.check(name.Type); err != nil {
		return Principal{}, err
	}
	tags, err := withPrincipalTags(name.Type, nil, options.Tags)
	if err != nil {
		return Principal{}, err
	}
	record := keystore.Principal{
		Account: b.cfg.AccountID, ID: keystore.PrincipalID(name.Type, randomBase32(keystore.PrincipalIDLength)),
		Type: name.Type, Name: name.Name, Path: options.Path, Created: b.cfg.Now().UTC().Truncate(time.Second),
		Description: options.Description, Trust: options.TrustPolicy, Tags: tags,
	}
	err = records.RetryConflicts(ctx, func() error { return b.createPrincipal(ctx, record) })
	if errors.Is(err, keystore.ErrExists) {
		err = iamError(entityAlreadyExists, "%s with name %s already exists.", kindOf(name.Type).entity, name.Name)
	}
	if err != nil {
		return Principal{}, err
	}
	return b.describePrincipal(record), nil
}

func (b *Bridge) createPrincipal(ctx context.Context, record keystore.Principal) error {
	counter, err := b.countPrincipal(ctx, record.Type, 1)
	if err != nil {
		return err
	}
	return b.commitPrincipal(ctx, record, 0, counter)
}

// countPrincipal returns the change of the counter of users or roles, or LimitExceeded.
func (b *Bridge) countPrincipal(ctx context.Context, t keystore.PrincipalType, n int) (keystore.Change, error) {
	kind := kindOf(t)
	counter, version, err := records.ReadCounter(ctx, b.store, "", b.cfg.AccountID, t.Counter())
	if err != nil {
		return keystore.Change{}, err
	}
	counter.N += n
	if n > 0 && counter.N > kind.limit {
		return keystore.Change{}, quotaExceeded(kind.quota, kind.limit)
	}
	return counter.Put(version), nil
}

// commitPrincipal writes a principal's record, which must have the version, in one batch with more.
func (b *Bridge) commitPrincipal(ctx context.Context, record keystore.Principal, version uint64, more ...keystore.Change) error {
	put := record.Put(version)
	if len(put.Value) > keystore.MaxValue { // policies with very many blanks, which their own limit does not count
		return iamError(iamLimitExceeded, "The %s with its policies exceeds the maximum size of %d bytes.", record.Type, keystore.MaxValue)
	}
	_, err := b.cache.Commit(ctx, append(more, put)...)
	return err
}

// randomBase32 returns n characters of 5 random bits.
func randomBase32(n int) string {
	random := make([]byte, (n*5+7)/8)
	rand.Read(random) // never fails, see crypto/rand
	return base32.StdEncoding.EncodeToString(random)[:n]
}

func (b *Bridge) describePrincipal(record keystore.Principal) Principal {
	return Principal{
		PrincipalName: PrincipalName{record.Type, record.Name},
		PrincipalOptions: PrincipalOptions{Path: record.Path, Description: record.Description, TrustPolicy: record.Trust,
			Tags: record.Tags},
		ID: record.ID, ARN: b.principalARN(record), Created: record.Created,
	}
}

// readPrincipal is findPrincipal with the errors of AWS IAM.
func (b *Bridge) readPrincipal(ctx context.Context, name PrincipalName) (keystore.Principal, uint64, error) {
	if err := name.check(); err != nil {
		return keystore.Principal{}, 0, err
	}
	record, version, err := b.findPrincipal(ctx, name)
	if errors.Is(err, keystore.ErrNotFound) {
		err = noSuchPrincipal(name)
	}
	return record, version, err
}

// changePrincipal commits what edit makes of a principal's record, unless that is nothing new. It is repeated when
// somebody else was faster.
func (b *Bridge) changePrincipal(ctx context.Context, name PrincipalName, edit func(*keystore.Principal) error) error {
	return records.RetryConflicts(ctx, func() error {
		record, version, err := b.readPrincipal(ctx, name)
		if err != nil {
			return err
		}
		was := record
		if err := edit(&record); err != nil || reflect.DeepEqual(record, was) {
			return err
		}
		return b.commitPrincipal(ctx, record, version)
	})
}

// GetPrincipal returns a user or role, or NoSuchEntity.
func (b *Bridge) GetPrincipal(ctx context.Context, name PrincipalName) (Principal, error) {
	record, _, err := b.readPrincipal(ctx, name)
	if err != nil {
		return Principal{}, err
	}
	return b.describePrincipal(record), nil
}

// ListPrincipals returns the users or the roles whose path begins with pathPrefix, ordered by name. The empty prefix means
// all of them.
func (b *Bridge) ListPrincipals(ctx context.Context, t keystore.PrincipalType, pathPrefix string) ([]Principal, error) {
	var v form.Violations
	v.Text("pathPrefix", pathPrefix, 0, 512, nil)
	if err := iamInvalid(v); err != nil {
		return nil, err
	}
	if pathPrefix != "" && !pathPrefixPattern.MatchString(pathPrefix) {
		return nil, iamError(iamValidation, "The specified value for pathPrefix is invalid. It must begin with / and contain only alphanumeric characters and/or / characters.")
	}
	list := []Principal{}
	err := records.EachOf(ctx, b.store, keystore.KindPrincipal, "", b.cfg.AccountID, func(rec keystore.Record) error {
		record, err := keystore.DecodePrincipal(rec)
		if err == nil && record.Type == t && strings.HasPrefix(record.Path, pathPrefix) {
			list = append(list, b.describePrincipal(record))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b Principal) int { return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
	return list, nil
}

// DeletePrincipal removes a user or role that has neither access keys nor inline policies (DeleteConflict). Whoever acts in
// its name is refused at once by this process, within a second by every other.
func (b *Bridge) DeletePrincipal(ctx context.Context, name PrincipalName) error {
	return records.RetryConflicts(ctx, func() error {
		record, version, err := b.readPrincipal(ctx, name)
		if err != nil {
			return err
		}
		switch {
		case record.AccessKeys > 0:
			return iamError(deleteConflict, "Cannot delete entity, must delete access keys first.")
		case len(record.Policies) > 0:
			return iamError(deleteConflict, "Cannot delete entity, must delete policies first.")
		}
		counter, err := b.countPrincipal(ctx, name.Type, -1)
		if err != nil {
			return err
		}
		_, err = b.cache.Commit(ctx, counter, keystore.Change{Op: keystore.Delete, Ref: record.Ref(), Expect: version})
		return err
	})
}
