package records_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// addKeys writes the records of keys from a number to another, which are unfinished.
func addKeys(t *testing.T, store keystore.Store, account string, from, to int) {
	t.Helper()
	for from < to {
		var batch []keystore.Change
		for ; from < to && len(batch) < keystore.MaxChanges; from++ {
			key := keystore.Key{Region: "r", Account: account, ID: fmt.Sprintf("%08d-0000-4000-8000-000000000000", from), State: keystore.Creating,
				Spec: "HMAC_256", Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: fmt.Appendf(nil, "%s%d", account, from), Instance: "i"}
			batch = append(batch, key.Put(0))
		}
		_, err := store.Commit(t.Context(), batch...)
		require.NoError(t, err)
	}
}

// Every record is visited once, however many pages of the store they are and however full the last one is, and none of others.
func TestWalksVisitEveryRecord(t *testing.T) {
	store := openStore(t, newPath(t))
	addKeys(t, store, "another", 0, 3)
	visits := map[keystore.Ref]int{}
	visit := func(rec keystore.Record) error {
		visits[rec.Ref]++
		return nil
	}
	made := 0
	for _, n := range []int{0, 1, keystore.MaxPage - 3, keystore.MaxPage, keystore.MaxPage + 1, 2*keystore.MaxPage - 3, 2 * keystore.MaxPage} {
		addKeys(t, store, "a", made, n)
		made = n
		for name, walk := range map[string]struct {
			run  func() error
			want int
		}{
			"EachOf":      {func() error { return records.EachOf(t.Context(), store, keystore.KindKey, "r", "a", visit) }, n},
			"EachIndexed": {func() error { return records.EachIndexed(t.Context(), store, keystore.IndexUnfinished, visit) }, n + 3},
		} {
			clear(visits)
			require.NoError(t, walk.run())
			require.Len(t, visits, walk.want, "%s of %d", name, n)
			for ref, times := range visits {
				require.Equal(t, 1, times, "%s of %d: %v", name, n, ref)
			}
		}
	}
}

// A walk ends with the error of a visit.
func TestWalksEndWithAnError(t *testing.T) {
	store := openStore(t, newPath(t))
	addKeys(t, store, "a", 0, 3)
	failed, visits := errors.New("injected"), 0
	visit := func(keystore.Record) error {
		visits++
		return failed
	}
	require.ErrorIs(t, records.EachOf(t.Context(), store, keystore.KindKey, "r", "a", visit), failed)
	require.ErrorIs(t, records.EachIndexed(t.Context(), store, keystore.IndexUnfinished, visit), failed)
	require.Equal(t, 2, visits)
}
