package iam

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// PrincipalName names a user, a role or a group of the account. The zero PrincipalName is the account's root, which has access keys
// and nothing else.
type PrincipalName struct {
	Type keystore.PrincipalType
	// Name has 1 to 64 characters, that of a group 128, of letters, digits and _+=,.@- ; the case counts, except that no two names differ by
	// it alone.
	Name string
}

func (n PrincipalName) root() bool { return n == PrincipalName{} }

// Principal is a user, role or group as the operations of AWS IAM return it.
type Principal struct {
	PrincipalName
	PrincipalOptions
	ID      string // unique, never used again: AIDA, AROA or AGPA and 17 characters of base32
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
	// TrustPolicy is the assume-role policy document of a role: who may assume it (AssumeRole). Nobody may assume one without.
	TrustPolicy string
	Tags        []keystore.Tag // ordered by key; at most 50
	// MaxSessionDuration is how many seconds a session of a role may last: 3600, or 0 for that, to 43200.
	MaxSessionDuration int32
}

// principalKind is what the rules of users, roles and groups differ in.
type principalKind struct {
	member      string // of the API's inputs
	entity      string // in the texts of errors
	quota       string // the name of limit
	limit       int
	inlineBytes int // of all inline policies together, blanks not counted
	nameLength  int
}

var principalKinds = map[keystore.PrincipalType]principalKind{
	keystore.PrincipalUser: {"userName", "User", "UsersPerAccount", 5000, 2048, 64},
	keystore.PrincipalRole: {"roleName", "Role", "RolesPerAccount", 1000, 10240, 64},

	keystore.PrincipalGroup: {"groupName", "Group", "GroupsPerAccount", 300, 5120, 128},
}

func kindOf(t keystore.PrincipalType) principalKind { return principalKinds[t] }

// input is the input that names a user, role or group.
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
		return failure(validationError, "The account's root is neither a user nor a role nor a group.")
	}
	return checkName(kind.member, n.Name, kind.nameLength)
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
	checkSession(&v, o.MaxSessionDuration)
	if err := invalid(v); err != nil {
		return err
	}
	if !pathPattern.MatchString(o.Path) {
		return invalidPath("path")
	}
	if t != keystore.PrincipalRole && (o.TrustPolicy != "" || o.Description != "" || o.MaxSessionDuration != 0) {
		return failure(validationError, "Only a role has a description, sessions and an assume role policy.")
	}
	if t == keystore.PrincipalGroup && len(o.Tags) > 0 {
		return failure(validationError, "A group has no tags.")
	}
	return checkTrustPolicy(o.TrustPolicy)
}

// checkSession checks a MaxSessionDuration; 0 says nothing.
func checkSession(v *form.Violations, seconds int32) {
	switch {
	case seconds != 0 && seconds < keystore.LeastMaxSession:
		v.Add("", "maxSessionDuration", fmt.Sprintf("have value greater than or equal to %d", keystore.LeastMaxSession))
	case seconds > keystore.MostMaxSession:
		v.Add("", "maxSessionDuration", fmt.Sprintf("have value less than or equal to %d", keystore.MostMaxSession))
	}
}

// storedSession is what a record has for a MaxSessionDuration: nothing for the one that is there without being asked for.
func storedSession(seconds int32) int {
	if seconds == keystore.DefaultMaxSession {
		return 0
	}
	return int(seconds)
}

// RoleUpdate is what UpdateRole changes; nil: not that.
type RoleUpdate struct {
	Description        *string
	MaxSessionDuration *int32 // seconds, 3600 to 43200
}

// UpdateRole gives a role another description, or other sessions from now on. (UpdateRole)
func (c *Client) UpdateRole(ctx context.Context, roleName string, to RoleUpdate) error {
	name := PrincipalName{keystore.PrincipalRole, roleName}
	in, v := name.input(), form.Violations{}
	if to.Description != nil {
		in["description"] = *to.Description
		v.Hidden("description", *to.Description, 0, 1000, descriptionPattern)
	}
	if to.MaxSessionDuration != nil {
		in["maxSessionDuration"] = *to.MaxSessionDuration
		checkSession(&v, cmp.Or(*to.MaxSessionDuration, -1)) // 0 is no duration
	}
	return c.change(ctx, byType{role: ops.UpdateRole}, name, request{input: in, form: invalid(v)}, func(record *keystore.Principal) error {
		if to.Description != nil {
			record.Description = *to.Description
		}
		if to.MaxSessionDuration != nil {
			record.MaxSessionDuration = storedSession(*to.MaxSessionDuration)
		}
		return nil
	})
}
