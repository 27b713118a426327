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
	return perform(ctx, c, ops.ListGrants, in, optFns, func(_ *Client, in *kms.ListGrantsInput) (request, error) {
		return request{keyID: in.KeyId}, nil
	}, func(
		_ context.Context, _ *call, in *kms.ListGrantsInput, _ *key,
	) (*kms.ListGrantsOutput, error) {
		return &kms.ListGrantsOutput{Grants: []types.GrantListEntry{}}, noNextPage(in.Marker)
	})
}

// ListRetirableGrants returns the grants that a principal may retire: none. Exactly one of RetiringPrincipal and
// RetiringServicePrincipal names it.
func (c *Client) ListRetirableGrants(
	ctx context.Context, in *kms.ListRetirableGrantsInput, optFns ...func(*kms.Options),
) (*kms.ListRetirableGrantsOutput, error) {
	return perform(ctx, c, ops.ListRetirableGrants, in, optFns, func(_ *Client, in *kms.ListRetirableGrantsInput) (request, error) {
		switch {
		case in.RetiringPrincipal == nil && in.RetiringServicePrincipal == nil:
			var v form.Violations
			v.Null("retiringPrincipal")
			return request{}, v.Err()
		case in.RetiringPrincipal != nil && in.RetiringServicePrincipal != nil:
			return request{}, apierr.Validation("Specify either RetiringPrincipal or RetiringServicePrincipal, not both.")
		}
		return request{}, nil
	}, func(
		_ context.Context, _ *call, in *kms.ListRetirableGrantsInput, _ *key,
	) (*kms.ListRetirableGrantsOutput, error) {
		return &kms.ListRetirableGrantsOutput{Grants: []types.GrantListEntry{}}, noNextPage(in.Marker)
	})
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
	return perform(ctx, c, ops.RetireGrant, in, optFns, func(_ *Client, in *kms.RetireGrantInput) (request, error) {
		switch {
		case in.GrantToken != nil:
			return request{}, nil
		case in.KeyId == nil || in.GrantId == nil:
			return request{}, apierr.Validation("Specify either GrantToken, or KeyId and GrantId.")
		}
		return request{keyID: in.KeyId}, nil
	}, func(
		_ context.Context, _ *call, in *kms.RetireGrantInput, _ *key,
	) (*kms.RetireGrantOutput, error) {
		if in.GrantToken != nil {
			return nil, apierr.InvalidGrantToken()
		}
		return nil, noGrant(in.GrantId)
	})
}

// RevokeGrant finds no grant: NotFoundException.
func (c *Client) RevokeGrant(ctx context.Context, in *kms.RevokeGrantInput, optFns ...func(*kms.Options)) (*kms.RevokeGrantOutput, error) {
	return perform(ctx, c, ops.RevokeGrant, in, optFns, func(_ *Client, in *kms.RevokeGrantInput) (request, error) {
		return request{keyID: in.KeyId}, nil
	}, func(
		_ context.Context, _ *call, in *kms.RevokeGrantInput, _ *key,
	) (*kms.RevokeGrantOutput, error) {
		return nil, noGrant(in.GrantId)
	})
}

// noGrant is the answer about a grant of a key, to those who may ask about the key.
func noGrant(grantID *string) error { return apierr.NotFound("Grant ID %s not found", *grantID) }
