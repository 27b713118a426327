package records

import (
	"context"
	"errors"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
)

// RetryConflicts repeats what lost a race, which must read anew each time, until ctx ends.
func RetryConflicts(ctx context.Context, try func() error) error {
	for {
		err := try()
		if !errors.Is(err, keystore.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// Getter is what is needed of a keystore.Store to read one record.
type Getter interface {
	Get(context.Context, keystore.Ref) (keystore.Record, error)
}

// ReadCounter reads a counter; one that there is not is 0, of version 0.
func ReadCounter(ctx context.Context, store Getter, region, account, name string) (keystore.Counter, uint64, error) {
	rec, err := store.Get(ctx, keystore.CounterRef(region, account, name))
	if errors.Is(err, keystore.ErrNotFound) {
		return keystore.Counter{Region: region, Account: account, Name: name}, 0, nil
	}
	if err != nil {
		return keystore.Counter{}, 0, err
	}
	counter, err := keystore.DecodeCounter(rec)
	return counter, rec.Version, err
}

// Unchanged tells whether a record has the version still; 0: whether there is still none.
func Unchanged(ctx context.Context, store Getter, ref keystore.Ref, version uint64) (bool, error) {
	rec, err := store.Get(ctx, ref)
	if err := IgnoreNotFound(err); err != nil {
		return false, err
	}
	return rec.Version == version, nil
}

// IgnoreNotFound returns nil where the store has no such record, else err.
func IgnoreNotFound(err error) error {
	if errors.Is(err, keystore.ErrNotFound) {
		return nil
	}
	return err
}

// Time is a time as records hold it: UTC, in whole milliseconds as on the wire.
func Time(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
