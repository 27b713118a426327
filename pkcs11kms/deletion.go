package pkcs11kms

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// A key that is scheduled for deletion stays as it is, unusable, until its date. Then the janitor of a long-lived process
// destroys it in three steps, of which whoever comes later can finish what is left:
//
//  1. one Commit takes the record to Deleting and removes the aliases; from here on there is no way back;
//  2. the object in the token is destroyed (unless the key was adopted to be kept);
//  3. the record goes.
//
// CancelKeyDeletion changes the same record as step 1, so one of the two wins.

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
		record := k.record
		record.State = keystore.PendingDeletion
		record.DeletionDate = c.bridge.wallClock().Add(time.Duration(days) * 24 * time.Hour)
		return &kms.ScheduleKeyDeletionOutput{KeyId: aws.String(k.arn), DeletionDate: aws.Time(record.DeletionDate),
			KeyState: types.KeyStatePendingDeletion, PendingWindowInDays: aws.Int32(days)}, c.commit(ctx, record.Put(k.version))
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

// CancelKeyDeletion takes a scheduled deletion back. The key is Disabled then, whatever it was before.
func (c *Client) CancelKeyDeletion(
	ctx context.Context, in *kms.CancelKeyDeletionInput, optFns ...func(*kms.Options),
) (*kms.CancelKeyDeletionOutput, error) {
	return perform(ctx, c, ops.CancelKeyDeletion, in, optFns, func(_ *Client, in *kms.CancelKeyDeletionInput) (request, error) {
		return request{keyID: in.KeyId}, nil
	}, func(
		ctx context.Context, c *call, _ *kms.CancelKeyDeletionInput, k *key,
	) (*kms.CancelKeyDeletionOutput, error) {
		record := k.record
		record.State, record.DeletionDate = keystore.Disabled, time.Time{}
		return &kms.CancelKeyDeletionOutput{KeyId: aws.String(k.arn)}, c.commit(ctx, record.Put(k.version))
	})
}

// deletionUptime is how long a process must have lived before it destroys keys whose date has come: time for an operator
// to notice a clock that is wrong.
const deletionUptime = 10 * time.Minute

// destroyDue begins the deletion of keys whose date has come. The rest is remove's.
func (b *Bridge) destroyDue(ctx context.Context) error {
	ctx, cancel := b.outlast(ctx)
	defer cancel()
	now := b.cfg.Now()
	if b.cfg.ShortLived || now.Sub(b.opened) < deletionUptime {
		return nil
	}
	if err := b.checkClock(ctx, now); err != nil {
		return err
	}
	var problems []error
	var after keystore.Ref
	for {
		recs, err := b.store.Lookup(ctx, keystore.IndexPendingDeletion, "", after, keystore.MaxPage)
		if err != nil {
			return errors.Join(append(problems, err)...)
		}
		for _, rec := range recs {
			after = rec.Ref
			record, err := keystore.DecodeKey(rec)
			if err == nil && !record.DeletionDate.After(now) {
				err = b.destroyKey(ctx, record, rec.Version)
			}
			problems = append(problems, err)
		}
		if len(recs) < keystore.MaxPage {
			return errors.Join(problems...)
		}
	}
}

// destroyKey begins with the commit after which there is no way back. That the key was cancelled or taken by another
// process at the last moment is no error.
func (b *Bridge) destroyKey(ctx context.Context, record keystore.Key, version uint64) error {
	if _, ok := b.regions[record.Region]; !ok {
		return nil // another process has its token
	}
	defer b.inProgress.add(record.Ref())()
	value := keystore.TargetValue(record.Region, record.Account, record.ID)
	aliases, err := b.store.Lookup(ctx, keystore.IndexAliasTarget, value, keystore.Ref{}, keystore.MaxChanges-1)
	if err != nil {
		return err
	}
	record.State, record.Instance, record.Aliases = keystore.Deleting, b.store.Instance(), 0
	record.DeletionDate = time.Time{}
	crash.At("deleting-begins")
	changes := []keystore.Change{record.Put(version)}
	for _, alias := range aliases {
		changes = append(changes, keystore.Change{Op: keystore.Delete, Ref: alias.Ref, Expect: alias.Version})
	}
	version, err = b.cache.Commit(ctx, changes...)
	if err != nil {
		return ignoreConflict(err)
	}
	crash.At("deleting-written")
	b.log.Warn("destroying a key whose deletion date has come", "key", record.ID, "cka_id", record.CKAID.String())
	_, err = b.finish(ctx, record, version)
	return err
}
