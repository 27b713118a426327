package iam

import (
	"context"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// What users and roles of AWS have beside what is kept here: managed policies, groups and instance profiles. Programs that read or delete a
// user or role look for those first, so there are lists of them, which are empty.

var listAttachedPolicies = byType{ops.ListAttachedUserPolicies, ops.ListAttachedRolePolicies}

// ListAttachedPolicies tells that no managed policy is attached to a user or role, if there is one. (ListAttachedUserPolicies,
// ListAttachedRolePolicies)
func (c *Client) ListAttachedPolicies(ctx context.Context, name PrincipalName) error {
	return c.hasNone(ctx, listAttachedPolicies, name)
}

// ListGroups tells that a user is in no group, if there is one. (ListGroupsForUser)
func (c *Client) ListGroups(ctx context.Context, userName string) error {
	return c.hasNone(ctx, byType{user: ops.ListGroupsForUser}, PrincipalName{keystore.PrincipalUser, userName})
}

// ListInstanceProfiles tells that a role is in no instance profile, if there is one. (ListInstanceProfilesForRole)
func (c *Client) ListInstanceProfiles(ctx context.Context, roleName string) error {
	return c.hasNone(ctx, byType{role: ops.ListInstanceProfilesForRole}, PrincipalName{keystore.PrincipalRole, roleName})
}

func (c *Client) hasNone(ctx context.Context, op byType, name PrincipalName) error {
	return c.read(ctx, op, name, name.input(), nil, func(keystore.Principal) error { return nil })
}
