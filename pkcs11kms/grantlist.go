package pkcs11kms

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// ListGrants returns the grants on a key in whatever state, or those with an id or to a grantee; Limit 1 to 100, default 50. A page may
// hold fewer grants than Limit.
func (c *Client) ListGrants(ctx context.Context, in *kms.ListGrantsInput, optFns ...func(*kms.Options)) (*kms.ListGrantsOutput, error) {
	return perform(ctx, c, ops.ListGrants, in, optFns, func(_ *Client, in *kms.ListGrantsInput) (request, error) {
		return request{keyID: in.KeyId, given: givenForService()}, nil
	}, func(
		ctx context.Context, c *call, in *kms.ListGrantsInput, k *key,
	) (*kms.ListGrantsOutput, error) {
		read, filter, err := c.grantsAsked(ctx, in, k)
		if err != nil {
			return nil, err
		}
		out := &kms.ListGrantsOutput{}
		out.Grants, out.NextMarker, err = c.listGrants(ctx, page{op: ops.ListGrants.Name, filter: filter, limit: in.Limit, marker: in.Marker},
			read, func(g *grantRecord) (bool, error) { return g.isOn(k), nil })
		out.Truncated = out.NextMarker != nil
		return out, err
	})
}

// grantsAsked returns what reads the grants on a key that an input asks for, and the name of that choice.
func (c *call) grantsAsked(ctx context.Context, in *kms.ListGrantsInput, k *key) (read reader, filter string, err error) {
	record, index := k.Record, keystore.IndexGrantKey
	value := keystore.TargetValue(record.Region, record.Account, record.ID)
	filter = record.Account + "/" + record.ID
	if in.GranteePrincipal != nil {
		owner, ok, err := c.askedOwner(ctx, *in.GranteePrincipal)
		if err != nil {
			return nil, "", err
		}
		filter += "/" + owner
		index, value = keystore.IndexGrantGrantee, keystore.GranteeValue(record.Region, record.Account, record.ID, owner)
		if !ok {
			return noRecords, filter, nil
		}
	}
	if in.GranteeServicePrincipal != nil { // to which there are no grants
		return noRecords, filter + "/" + *in.GranteeServicePrincipal, nil
	}
	if in.GrantId == nil {
		return c.grantsOfKey(record.Account, index, value), filter, nil
	}
	return func(ctx context.Context, after string, _ int) ([]keystore.Record, error) {
		rec, err := c.bridge.core.Store.Get(ctx, keystore.GrantRef(record.Region, record.Account, *in.GrantId))
		if err != nil || after != "" {
			return nil, records.IgnoreNotFound(err)
		}
		entries, err := keystore.EntriesOf(rec)
		if err != nil || !slices.Contains(entries, keystore.Entry{Index: index, Value: value}) {
			return nil, err
		}
		return []keystore.Record{rec}, nil
	}, filter + "/" + *in.GrantId, nil
}

func noRecords(context.Context, string, int) ([]keystore.Record, error) { return nil, nil }

// askedOwner is ownerOf for those who look for grants: also by the unique id of a user or role that is no more, as lists show it.
func (c *call) askedOwner(ctx context.Context, name string) (owner string, ok bool, err error) {
	if strings.HasPrefix(name, "arn:") {
		return c.bridge.ownerOf(ctx, name)
	}
	return keystore.OwnerValue(c.caller.Account(), name), true, nil
}

// grantsOfKey reads grants on a key of an account, which an index has, behind an id.
func (c *Client) grantsOfKey(account string, index keystore.Index, value string) reader {
	return func(ctx context.Context, after string, limit int) ([]keystore.Record, error) {
		var from keystore.Ref
		if after != "" {
			from = keystore.GrantRef(c.region.Name, account, after)
		}
		return c.bridge.core.Store.Lookup(ctx, index, value, from, limit)
	}
}

// grantsToRetire reads the grants that a principal may retire: on keys of all accounts, whose numbers stand before the ids.
func (c *Client) grantsToRetire(owner string) reader {
	return func(ctx context.Context, after string, limit int) ([]keystore.Record, error) {
		var from keystore.Ref
		if after != "" {
			account, id, ok := strings.Cut(after, "/")
			if !ok {
				return nil, apierr.InvalidMarker()
			}
			from = keystore.GrantRef(c.region.Name, account, id)
		}
		return c.bridge.core.Store.Lookup(ctx, keystore.IndexGrantRetiring, keystore.RetiringValue(c.region.Name, owner), from, limit)
	}
}

// placeInAccount is how a marker names a grant of a list that has those of all accounts.
func placeInAccount(ref keystore.Ref) string { return ref.Account + "/" + ref.ID }

// listGrants shows one page of the grants that count, and returns the marker of the next one.
func (c *Client) listGrants(ctx context.Context, p page, read reader, counts func(*grantRecord) (bool, error)) (
	[]types.GrantListEntry, *string, error,
) {
	p.max, p.normal = 100, 50
	shown := []types.GrantListEntry{}
	names := map[string]string{}
	more, err := c.walk(ctx, p, read, func(rec keystore.Record) error {
		grant, err := decodeGrant(rec)
		if err != nil {
			return err
		}
		ok, err := counts(grant)
		if err != nil || !ok {
			return err
		}
		entry, err := c.grantEntry(ctx, grant, names)
		shown = append(shown, entry)
		return err
	})
	return shown, more, err
}

// grantEntry is a grant as lists show it. names are the ARNs of principals that were looked up.
func (c *Client) grantEntry(ctx context.Context, g *grantRecord, names map[string]string) (types.GrantListEntry, error) {
	entry := types.GrantListEntry{
		KeyId:          aws.String(c.arn(keyID{region: g.Region, account: g.Account, id: g.Key})),
		GrantId:        aws.String(g.ID),
		Name:           aws.String(g.Name),
		CreationDate:   aws.Time(g.Created),
		IssuingAccount: aws.String(c.bridge.core.Identities.Root(g.Issuer).ARN()),
	}
	for _, operation := range g.Operations {
		entry.Operations = append(entry.Operations, types.GrantOperation(operation))
	}
	if g.SourceARN != "" {
		entry.Constraints = &types.GrantConstraints{SourceArn: aws.String(g.SourceARN)}
	}
	grantee, err := c.shownPrincipal(ctx, g.Grantee, names)
	entry.GranteePrincipal = aws.String(grantee)
	if err == nil && g.Retiring != "" {
		var retiring string
		retiring, err = c.shownPrincipal(ctx, g.Retiring, names)
		entry.RetiringPrincipal = aws.String(retiring)
	}
	return entry, err
}

// shownPrincipal is the ARN of a principal of a grant, or the unique id of one that is no more.
func (c *Client) shownPrincipal(ctx context.Context, owner string, names map[string]string) (string, error) {
	if name, ok := names[owner]; ok {
		return name, nil
	}
	account, id, _ := strings.Cut(owner, "/")
	name := c.bridge.core.Identities.Root(account).ARN()
	if id != account {
		arn, ok, err := c.bridge.core.Identities.IDToARN(ctx, account, id)
		if err != nil {
			return "", err
		}
		if name = arn; !ok {
			name = id
		}
	}
	names[owner] = name
	return name, nil
}

// ListRetirableGrants returns the grants in the region, on whatever key, that name a retiring principal; Limit 1 to 100, default 50.
// Exactly one of RetiringPrincipal and RetiringServicePrincipal names it, and it is of the caller's account.
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
		ctx context.Context, c *call, in *kms.ListRetirableGrantsInput, _ *key,
	) (*kms.ListRetirableGrantsOutput, error) {
		read, filter := reader(noRecords), aws.ToString(in.RetiringServicePrincipal)
		if in.RetiringPrincipal != nil {
			owner, ok, err := c.askedOwner(ctx, *in.RetiringPrincipal)
			if err != nil {
				return nil, err
			}
			// Who there is in another account, and which grants he has, is that account's business.
			if account, _, _ := strings.Cut(owner, "/"); account != "" && account != c.caller.Account() {
				return nil, accessDenied(c.caller, ops.ListRetirableGrants, *in.RetiringPrincipal, policy.Decision{})
			}
			if filter = owner; ok {
				read = c.grantsToRetire(owner)
			}
		}
		out := &kms.ListRetirableGrantsOutput{}
		var err error
		p := page{op: ops.ListRetirableGrants.Name, filter: filter, limit: in.Limit, marker: in.Marker, place: placeInAccount}
		out.Grants, out.NextMarker, err = c.listGrants(ctx, p, read, c.onItsKey(ctx))
		out.Truncated = out.NextMarker != nil
		return out, err
	})
}

// onItsKey tells whether there is the key still that a grant is on: those of a key that is being removed go in batches.
func (c *call) onItsKey(ctx context.Context) func(*grantRecord) (bool, error) {
	return func(g *grantRecord) (bool, error) {
		k, err := c.bridge.key(ctx, keystore.KeyRef(g.Region, g.Account, g.Key), false)
		if errors.Is(err, keystore.ErrNotFound) {
			return false, nil
		}
		return err == nil && g.isOn(k), err
	}
}
