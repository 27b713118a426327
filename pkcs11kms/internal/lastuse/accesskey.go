package lastuse

import (
	"context"
	"log/slog"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// The store holds one counter for each access key and region in which it was used: the time in seconds since 1970. So a store with such
// counters can be read by every version of the program.

// accessKeyInterval is how often the uses of access keys are written, and accessKeyLag how much of one that is written may be missing.
const (
	accessKeyInterval = 5 * time.Minute
	accessKeyLag      = time.Minute
)

// counterPrefix begins the names of the counters; the access key id follows.
const counterPrefix = "access-key-used/"

// AccessKey is an access key of an account, in a region in which it is used.
type AccessKey struct{ Account, ID, Region string }

// AccessKeys notes the uses of access keys.
type AccessKeys = Recorder[AccessKey, struct{}]

// NewAccessKeys makes what notes them.
func NewAccessKeys(store Store, now func() time.Time, log *slog.Logger) *AccessKeys {
	return &AccessKeys{form: counters{store}, store: store, now: now, log: log, what: "access keys", interval: accessKeyInterval,
		least: accessKeyLag}
}

// Use is the last use of an access key. The zero Use: it was never used.
type Use struct {
	At     time.Time // UTC, whole seconds
	Region string
}

// ReadAccessKey returns the last use of an access key in any of the regions that the store knows of.
func ReadAccessKey(ctx context.Context, store Store, account, id string, regions []string) (last Use, err error) {
	for _, region := range regions {
		at, version, err := counters{store}.last(ctx, AccessKey{account, id, region})
		if err != nil {
			return Use{}, err
		}
		if at := time.Unix(at, 0).UTC(); version > 0 && at.After(last.At) {
			last = Use{at, region}
		}
	}
	return last, nil
}

// counters is the form of the uses of access keys.
type counters struct{ store Store }

func (c counters) last(ctx context.Context, k AccessKey) (at int64, version uint64, err error) {
	counter, version, err := records.ReadCounter(ctx, c.store, k.Region, k.Account, counterPrefix+k.ID)
	return int64(counter.N), version, err
}

func (c counters) changes(_ context.Context, k AccessKey, _ struct{}, at int64, version uint64) ([]keystore.Change, error) {
	counter := keystore.Counter{Region: k.Region, Account: k.Account, Name: counterPrefix + k.ID, N: int(at)}
	return []keystore.Change{counter.Put(version)}, nil
}
