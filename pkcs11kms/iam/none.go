package iam

import (
	"context"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// What users and roles of AWS have beside what is kept here. Programs that delete a user or role look for those first, so there are
// lists of them, which are empty.

// ListInstanceProfiles tells that a role is in no instance profile, if there is one. (ListInstanceProfilesForRole)
func (c *Client) ListInstanceProfiles(ctx context.Context, roleName string) error {
	return c.hasNone(ctx, byType{role: ops.ListInstanceProfilesForRole}, PrincipalName{keystore.PrincipalRole, roleName})
}

// ListMFADevices tells that a user has none, if there is one.
func (c *Client) ListMFADevices(ctx context.Context, user string) error {
	return c.hasNone(ctx, byType{user: ops.ListMFADevices}, userName(user))
}

// ListSigningCertificates tells that a user has none, if there is one.
func (c *Client) ListSigningCertificates(ctx context.Context, user string) error {
	return c.hasNone(ctx, byType{user: ops.ListSigningCertificates}, userName(user))
}

// ListSSHPublicKeys tells that a user has none, if there is one.
func (c *Client) ListSSHPublicKeys(ctx context.Context, user string) error {
	return c.hasNone(ctx, byType{user: ops.ListSSHPublicKeys}, userName(user))
}

// ListServiceSpecificCredentials tells that a user has none, if there is one.
func (c *Client) ListServiceSpecificCredentials(ctx context.Context, user string) error {
	return c.hasNone(ctx, byType{user: ops.ListServiceSpecificCredentials}, userName(user))
}

// GetLoginProfile answers NoSuchEntity: there are no passwords here.
func (c *Client) GetLoginProfile(ctx context.Context, user string) error {
	name := userName(user)
	return c.read(ctx, byType{user: ops.GetLoginProfile}, name, name.input(), nil, func(keystore.Principal) error {
		return failure(noSuchEntity, "Login Profile for User %s cannot be found.", user)
	})
}

func (c *Client) hasNone(ctx context.Context, op byType, name PrincipalName) error {
	return c.read(ctx, op, name, name.input(), nil, func(keystore.Principal) error { return nil })
}
