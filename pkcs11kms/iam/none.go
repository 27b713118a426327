package iam

import (
	"context"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// ListInstanceProfiles tells that a role is in no instance profile, if there is one: there are none here, and programs that delete a
// role look for them first. (ListInstanceProfilesForRole)
func (c *Client) ListInstanceProfiles(ctx context.Context, roleName string) error {
	name := PrincipalName{keystore.PrincipalRole, roleName}
	op := byType{role: ops.ListInstanceProfilesForRole}
	return c.read(ctx, op, name, name.input(), nil, func(keystore.Principal) error { return nil })
}
