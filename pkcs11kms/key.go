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
	return perform(ctx, c, ops.DescribeKey, in, optFns, func(_ *Client, in *kms.DescribeKeyInput) (request, error) {
		return request{keyID: in.KeyId, grantTokens: in.GrantTokens}, nil
	}, func(
		_ context.Context, _ *call, _ *kms.DescribeKeyInput, k *key,
	) (*kms.DescribeKeyOutput, error) {
		return &kms.DescribeKeyOutput{KeyMetadata: k.Metadata()}, nil
	})
}

// ListKeys returns the keys of the account and region, ordered by key id, Limit (1 to 1,000, default 100) at a time.
// NextMarker continues after the last one, also after a restart. A page may hold fewer keys than Limit.
func (c *Client) ListKeys(ctx context.Context, in *kms.ListKeysInput, optFns ...func(*kms.Options)) (*kms.ListKeysOutput, error) {
	return perform(ctx, c, ops.ListKeys, in, optFns, func(_ *Client, in *kms.ListKeysInput) (request, error) {
		return request{}, nil
	}, func(
		ctx context.Context, c *call, in *kms.ListKeysInput, _ *key,
	) (*kms.ListKeysOutput, error) {
		out := &kms.ListKeysOutput{Keys: []types.KeyListEntry{}}
		p := page{op: ops.ListKeys.Name, limit: in.Limit, max: 1000, normal: 100, marker: in.Marker}
		more, err := c.walk(ctx, p, c.keysAfter, func(rec keystore.Record) error {
			k, err := c.bridge.decodeKey(rec)
			if errors.Is(err, keystore.ErrNotFound) {
				return nil // between two of its steps, and not to be seen
			}
			if err == nil {
				out.Keys = append(out.Keys, types.KeyListEntry{KeyId: aws.String(k.Record.ID), KeyArn: aws.String(k.ARN)})
			}
			return err
		})
		out.Truncated, out.NextMarker = more != nil, more
		return out, err
	})
}

func (c *Client) keysAfter(ctx context.Context, after string, limit int) ([]keystore.Record, error) {
	return c.bridge.core.Store.List(ctx, keystore.KindKey, c.region.Name, c.caller.Account(), after, limit)
}

// EnableKey sets the state to Enabled. On a key that is enabled already it changes nothing and succeeds.
func (c *Client) EnableKey(ctx context.Context, in *kms.EnableKeyInput, optFns ...func(*kms.Options)) (*kms.EnableKeyOutput, error) {
	return changeRecord(ctx, c, ops.EnableKey, in, optFns, &kms.EnableKeyOutput{}, func(_ *Client, in *kms.EnableKeyInput) (request, error) {
		return request{keyID: in.KeyId}, nil
	}, func(_ *call, _ *kms.EnableKeyInput, record *keystore.Key) error {
		record.State = keystore.Enabled
		return nil
	})
}

// DisableKey sets the state to Disabled: nobody can use the key until it is enabled again. This process refuses it at
// once, every other within a second. On a key that is disabled already it changes nothing and succeeds.
func (c *Client) DisableKey(ctx context.Context, in *kms.DisableKeyInput, optFns ...func(*kms.Options)) (*kms.DisableKeyOutput, error) {
	return changeRecord(ctx, c, ops.DisableKey, in, optFns, &kms.DisableKeyOutput{},
		func(_ *Client, in *kms.DisableKeyInput) (request, error) {
			return request{keyID: in.KeyId}, nil
		}, func(_ *call, _ *kms.DisableKeyInput, record *keystore.Key) error {
			record.State = keystore.Disabled
			return nil
		})
}

// changeRecord makes a call of an operation that changes a key's record by edit, and commits the change unless there is none.
func changeRecord[In, Out any](
	ctx context.Context, c *Client, op *ops.Operation, in *In, optFns []func(*kms.Options), out *Out,
	ask func(*Client, *In) (request, error), edit func(*call, *In, *keystore.Key) error,
) (*Out, error) {
	return perform(ctx, c, op, in, optFns, ask, func(ctx context.Context, c *call, in *In, k *key) (*Out, error) {
		record := k.Record
		if err := edit(c, in, &record); err != nil || reflect.DeepEqual(record, k.Record) {
			return out, err
		}
		return out, c.commit(ctx, record.Put(k.Version))
	})
}

// UpdateKeyDescription replaces the description; an empty one removes it.
func (c *Client) UpdateKeyDescription(
	ctx context.Context, in *kms.UpdateKeyDescriptionInput, optFns ...func(*kms.Options),
) (*kms.UpdateKeyDescriptionOutput, error) {
	return changeRecord(ctx, c, ops.UpdateKeyDescription, in, optFns, &kms.UpdateKeyDescriptionOutput{},
		func(_ *Client, in *kms.UpdateKeyDescriptionInput) (request, error) {
			return request{keyID: in.KeyId}, nil
		}, func(_ *call, in *kms.UpdateKeyDescriptionInput, record *keystore.Key) error {
			record.Description = *in.Description
			return nil
		})
}
