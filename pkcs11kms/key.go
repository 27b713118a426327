package pkcs11kms

import (
	"context"
	"errors"
	"reflect"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// DescribeKey returns the metadata of a key in whatever state.
func (c *Client) DescribeKey(ctx context.Context, in *kms.DescribeKeyInput, optFns ...func(*kms.Options)) (*kms.DescribeKeyOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	var out *kms.DescribeKeyOutput
	req := request{keyID: in.KeyId, grantTokens: in.GrantTokens}
	err = c.guard(ctx, ops.DescribeKey, req, func(_ context.Context, k *key) error {
		out = &kms.DescribeKeyOutput{KeyMetadata: k.metadata()}
		return nil
	})
	return outcome(out, err)
}

// ListKeys returns the keys of the account and region, ordered by key id, Limit (1 to 1,000, default 100) at a time.
// NextMarker continues after the last one, also after a restart. A page may hold fewer keys than Limit.
func (c *Client) ListKeys(ctx context.Context, in *kms.ListKeysInput, optFns ...func(*kms.Options)) (*kms.ListKeysOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	out := &kms.ListKeysOutput{Keys: []types.KeyListEntry{}}
	err = c.guardAccount(ctx, ops.ListKeys, request{}, func(ctx context.Context, _ witness) error {
		p := page{op: ops.ListKeys.Name, limit: in.Limit, most: 1000, normal: 100, marker: in.Marker}
		more, err := c.walk(ctx, p, c.keysAfter, func(rec keystore.Record) error {
			k, err := c.bridge.decodeKey(rec)
			if errors.Is(err, keystore.ErrNotFound) {
				return nil // between two of its steps, and not to be seen
			}
			if err == nil {
				out.Keys = append(out.Keys, types.KeyListEntry{KeyId: aws.String(k.record.ID), KeyArn: aws.String(k.arn)})
			}
			return err
		})
		out.Truncated, out.NextMarker = more != nil, more
		return err
	})
	return outcome(out, err)
}

func (c *Client) keysAfter(ctx context.Context, after string, limit int) ([]keystore.Record, error) {
	return c.bridge.store.List(ctx, keystore.KindKey, c.region.name, c.caller.account, after, limit)
}

// EnableKey sets the state to Enabled. On a key that is enabled already it changes nothing and succeeds.
func (c *Client) EnableKey(ctx context.Context, in *kms.EnableKeyInput, optFns ...func(*kms.Options)) (*kms.EnableKeyOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return outcome(&kms.EnableKeyOutput{}, c.setState(ctx, ops.EnableKey, in.KeyId, keystore.Enabled))
}

// DisableKey sets the state to Disabled: nobody can use the key until it is enabled again. This process refuses it at
// once, every other within a second. On a key that is disabled already it changes nothing and succeeds.
func (c *Client) DisableKey(ctx context.Context, in *kms.DisableKeyInput, optFns ...func(*kms.Options)) (*kms.DisableKeyOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	return outcome(&kms.DisableKeyOutput{}, c.setState(ctx, ops.DisableKey, in.KeyId, keystore.Disabled))
}

func (c *Client) setState(ctx context.Context, op *ops.Operation, keyID *string, state keystore.KeyState) error {
	return c.change(ctx, op, request{keyID: keyID}, func(record *keystore.Key) error {
		record.State = state
		return nil
	})
}

// change guards an operation that changes a key's record, and commits the change unless there is none.
func (c *Client) change(ctx context.Context, op *ops.Operation, req request, edit func(*keystore.Key) error) error {
	return c.guard(ctx, op, req, func(ctx context.Context, k *key) error {
		record := k.record
		if err := edit(&record); err != nil || reflect.DeepEqual(record, k.record) {
			return err
		}
		_, err := c.bridge.cache.Commit(ctx, k.witness.and(record.Put(k.version))...)
		return err
	})
}

// UpdateKeyDescription replaces the description; an empty one removes it.
func (c *Client) UpdateKeyDescription(ctx context.Context, in *kms.UpdateKeyDescriptionInput, optFns ...func(*kms.Options)) (*kms.UpdateKeyDescriptionOutput, error) {
	c, in, err := begin(c, in, optFns)
	if err != nil {
		return nil, err
	}
	err = c.change(ctx, ops.UpdateKeyDescription, request{keyID: in.KeyId}, func(record *keystore.Key) error {
		record.Description = *in.Description
		return nil
	})
	return outcome(&kms.UpdateKeyDescriptionOutput{}, err)
}
