package bench

import (
	"context"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// The stores that are compared hold as many keys, each with an alias.
const few, many = 100, 100_000

// sized is a client on a store with so many keys, of which one has an object in the token.
type sized struct {
	cfg    statedir.Config
	client *pkcs11kms.Client
	keyID  string // with an object, and the alias/used
	middle *string
}

func newSized(b *testing.B, r *rig, records int) *sized {
	ctx := context.Background()
	path := filepath.Join(b.TempDir(), fmt.Sprint("sized-", records))
	store := newStore(b, path)
	s := &sized{keyID: fill(b, store, records, r.ckaID)[records/2]}
	require.NoError(b, store.Close())
	s.cfg = statedir.Config{StorePath: path + ".db",
		Config: pkcs11kms.Config{Regions: map[string]pkcs11kms.Region{region: r.region}, Quotas: pkcs11kms.Quotas{NoRates: true},
			Audit: audit.Discard}}
	var err error
	s.client, err = statedir.New(ctx, s.cfg)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.client.Close()) })
	pages := kms.NewListKeysPaginator(s.client, &kms.ListKeysInput{Limit: aws.Int32(1000)})
	for n := 0; n < records/2 && pages.HasMorePages(); n += 1000 {
		out, err := pages.NextPage(ctx)
		require.NoError(b, err)
		s.middle = out.NextMarker
	}
	return s
}

// fill writes n keys with an alias each, and returns their ids. The key in the middle has the CKA_ID of an object, if there is one.
func fill(b *testing.B, store keystore.Store, n int, object ...[]byte) (ids []string) {
	var batch []keystore.Change
	for i := range n {
		id := fmt.Sprintf("%08x-0000-4000-8000-000000000000", i)
		record := keystore.Key{Region: region, Account: pkcs11kms.DefaultAccountID, ID: id, State: keystore.Enabled, Spec: "HMAC_256",
			Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: []byte(hex.EncodeToString([]byte(id))[:32]), Aliases: 1}
		alias := keystore.Alias{Region: region, Account: pkcs11kms.DefaultAccountID, Name: "alias/" + id, Target: id}
		if ids = append(ids, id); i == n/2 && len(object) > 0 {
			record.CKAID = object[0]
		}
		batch = append(batch, record.Put(0), alias.Put(0))
		if len(batch) == keystore.MaxChanges || i == n-1 {
			_, err := store.Commit(context.Background(), batch...)
			require.NoError(b, err)
			batch = batch[:0]
		}
	}
	return ids
}

// BenchmarkSize: what operations cost with 100,000 keys, and how many times more than with 100.
func BenchmarkSize(b *testing.B) {
	r := setUp(b)
	small, large := newSized(b, r, few), newSized(b, r, many)
	ctx := context.Background()
	cases := []struct {
		name string
		call func(*sized) error
	}{
		{"ListKeys", func(s *sized) error {
			_, err := s.client.ListKeys(ctx, &kms.ListKeysInput{Limit: aws.Int32(40)})
			return err
		}},
		{"ListKeys/middle", func(s *sized) error {
			_, err := s.client.ListKeys(ctx, &kms.ListKeysInput{Limit: aws.Int32(40), Marker: s.middle})
			return err
		}},
		{"ListAliases", func(s *sized) error {
			_, err := s.client.ListAliases(ctx, &kms.ListAliasesInput{Limit: aws.Int32(40)})
			return err
		}},
		{"ListAliases/key", func(s *sized) error {
			_, err := s.client.ListAliases(ctx, &kms.ListAliasesInput{KeyId: &s.keyID})
			return err
		}},
		{"DescribeKey", func(s *sized) error {
			_, err := s.client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &s.keyID})
			return err
		}},
		{"GenerateMac", func(s *sized) error { return s.mac(s.keyID) }},
		{"GenerateMac/alias", func(s *sized) error { return s.mac("alias/" + s.keyID) }},
		{"Open", func(s *sized) error { // a Client, and the first use of a key
			c, err := statedir.New(ctx, s.cfg)
			if err != nil {
				return err
			}
			if _, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &s.keyID}); err != nil {
				return err
			}
			return c.Close()
		}},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			compare(b, 1, func() error { return c.call(large) }, map[string]rival{"100-keys": each(func() error { return c.call(small) })})
		})
	}
}

func (s *sized) mac(keyID string) error {
	_, err := s.client.GenerateMac(context.Background(),
		&kms.GenerateMacInput{KeyId: &keyID, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: []byte("m")})
	return err
}
