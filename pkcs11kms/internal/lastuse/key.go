package lastuse

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// keyInterval is how often the uses of keys are written.
const keyInterval = time.Minute

// Key names a key.
type Key struct{ Region, Account, ID string }

// KeyUse is what is noted of a use of a key's material beside its time.
type KeyUse struct {
	Operation string
	Event     uuid.UUID // eventID of its record in the audit log; zero: there is no log
	RequestID string    // of that, or Request where it is empty
	Request   uuid.UUID
}

// Record is the use as the store has it.
func (u KeyUse) Record(k Key, at int64) keystore.KeyUse {
	if u.RequestID == "" {
		u.RequestID = u.Request.String()
	}
	record := keystore.KeyUse{Region: k.Region, Account: k.Account, KeyID: k.ID, Operation: u.Operation, At: time.Unix(at, 0).UTC(),
		Request: u.RequestID}
	if u.Event != uuid.Nil {
		record.Event = u.Event.String()
	}
	return record
}

// Keys notes the uses of the material of keys.
type Keys struct {
	Recorder[Key, KeyUse]
	began time.Time
}

// NewKeys makes what notes them, from now on.
func NewKeys(store Store, now func() time.Time, log *slog.Logger) *Keys {
	k := &Keys{began: now()}
	k.form, k.store, k.now, k.log = k, store, now, log
	k.what, k.interval, k.least = "keys", keyInterval, -time.Second // the last one of the same second counts
	return k
}

// Read returns the last use of a key, whoever has noted it. ok tells whether there was one.
func (r *Keys) Read(ctx context.Context, k Key) (last keystore.KeyUse, ok bool, err error) {
	at, u := r.Last(k)
	last, version, err := r.stored(ctx, k)
	if err != nil {
		return keystore.KeyUse{}, false, err
	}
	if at > 0 && (version == 0 || at >= last.At.Unix()) {
		return u.Record(k, at), true, nil
	}
	return last, version > 0, nil
}

// Since returns since when the uses of a key that was created at a time are noted.
func (r *Keys) Since(ctx context.Context, k Key, created time.Time) (time.Time, error) {
	counter, version, err := r.since(ctx, k)
	since := time.Unix(int64(counter.N), 0).UTC()
	if version == 0 {
		since = records.Time(r.began)
	}
	if since.Before(created) {
		since = created
	}
	return since, err
}

func (r *Keys) since(ctx context.Context, k Key) (keystore.Counter, uint64, error) {
	return records.ReadCounter(ctx, r.store, k.Region, k.Account, keystore.CounterKeyUses)
}

func (r *Keys) stored(ctx context.Context, k Key) (u keystore.KeyUse, version uint64, err error) {
	rec, err := r.store.Get(ctx, keystore.KeyUseRef(k.Region, k.Account, k.ID))
	if errors.Is(err, keystore.ErrNotFound) {
		return u, 0, nil
	}
	if err == nil {
		u, err = keystore.DecodeKeyUse(rec)
	}
	return u, rec.Version, err
}

func (r *Keys) last(ctx context.Context, k Key) (at int64, version uint64, err error) {
	u, version, err := r.stored(ctx, k)
	if err == nil && version > 0 {
		at = u.At.Unix()
	}
	return at, version, err
}

// changes make the first record of a key only while that is there: the record goes with the key.
func (r *Keys) changes(ctx context.Context, k Key, u KeyUse, at int64, version uint64) ([]keystore.Change, error) {
	put := u.Record(k, at).Put(version)
	if version > 0 {
		return []keystore.Change{put}, nil
	}
	rec, err := r.store.Get(ctx, keystore.KeyRef(k.Region, k.Account, k.ID))
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := keystore.DecodeKey(rec)
	if err != nil || key.State.Unfinished() {
		return nil, err
	}
	if err := r.begin(ctx, k); err != nil {
		return nil, err
	}
	return []keystore.Change{{Op: keystore.Check, Ref: rec.Ref, Expect: rec.Version}, put}, nil
}

// begin notes since when uses are noted, where nobody has: the store is older than that.
func (r *Keys) begin(ctx context.Context, k Key) error {
	counter, version, err := r.since(ctx, k)
	if err != nil || version > 0 {
		return err
	}
	counter.N = int(r.began.Unix())
	_, err = r.store.Commit(ctx, counter.Put(0))
	if errors.Is(err, keystore.ErrConflict) {
		return nil // another process has
	}
	return err
}
