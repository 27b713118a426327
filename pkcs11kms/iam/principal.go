package iam

import (
	"regexp"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
)

// PrincipalName names a user or a role of the account. The zero PrincipalName is the account's root, which has access keys
// and nothing else.
type PrincipalName struct {
	Type keystore.PrincipalType
	Name string // 1 to 64 characters of letters, digits and _+=,.@- ; the case counts, except that no two names differ by it alone
}

func (n PrincipalName) root() bool { return n == PrincipalName{} }

// Principal is a user or role as the operations of AWS IAM return it.
type Principal struct {
	PrincipalName
	PrincipalOptions
	ID      string // unique, never used again: AIDA or AROA and 17 characters of base32
	ARN     string
	Created time.Time // UTC, whole seconds
}

// shown is a user or role as the audit log shows what was made.
func (p Principal) shown() map[string]any {
	member := kindOf(p.Type)
	return map[string]any{member.member: p.Name, string(p.Type) + "Id": p.ID, "arn": p.ARN, "path": p.Path, "createDate": p.Created}
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

// input is the input that names a user or role.
func (n PrincipalName) input() input { return input{kindOf(n.Type).member: n.Name} }

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
		return failure(validationError, "The account's root is neither a user nor a role.")
	}
	return checkName(kind.member, n.Name, 64)
}

func checkName(member, name string, most int) error {
	var v form.Violations
	v.Text(member, name, 1, most, nil)
	if err := invalid(v); err != nil {
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
		checkTrustText(&v, "assumeRolePolicyDocument", o.TrustPolicy)
	}
	checkTags(&v, o.Tags)
	if err := invalid(v); err != nil {
		return err
	}
	if !pathPattern.MatchString(o.Path) {
		return invalidPath("path")
	}
	if t != keystore.PrincipalRole && (o.TrustPolicy != "" || o.Description != "") {
		return failure(validationError, "Only a role has a description and an assume role policy.")
	}
	return checkTrustPolicy(o.TrustPolicy)
}
