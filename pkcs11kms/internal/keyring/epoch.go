package keyring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
)

// A service key can be followed by another one for the same purpose. Keys of one purpose are numbered: the first has the purpose for its
// id, and the key of a later epoch its number after that. The one with the highest number is the present one; what was made by an earlier
// one stays what it is.

// EpochName is the id, and the label, of the service key of a purpose (SecretsKey, AuditKey, SealKey) and an epoch, from 1 on.
func EpochName(purpose string, epoch uint32) string {
	if epoch <= 1 {
		return purpose
	}
	return fmt.Sprintf("%s/%d", purpose, epoch)
}

// EpochOf tells whether an id, or a label, is that of a service key of a purpose, and of which epoch.
func EpochOf(purpose, id string) (epoch uint32, ok bool) {
	rest, ok := strings.CutPrefix(id, purpose)
	switch {
	case !ok:
		return 0, false
	case rest == "":
		return 1, true
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(rest, "/"), 10, 32)
	epoch = uint32(n)
	return epoch, err == nil && epoch > 1 && EpochName(purpose, epoch) == id
}

// EpochRecord is the record of the service key of an epoch.
type EpochRecord struct {
	Epoch   uint32
	Record  keystore.Key
	Version uint64
}

// EpochRecords returns the records of the service keys of a purpose that are whole, the first epoch first, as the store has them now.
func EpochRecords(ctx context.Context, store keystore.Store, regions []string, purpose string) (all []EpochRecord, err error) {
	for _, region := range regions {
		recs, err := store.List(ctx, keystore.KindKey, region, "", purpose[:len(purpose)-1], keystore.MaxPage)
		if err != nil {
			return nil, err
		}
		for _, rec := range recs {
			epoch, ok := EpochOf(purpose, rec.Ref.ID)
			if !ok {
				continue
			}
			record, err := keystore.DecodeKey(rec)
			if err != nil {
				return nil, err
			}
			if !record.State.Unfinished() {
				all = append(all, EpochRecord{epoch, record, rec.Version})
			}
		}
	}
	slices.SortStableFunc(all, func(x, y EpochRecord) int { return cmp.Compare(x.Epoch, y.Epoch) })
	return slices.CompactFunc(all, func(x, y EpochRecord) bool { return x.Epoch == y.Epoch }), nil
}

// Epochs is EpochRecords of the Ring's store.
func (r *Ring) Epochs(ctx context.Context, purpose string) ([]EpochRecord, error) {
	return EpochRecords(ctx, r.cfg.Store, r.cfg.Regions, purpose)
}

// keyOf is the key of a record.
func (r *Ring) keyOf(e EpochRecord) (*Key, error) {
	return r.Decode(keystore.Record{Ref: e.Record.Ref(), Version: e.Version, Value: e.Record.Put(0).Value})
}

// newest returns the present service key of a purpose, as the store has it now, or keystore.ErrNotFound.
func (r *Ring) newest(ctx context.Context, purpose string) (k *Key, epoch uint32, err error) {
	all, err := r.Epochs(ctx, purpose)
	if err == nil && len(all) == 0 {
		err = keystore.ErrNotFound
	}
	if err != nil {
		return nil, 0, err
	}
	last := all[len(all)-1]
	k, err = r.keyOf(last)
	return k, last.Epoch, err
}

// newestOrFirst is newest; it makes the first key where there is none.
func (r *Ring) newestOrFirst(ctx context.Context, first serviceKey) (k *Key, epoch uint32, err error) {
	k, epoch, err = r.newest(ctx, first.name)
	if errors.Is(err, keystore.ErrNotFound) {
		k, err = r.service(ctx, first)
		return k, 1, err
	}
	return k, epoch, err
}
