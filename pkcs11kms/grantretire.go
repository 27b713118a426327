package pkcs11kms

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// RetireGrant ends a grant as RevokeGrant does, for those who are done with it: its retiring principal, its grantee if it lists
// RetireGrant, and whom the account lets by its own policies. GrantToken names the grant, or KeyId and GrantId do.
func (c *Client) RetireGrant(ctx context.Context, in *kms.RetireGrantInput, optFns ...func(*kms.Options)) (*kms.RetireGrantOutput, error) {
	return perform(ctx, c, ops.RetireGrant, in, optFns, func(_ *Client, in *kms.RetireGrantInput) (request, error) {
		switch {
		case in.GrantToken != nil:
			return request{retiring: in.GrantToken, dryRun: aws.ToBool(in.DryRun)}, nil
		case in.KeyId == nil || in.GrantId == nil:
			return request{}, apierr.Validation("Specify either GrantToken, or KeyId and GrantId.")
		}
		return request{keyID: in.KeyId, retiringID: in.GrantId, dryRun: aws.ToBool(in.DryRun)}, nil
	}, func(
		ctx context.Context, c *call, in *kms.RetireGrantInput, k *key,
	) (*kms.RetireGrantOutput, error) {
		if c.req.retire == nil {
			return nil, noGrant(*in.GrantId)
		}
		return &kms.RetireGrantOutput{}, c.endGrant(ctx, c.req.retire, k)
	})
}

// storedGrant is Stored for RetireGrant: the key, and the grant that the decision rests on as well.
func (c *call) storedGrant(ctx context.Context) (s subject, missing error, err error) {
	c.req.retire = nil
	if c.req.retiring != nil {
		return c.grantByToken(ctx, *c.req.retiring)
	}
	s, err = c.readSubject(ctx, c.name)
	if err != nil {
		return s, nil, err
	}
	ref := keystore.GrantRef(c.name.region, c.name.account, *c.req.retiringID)
	grant, err := records.Fresh(ctx, c.bridge.core.Cache, ref, decodeGrant)
	if err == nil && grant.isOn(s.key) {
		c.req.retire = grant
	}
	return s, s.missing, records.IgnoreNotFound(err)
}

// grantByToken finds a grant and its key by a token. Without one the call is decided as one that is about no key.
func (c *call) grantByToken(ctx context.Context, token string) (s subject, missing error, err error) {
	grant, err := c.grantOfToken(ctx, token)
	if _, refused := errors.AsType[smithy.APIError](err); refused {
		return subject{}, err, nil
	}
	if err != nil {
		return subject{}, nil, err
	}
	s, err = c.readSubject(ctx, keyID{region: grant.Region, account: grant.Account, id: grant.Key})
	if err != nil {
		return s, nil, err
	}
	if !grant.isOn(s.key) {
		return subject{}, apierr.InvalidGrantToken(), nil
	}
	c.req.retire = grant
	return s, nil, nil
}
