package records

import (
	"context"

	"github.com/pkcs11kms/bridge/keystore"
)

// EachIndexed visits every record of an index.
func EachIndexed(ctx context.Context, store keystore.Store, index keystore.Index, visit func(keystore.Record) error) error {
	var after keystore.Ref
	for {
		recs, err := store.Lookup(ctx, index, "", after, keystore.MaxPage)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			after = rec.Ref
			if err := visit(rec); err != nil {
				return err
			}
		}
		if len(recs) < keystore.MaxPage {
			return nil
		}
	}
}

// EachOf visits every record of a kind, region and account.
func EachOf(ctx context.Context, store keystore.Store, kind keystore.Kind, region, account string,
	visit func(keystore.Record) error) error {
	after := ""
	for {
		recs, err := store.List(ctx, kind, region, account, after, keystore.MaxPage)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			after = rec.Ref.ID
			if err := visit(rec); err != nil {
				return err
			}
		}
		if len(recs) < keystore.MaxPage {
			return nil
		}
	}
}
