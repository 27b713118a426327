package pkcs11kms

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// There are no grants, so every list of them is empty and none can be found. Tools that look through the grants of a key
// before they change or delete it go on from there.

// ListGrants returns the grants of a key in whatever state: none.
func (c *Client) ListGrants(ctx context.Context, in *kms.ListGrantsInput, optFns ...func(*kms.Options)) (*kms.ListGrantsOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	err = c.guard(ctx, ops.ListGrants, request{keyID: in.KeyId}, func(context.Context, *key) error { return noNextPage(in.Marker) })
	return outcome(&kms.ListGrantsOutput{Grants: []types.GrantListEntry{}}, err)
}

// ListRetirableGrants returns the grants that a principal may retire: none. Exactly one of RetiringPrincipal and
// RetiringServicePrincipal names it.
func (c *Client) ListRetirableGrants(ctx context.Context, in *kms.ListRetirableGrantsInput, optFns ...func(*kms.Options)) (*kms.ListRetirableGrantsOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	switch {
	case in.RetiringPrincipal == nil && in.RetiringServicePrincipal == nil:
		var v form.Violations
		v.Null("retiringPrincipal")
		return nil, v.Err()
	case in.RetiringPrincipal != nil && in.RetiringServicePrincipal != nil:
		return nil, apierr.Validation("Specify either RetiringPrincipal or RetiringServicePrincipal, not both.")
	}
	err = c.guardAccount(ctx, ops.ListRetirableGrants, request{}, func(context.Context, witness) error { return noNextPage(in.Marker) })
	return outcome(&kms.ListRetirableGrantsOutput{Grants: []types.GrantListEntry{}}, err)
}

// noNextPage refuses every marker: what fits on one page has no next one, and no marker was ever given out.
func noNextPage(marker *string) error {
	if marker != nil {
		return apierr.InvalidMarker()
	}
	return nil
}

// RetireGrant finds no grant: InvalidGrantTokenException for a GrantToken, NotFoundException for a KeyId and GrantId.
func (c *Client) RetireGrant(ctx context.Context, in *kms.RetireGrantInput, optFns ...func(*kms.Options)) (*kms.RetireGrantOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	switch {
	case in.GrantToken != nil:
		return nil, c.guardAccount(ctx, ops.RetireGrant, request{}, func(context.Context, witness) error { return apierr.InvalidGrantToken() })
	case in.KeyId == nil || in.GrantId == nil:
		return nil, apierr.Validation("Specify either GrantToken, or KeyId and GrantId.")
	}
	return nil, c.noGrant(ctx, ops.RetireGrant, in.KeyId, in.GrantId)
}

// RevokeGrant finds no grant: NotFoundException.
func (c *Client) RevokeGrant(ctx context.Context, in *kms.RevokeGrantInput, optFns ...func(*kms.Options)) (*kms.RevokeGrantOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return nil, c.noGrant(ctx, ops.RevokeGrant, in.KeyId, in.GrantId)
}

// noGrant is the answer about a grant of a key, to those who may ask about the key.
func (c *Client) noGrant(ctx context.Context, op *ops.Operation, keyID, grantID *string) error {
	return c.guard(ctx, op, request{keyID: keyID}, func(context.Context, *key) error {
		return apierr.NotFound("Grant ID %s not found", *grantID)
	})
}
