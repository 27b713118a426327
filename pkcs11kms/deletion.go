package pkcs11kms

import (
	"context"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// What the janitor does with a key that is scheduled for deletion, and when, is package keyring's.

// The window of the service. The API model allows 1 to 365 days; the service refuses what is outside of 7 to 30. Its text
// for that is not known.
const (
	minPendingWindow     = 7
	maxPendingWindow     = 30
	defaultPendingWindow = 30
	pendingWindowText    = "PendingWindowInDays must be between 7 and 30 (inclusive)"
)

// ScheduleKeyDeletion makes the key unusable at once, and lets it be destroyed after PendingWindowInDays (7 to 30, default
// 30). Until then CancelKeyDeletion takes it back.
func (c *Client) ScheduleKeyDeletion(
	ctx context.Context, in *kms.ScheduleKeyDeletionInput, optFns ...func(*kms.Options),
) (*kms.ScheduleKeyDeletionOutput, error) {
	return perform(ctx, c, ops.ScheduleKeyDeletion, in, optFns, func(_ *Client, in *kms.ScheduleKeyDeletionInput) (request, error) {
		days := pendingWindow(in)
		if days < minPendingWindow || days > maxPendingWindow {
			return request{}, apierr.Validation(pendingWindowText)
		}
		return request{keyID: in.KeyId, given: givenWindow(days)}, nil
	}, func(
		ctx context.Context, c *call, in *kms.ScheduleKeyDeletionInput, k *key,
	) (*kms.ScheduleKeyDeletionOutput, error) {
		days := pendingWindow(in)
		record := k.Record
		record.State = keystore.PendingDeletion
		record.DeletionDate = c.bridge.core.Now().Add(time.Duration(days) * 24 * time.Hour)
		return &kms.ScheduleKeyDeletionOutput{KeyId: aws.String(k.ARN), DeletionDate: aws.Time(record.DeletionDate),
			KeyState: types.KeyStatePendingDeletion, PendingWindowInDays: aws.Int32(days)}, c.commit(ctx, record.Put(k.Version))
	})
}

func pendingWindow(in *kms.ScheduleKeyDeletionInput) int32 {
	if in.PendingWindowInDays == nil {
		return defaultPendingWindow
	}
	return *in.PendingWindowInDays
}

func givenWindow(days int32) map[string][]string {
	return map[string][]string{"kms:schedulekeydeletionpendingwindowindays": {strconv.Itoa(int(days))}}
}

// CancelKeyDeletion takes a scheduled deletion back. The key is Disabled then, whatever it was before, or PendingImport if it has no
// material.
func (c *Client) CancelKeyDeletion(
	ctx context.Context, in *kms.CancelKeyDeletionInput, optFns ...func(*kms.Options),
) (*kms.CancelKeyDeletionOutput, error) {
	return perform(ctx, c, ops.CancelKeyDeletion, in, optFns, func(_ *Client, in *kms.CancelKeyDeletionInput) (request, error) {
		return request{keyID: in.KeyId}, nil
	}, func(
		ctx context.Context, c *call, _ *kms.CancelKeyDeletionInput, k *key,
	) (*kms.CancelKeyDeletionOutput, error) {
		record := k.Record
		record.State, record.DeletionDate = keystore.Disabled, time.Time{}
		if record.Import != nil && !record.Import.Held {
			record.State = keystore.PendingImport
		}
		return &kms.CancelKeyDeletionOutput{KeyId: aws.String(k.ARN)}, c.commit(ctx, record.Put(k.Version))
	})
}
