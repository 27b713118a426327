package records

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
)

// Accounts returns the accounts of a store, ordered by their numbers, and the one that the configuration names before them: that is one
// without a record, too.
func Accounts(ctx context.Context, store keystore.Store, configured string) ([]keystore.Account, error) {
	var all []keystore.Account
	err := EachOf(ctx, store, keystore.KindAccount, "", "", func(rec keystore.Record) error {
		account, err := keystore.DecodeAccount(rec)
		all = append(all, account)
		return err
	})
	if err != nil {
		return nil, err
	}
	first := keystore.Account{ID: configured}
	all = slices.DeleteFunc(all, func(a keystore.Account) bool {
		if a.ID == configured {
			first = a
		}
		return a.ID == configured
	})
	slices.SortFunc(all, func(a, b keystore.Account) int { return strings.Compare(a.ID, b.ID) })
	return append([]keystore.Account{first}, all...), nil
}

// IsAccount tells whether there is an account besides the one that the configuration names, as the cache has it or else the store.
func IsAccount(ctx context.Context, c *Cache, id string) (bool, error) {
	_, err := CachedOrFresh(ctx, c, keystore.AccountRef(id), decodeAccount)
	if errors.Is(err, keystore.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// account is an account as the cache holds it; it is never changed.
type account struct{ keystore.Account }

func decodeAccount(rec keystore.Record) (*account, error) {
	found, err := keystore.DecodeAccount(rec)
	return &account{found}, err
}
