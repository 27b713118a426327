package contention

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// TestJudge: a store that is right but for one thing is found wrong in that.
func TestJudge(t *testing.T) {
	const region, account, id, name = "us-east-1", "000000000000", "key", "alias/of-0-1"
	key := keystore.Key{Region: region, Account: account, ID: id, State: keystore.Enabled, CKAID: []byte("1234567890123456"),
		Description: "d", Aliases: 1, Tags: []keystore.Tag{{Key: "of-0-1", Value: "v"}}}
	alias := keystore.Alias{Region: region, Account: account, Name: name, Target: id}
	count := keystore.Counter{Region: region, Account: account, Name: keystore.CounterKeys, N: 1}
	claim := func() Claim {
		return Claim{Aliases: map[string]string{name: id}, Tags: map[string]map[string]string{id: {"of-0-1": "v"}},
			Descriptions: map[string]string{id: "d"}}
	}
	cases := []struct {
		change func(*keystore.Key, *keystore.Alias, *keystore.Counter, *Claim)
		text   string // empty: all is right
	}{
		{func(*keystore.Key, *keystore.Alias, *keystore.Counter, *Claim) {}, ""},
		{func(_ *keystore.Key, _ *keystore.Alias, n *keystore.Counter, _ *Claim) { n.N = 2 }, "counter says 2 keys"},
		{func(k *keystore.Key, _ *keystore.Alias, _ *keystore.Counter, _ *Claim) { k.Aliases = 2 }, "counts 2 aliases"},
		{func(k *keystore.Key, _ *keystore.Alias, _ *keystore.Counter, _ *Claim) {
			k.State, k.Instance = keystore.Deleting, "i"
		}, "is in the state Deleting"},
		{func(k *keystore.Key, _ *keystore.Alias, _ *keystore.Counter, _ *Claim) {
			k.State = keystore.PendingDeletion
		}, "deletion date"},
		{func(k *keystore.Key, _ *keystore.Alias, _ *keystore.Counter, _ *Claim) {
			k.DeletionDate = time.Unix(1, 0).UTC()
		}, "deletion date"},
		{func(_ *keystore.Key, a *keystore.Alias, _ *keystore.Counter, _ *Claim) { a.Target = "gone" }, "which is gone"},
		{func(_ *keystore.Key, _ *keystore.Alias, _ *keystore.Counter, c *Claim) { delete(c.Aliases, name) }, "told of the aliases"},
		{func(_ *keystore.Key, _ *keystore.Alias, _ *keystore.Counter, c *Claim) {
			c.Aliases["alias/of-0-2"] = id
		}, "told of the aliases"},
		{func(_ *keystore.Key, _ *keystore.Alias, _ *keystore.Counter, c *Claim) { c.Tags[id]["of-0-1"] = "w" }, "told of the tags"},
		{func(_ *keystore.Key, _ *keystore.Alias, _ *keystore.Counter, c *Claim) { c.Descriptions[id] = "e" }, "told of the description"},
	}
	for _, test := range cases {
		k, a, n, c := key, alias, count, claim()
		test.change(&k, &a, &n, &c)
		path := filepath.Join(t.TempDir(), "kms.db")
		require.NoError(t, sqlite.Create(path))
		store, err := sqlite.Open(t.Context(), path, sqlite.Options{})
		require.NoError(t, err)
		_, err = store.Commit(context.Background(), k.Put(0), a.Put(0), n.Put(0))
		require.NoError(t, err)
		err = Judge(t.Context(), store, region, account, []string{id}, c)
		if test.text == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, test.text)
		}
		require.NoError(t, store.Close())
	}
}
