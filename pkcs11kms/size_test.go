package pkcs11kms

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// countingStore is a real store that counts what is read of it.
type countingStore struct {
	keystore.Store
	calls, records atomic.Int64
}

func (s *countingStore) count(records int) {
	s.calls.Add(1)
	s.records.Add(int64(records))
}

func (s *countingStore) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	s.count(1)
	return s.Store.Get(ctx, ref)
}

func (s *countingStore) List(ctx context.Context, kind keystore.Kind, region, account, after string, limit int) ([]keystore.Record, error) {
	recs, err := s.Store.List(ctx, kind, region, account, after, limit)
	s.count(len(recs))
	return recs, err
}

func (s *countingStore) Lookup(ctx context.Context, index keystore.Index, value string, after keystore.Ref, limit int) ([]keystore.Record, error) {
	recs, err := s.Store.Lookup(ctx, index, value, after, limit)
	s.count(len(recs))
	return recs, err
}

// read returns calls and records since the last time.
func (s *countingStore) read() string {
	return fmt.Sprintf("%d calls, %d records", s.calls.Swap(0), s.records.Swap(0))
}

// readings tells what opening a store with so many keys reads, and what operations read.
func readings(t *testing.T, size int) map[string]string {
	cfg := newConfig(t)
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store := &countingStore{Store: real}
	cfg.Store, cfg.StorePath = store, ""
	filling := openClient(t, cfg)
	ids := fillStore(t, filling, size)
	for _, id := range ids {
		alias := keystore.Alias{Region: testRegion, Account: testAccount, Name: "alias/" + id, Target: id}
		put(t, filling, alias.Put(0))
	}
	key := mustCreate(t, filling, types.KeySpecHmac256)
	createAlias(t, filling, "alias/used", key.KeyId)
	store.read()

	c := openClient(t, cfg)
	got := map[string]string{"opening": store.read()}
	end := marker{Op: "ListKeys", Region: testRegion, Account: testAccount, After: ids[len(ids)-20]}
	steps := []struct {
		name string
		call func() error
	}{
		{"DescribeKey, first", func() error { _, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &ids[50]}); return err }},
		{"DescribeKey, again", func() error { _, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &ids[50]}); return err }},
		{"GenerateMac, first", func() error { _, err := generate(t.Context(), c, ptr("alias/used"), []byte("m")); return err }},
		{"GenerateMac, again", func() error { _, err := generate(t.Context(), c, ptr("alias/used"), []byte("m")); return err }},
		{"ListKeys", func() error { _, err := c.ListKeys(t.Context(), &kms.ListKeysInput{Limit: aws.Int32(50)}); return err }},
		{"ListKeys, at the end", func() error {
			_, err := c.ListKeys(t.Context(), &kms.ListKeysInput{Limit: aws.Int32(10), Marker: ptr(end.String())})
			return err
		}},
		{"ListAliases", func() error { _, err := c.ListAliases(t.Context(), nil); return err }},
		{"ListAliases of a key", func() error {
			_, err := c.ListAliases(t.Context(), &kms.ListAliasesInput{KeyId: key.KeyId})
			return err
		}},
	}
	for _, step := range steps {
		require.NoError(t, step.call(), step.name)
		got[step.name] = store.read()
	}
	return got
}

// What opening and the operations read does not depend on how many keys and aliases there are.
func TestCostsDoNotGrowWithTheStore(t *testing.T) {
	few, many := readings(t, 100), readings(t, 1500)
	require.Equal(t, few, many)
	require.Equal(t, "1 calls, 1 records", few["DescribeKey, first"], "what is read is counted")
	require.Equal(t, "0 calls, 0 records", few["GenerateMac, again"])
	t.Log(few)
}
