package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// RetiredRegion is a region whose token is gone for good.
type RetiredRegion struct {
	Name   string
	Serial string // of the token that it was bound to; may be empty
	Label  string // of that token
	Keys   int    // records that are set aside; service keys are among them, the region's binding key is not
}

// RetireRegion sets the keys of a region aside whose token is gone for good: the configuration need not name the region any more.
// Their records stay, and nothing is destroyed: if the token turns up again, the region is put back into the configuration and works
// as before. The region must be in the store and must not be in the configuration, else the error is a *RefusedError. No token is
// touched but the one that unlocks a store whose records are sealed. agree is asked before anything is changed; when it answers no,
// nothing is, and the error is a *RefusedError. The store is the one that open opens, not cfg.Store.
func RetireRegion(ctx context.Context, cfg pkcs11kms.Config, open OpenStore, name string,
	agree func(RetiredRegion) (bool, error)) (err error) {
	cfg, err = cfg.WithDefaults()
	if err != nil {
		return err
	}
	if _, configured := cfg.Regions[name]; configured {
		return refused(fmt.Sprintf("region %s is in use: the configuration names its token", name),
			"take it out of config.yaml first; at least one region must stay", nil)
	}
	below, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, below.Close()) }()
	store, closeToken, err := keyring.OpenSealed(ctx, cfg.Keyring(), below)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeToken()) }()
	region, bound, version, err := findRegion(ctx, store, name)
	if err != nil {
		return err
	}
	agreed, err := agree(region)
	if err != nil {
		return err
	}
	if !agreed {
		return refused(fmt.Sprintf("region %s is left as it is", name), "to retire it, answer y", nil)
	}
	now := cfg.Now().UTC()
	bound.Retired = &now
	_, err = store.Commit(ctx, bound.Put(version))
	if errors.Is(err, keystore.ErrConflict) {
		return refused(fmt.Sprintf("region %s was changed meanwhile", name), "look again: pkcs11kms doctor", err)
	}
	return err
}

// findRegion returns what is known of a region that may be retired, and its record with the version.
func findRegion(ctx context.Context, store keystore.Store, name string) (
	region RetiredRegion, bound keystore.Region, version uint64, err error) {
	held, err := keyring.Holdings(ctx, store)
	if err != nil {
		return region, bound, 0, err
	}
	region.Name = name
	known := map[string]bool{}
	for _, h := range held {
		if h.Region != "" {
			known[h.Region] = true
		}
		if h.Region != name {
			continue
		}
		err := records.EachOf(ctx, store, keystore.KindKey, name, h.Account, func(rec keystore.Record) error {
			if rec.Ref.ID != keyring.BindingKey {
				region.Keys++
			}
			return nil
		})
		if err != nil {
			return region, bound, 0, err
		}
	}
	rec, err := store.Get(ctx, keystore.RegionRef(name))
	switch {
	case errors.Is(err, keystore.ErrNotFound) && !known[name]:
		return region, bound, 0, refused(
			fmt.Sprintf("the store has no region %q; it has keys in %q", name, slices.Sorted(maps.Keys(known))),
			"see what it holds: pkcs11kms doctor", err)
	case errors.Is(err, keystore.ErrNotFound):
		return region, keystore.Region{Name: name}, 0, nil
	case err != nil:
		return region, bound, 0, err
	}
	if bound, err = keystore.DecodeRegion(rec); err != nil {
		return region, bound, 0, err
	}
	if bound.Retired != nil {
		return region, bound, 0, refused(fmt.Sprintf("region %s was retired on %s", name, bound.Retired.Format("2006-01-02")),
			"nothing is left to do; see what is set aside: pkcs11kms doctor", nil)
	}
	region.Serial, region.Label = bound.Serial, bound.Label
	return region, bound, rec.Version, nil
}
