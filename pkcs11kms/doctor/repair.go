package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/core"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/refcount"
)

// repairTries bounds how often Repair begins anew because others changed what it was about to correct.
const repairTries = 10

// Repair finishes keys that dead processes left half made or half deleted, corrects counters that do not fit what they
// count, removes aliases that name no key and grants that nobody can use, and makes the service key of access keys anew whose
// object is gone from the token or is not the one that was made. It destroys only objects that a half-made record names: unknown
// objects are DestroyObject's, one at a time. It tells what it did, also beside an error. The client's caller needs the permission
// pkcs11kms:RepairRecords.
func Repair(ctx context.Context, c *pkcs11kms.Client) (done []string, err error) {
	return administerRepair(ctx, c, (*keyring.Ring).Tidy)
}

// RepairUndecided is Repair, and removes keys as well that were left half made or half deleted by processes of which nobody can say
// whether they are alive: before a restart of the machine, or in a copy of the state directory. In a copy it destroys the objects of
// keys that are whole in the original, so ask first.
func RepairUndecided(ctx context.Context, c *pkcs11kms.Client) (done []string, err error) {
	return administerRepair(ctx, c, (*keyring.Ring).TidyUndecided)
}

// tidy finishes what was left half made, and tells the ids of the keys that are gone.
type tidy func(*keyring.Ring, context.Context) ([]string, error)

func administerRepair(ctx context.Context, c *pkcs11kms.Client, finish tidy) (done []string, err error) {
	err = pkcs11kms.Administer(ctx, c, ops.RepairRecords, nil, func(ctx context.Context, inside *core.Core, _ []keystore.Change) error {
		done, err = repair(ctx, inside, finish)
		return err
	})
	return done, err
}

func repair(ctx context.Context, inside *core.Core, finish tidy) (done []string, err error) {
	finished, err := finish(inside.Keys, ctx)
	for _, id := range finished {
		done = append(done, "removed the key "+id+", which was left half made or half deleted")
	}
	renewed, renewErr := renewSecrets(ctx, inside)
	done = append(done, renewed...)
	problems := []error{err, renewErr}
	for range repairTries {
		found, err := refcount.Find(ctx, inside.Store, inside.Account, inside.Regions)
		if err != nil {
			return done, errors.Join(append(problems, err)...)
		}
		remedies, lost, err := correct(ctx, inside.Cache, found)
		done = append(done, remedies...)
		if err != nil || !lost {
			return done, errors.Join(append(problems, err)...)
		}
	}
	return done, errors.Join(append(problems, errors.New("others change the store too fast for it to be corrected"))...)
}

// renewSecrets makes the service keys of access keys anew that are of no use any more, and names the access keys whose secrets are void by
// that.
func renewSecrets(ctx context.Context, inside *core.Core) (done []string, err error) {
	made, err := accessKeysByEpoch(ctx, inside.Store)
	if err != nil {
		return nil, err
	}
	epochs, err := inside.Keys.Epochs(ctx, keyring.SecretsKey)
	if err != nil {
		return nil, err
	}
	for _, e := range epochs {
		made[e.Epoch] = append([]keystore.AccessKey{}, made[e.Epoch]...)
	}
	for _, epoch := range slices.Sorted(maps.Keys(made)) {
		why, err := inside.Keys.RenewSecretsKey(ctx, epoch, len(made[epoch]) > 0)
		if err != nil {
			return done, err
		}
		if why == "" {
			continue
		}
		done = append(done, fmt.Sprintf("made the key %s anew, which %s", keyring.EpochName(keyring.SecretsKey, epoch), why))
		for _, key := range made[epoch] {
			done = append(done, "the secret of "+nameAccessKey(ctx, inside, key)+" is void by that: make another one, and delete this")
		}
	}
	return done, nil
}

// nameAccessKey names an access key and its owner.
func nameAccessKey(ctx context.Context, inside *core.Core, key keystore.AccessKey) string {
	owner := "the root of account " + key.Account
	if key.Owner != key.Account {
		owner = key.Owner
		if arn, found, err := inside.Identities.IDToARN(ctx, key.Account, key.Owner); err == nil && found {
			owner = arn
		}
	}
	return "the access key " + key.ID + " of " + owner
}

// correct commits what would correct the findings, and tells whether others were faster in a case.
func correct(ctx context.Context, store *records.Cache, found []refcount.Discrepancy) (done []string, lost bool, err error) {
	for _, wrong := range found {
		if wrong.Batch == nil {
			err = errors.Join(err, fmt.Errorf("%s %s %s", wrong.Area, wrong.Subject, wrong.Text))
			continue
		}
		switch _, failure := store.Commit(ctx, wrong.Batch...); {
		case failure == nil:
			done = append(done, wrong.Remedy)
		case errors.Is(failure, keystore.ErrConflict):
			lost = true
		default:
			return done, false, errors.Join(err, failure)
		}
	}
	return done, lost, err
}
