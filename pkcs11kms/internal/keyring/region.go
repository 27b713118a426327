package keyring

import (
	"context"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// OpenToken opens the token of a region and makes sure that it is the one that the store's keys live in. config says how a token
// of a serial is opened; of any where the serial is empty, which is bound to the region then.
func OpenToken(ctx context.Context, store keystore.Store, region string, config func(serial string) token.Config) (*token.Token, error) {
	bound, err := BoundTo(ctx, store, region)
	if err != nil {
		return nil, err
	}
	t, err := token.Open(ctx, config(bound.Serial))
	if err == nil && bound.Retired != nil {
		if err = reinstate(ctx, store, region); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	if err != nil || bound.Serial != "" {
		return t, err
	}
	info := t.Info()
	bound = keystore.Region{Name: region, Serial: info.Serial, Label: info.Label, Manufacturer: info.Manufacturer, Model: info.Model}
	_, err = store.Commit(ctx, bound.Put(0))
	if errors.Is(err, keystore.ErrConflict) { // another process was first; it must have meant the same token
		if bound, err = BoundTo(ctx, store, region); err == nil && bound.Serial != info.Serial {
			err = fmt.Errorf("region %s was bound to the token with the serial %s meanwhile, this one has %s", region, bound.Serial, info.Serial)
		}
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// BoundTo reads which token a region belongs to; the zero Region when it was never used.
func BoundTo(ctx context.Context, store keystore.Store, region string) (keystore.Region, error) {
	rec, err := store.Get(ctx, keystore.RegionRef(region))
	if errors.Is(err, keystore.ErrNotFound) {
		return keystore.Region{}, nil
	}
	if err != nil {
		return keystore.Region{}, err
	}
	return keystore.DecodeRegion(rec)
}

// reinstate takes a retired region back whose token is there after all, so that it may not be missing in the configuration again.
func reinstate(ctx context.Context, store keystore.Store, name string) error {
	rec, err := store.Get(ctx, keystore.RegionRef(name))
	if err != nil {
		return err
	}
	bound, err := keystore.DecodeRegion(rec)
	if err != nil || bound.Retired == nil {
		return err
	}
	bound.Retired = nil
	_, err = store.Commit(ctx, bound.Put(rec.Version))
	if errors.Is(err, keystore.ErrConflict) {
		return nil // another process has done it
	}
	return err
}
