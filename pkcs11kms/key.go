package pkcs11kms

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
)

var (
	opDescribeKey = operation{name: "DescribeKey", aliases: true}
	opListKeys    = operation{name: "ListKeys"}
	opEnableKey   = operation{name: "EnableKey", fresh: true}
	opDisableKey  = operation{name: "DisableKey", fresh: true}
)

// DescribeKey returns the metadata of a key in whatever state.
func (c *Client) DescribeKey(ctx context.Context, in *kms.DescribeKeyInput, optFns ...func(*kms.Options)) (*kms.DescribeKeyOutput, error) {
	c, err := c.with(optFns)
	if err != nil {
		return nil, err
	}
	if in == nil {
		in = &kms.DescribeKeyInput{}
	}
	var v violations
	v.keyID(in.KeyId)
	v.grantTokens(in.GrantTokens)
	if err := v.err(); err != nil {
		return nil, err
	}
	var out *kms.DescribeKeyOutput
	req := request{keyID: in.KeyId, grantTokens: in.GrantTokens}
	err = c.guard(ctx, &opDescribeKey, req, func(_ context.Context, k *key) error {
		out = &kms.DescribeKeyOutput{KeyMetadata: k.metadata()}
		return nil
	})
	return outcome(out, err)
}

// ListKeys returns the keys of the account and region, ordered by key id, Limit (1 to 1,000, default 100) at a time.
// NextMarker continues after the last one, also after a restart. A page may hold fewer keys than Limit.
func (c *Client) ListKeys(ctx context.Context, in *kms.ListKeysInput, optFns ...func(*kms.Options)) (*kms.ListKeysOutput, error) {
	c, err := c.with(optFns)
	if err != nil {
		return nil, err
	}
	if in == nil {
		in = &kms.ListKeysInput{}
	}
	var v violations
	v.page(in.Limit, in.Marker)
	if err := v.err(); err != nil {
		return nil, err
	}
	var out *kms.ListKeysOutput
	err = c.guardAccount(ctx, &opListKeys, func(ctx context.Context) error {
		out, err = c.listKeys(ctx, in)
		return err
	})
	return outcome(out, err)
}

func (c *Client) listKeys(ctx context.Context, in *kms.ListKeysInput) (*kms.ListKeysOutput, error) {
	limit := 100
	if in.Limit != nil {
		limit = int(*in.Limit)
	}
	m := marker{Op: opListKeys.name, Region: c.region.name, Account: c.caller.account}
	if in.Marker != nil {
		var err error
		if m, err = parseMarker(*in.Marker, m); err != nil {
			return nil, err
		}
	}
	recs, err := c.bridge.store.List(ctx, keystore.KindKey, c.region.name, c.caller.account, m.After, limit)
	if err != nil {
		return nil, err
	}
	out := &kms.ListKeysOutput{Keys: []types.KeyListEntry{}}
	for _, rec := range recs {
		k, err := c.bridge.decodeKey(rec)
		switch {
		case errors.Is(err, keystore.ErrNotFound):
			continue
		case err != nil:
			return nil, err
		}
		out.Keys = append(out.Keys, types.KeyListEntry{KeyId: aws.String(k.record.ID), KeyArn: aws.String(k.arn)})
	}
	if len(recs) < limit {
		return out, nil
	}
	// A full page is not the last one unless nothing follows it.
	m.After = recs[len(recs)-1].Ref.ID
	rest, err := c.bridge.store.List(ctx, keystore.KindKey, c.region.name, c.caller.account, m.After, 1)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		out.Truncated = true
		out.NextMarker = aws.String(m.String())
	}
	return out, nil
}

// EnableKey sets the state to Enabled. On a key that is enabled already it changes nothing and succeeds.
func (c *Client) EnableKey(ctx context.Context, in *kms.EnableKeyInput, optFns ...func(*kms.Options)) (*kms.EnableKeyOutput, error) {
	if in == nil {
		in = &kms.EnableKeyInput{}
	}
	if err := c.setState(ctx, &opEnableKey, in.KeyId, keystore.Enabled, optFns); err != nil {
		return nil, err
	}
	return &kms.EnableKeyOutput{}, nil
}

// DisableKey sets the state to Disabled: nobody can use the key until it is enabled again. This process refuses it at
// once, every other within a second. On a key that is disabled already it changes nothing and succeeds.
func (c *Client) DisableKey(ctx context.Context, in *kms.DisableKeyInput, optFns ...func(*kms.Options)) (*kms.DisableKeyOutput, error) {
	if in == nil {
		in = &kms.DisableKeyInput{}
	}
	if err := c.setState(ctx, &opDisableKey, in.KeyId, keystore.Disabled, optFns); err != nil {
		return nil, err
	}
	return &kms.DisableKeyOutput{}, nil
}

func (c *Client) setState(ctx context.Context, op *operation, keyID *string, state keystore.KeyState, optFns []func(*kms.Options)) error {
	c, err := c.with(optFns)
	if err != nil {
		return err
	}
	var v violations
	v.keyID(keyID)
	if err := v.err(); err != nil {
		return err
	}
	return c.guard(ctx, op, request{keyID: keyID}, func(ctx context.Context, k *key) error {
		if k.record.State == state {
			return nil
		}
		record := k.record
		record.State = state
		_, err := c.bridge.cache.commit(ctx, record.Put(k.version))
		return err
	})
}
