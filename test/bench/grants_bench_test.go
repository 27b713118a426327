package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// BenchmarkGrants: GenerateMac by a grantee, and a page of the list of grants, on a key with as many grants as one can have beside a key
// with ten; all of them are to the one who asks.
func BenchmarkGrants(b *testing.B) {
	r := setUp(b)
	ctx := context.Background()
	store := newStore(b, filepath.Join(b.TempDir(), "grants"))
	keys := r.keys(b, store, 2)
	bridge, err := pkcs11kms.Open(ctx, pkcs11kms.Config{Audit: audit.Discard, Store: store,
		Regions: map[string]pkcs11kms.Region{region: r.region}, Quotas: pkcs11kms.Quotas{NoRates: true}})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, bridge.Close()) })
	root, err := bridge.Client(region)
	require.NoError(b, err)
	root = root.As(bridge.Root())
	grantee := granteeOf(b, bridge, root)
	full, ten := keys[0], keys[1]
	fillGrants(b, store, full, grantee, 50_000)
	fillGrants(b, store, ten, grantee, 10)
	mac := func(keyID string) func() error {
		return func() error { return (&sized{client: grantee}).mac(keyID) }
	}
	b.Run("GenerateMac", func(b *testing.B) {
		compare(b, 1, mac(full), map[string]rival{"10-grants": each(mac(ten))})
	})
	b.Run("GenerateMac/64", func(b *testing.B) {
		compare(b, 64, mac(full), map[string]rival{"10-grants": each(mac(ten))})
	})
	page := func(keyID string, marker *string) func() error {
		return func() error {
			_, err := root.ListGrants(ctx, &kms.ListGrantsInput{KeyId: &keyID, Limit: aws.Int32(10), Marker: marker})
			return err
		}
	}
	b.Run("ListGrants", func(b *testing.B) {
		marker := lastPage(b, root, full)
		compare(b, 1, page(full, marker), map[string]rival{"10-grants": each(page(ten, nil)), "first-page": each(page(full, nil))})
	})
}

// granteeOf returns the client of a user without a policy.
func granteeOf(b *testing.B, bridge *pkcs11kms.Bridge, c *pkcs11kms.Client) *pkcs11kms.Client {
	made, err := bridge.IAM().As(bridge.Root()).CreatePrincipal(context.Background(),
		iam.PrincipalName{Type: keystore.PrincipalUser, Name: "grantee"}, iam.PrincipalOptions{})
	require.NoError(b, err)
	caller, err := bridge.Caller(context.Background(), made.ARN)
	require.NoError(b, err)
	return c.As(caller)
}

// fillGrants makes the records of n grants of GenerateMac, as CreateGrant would.
func fillGrants(b *testing.B, store keystore.Store, keyID string, to *pkcs11kms.Client, n int) {
	ctx := context.Background()
	const account = pkcs11kms.DefaultAccountID
	owner, operations := keystore.OwnerValue(account, to.Caller().ID()), []string{"GenerateMac"}
	sum := keystore.Grantee{Region: region, Account: account, Key: keyID, Principal: owner, CKAID: objectOf(keyID)}
	sum.Add(operations, n)
	batch := []keystore.Change{sum.Put(0),
		keystore.Counter{Region: region, Account: account, Name: keystore.CounterGrants + keyID, N: n}.Put(0)}
	for i := range n {
		id := make([]byte, 32)
		rand.Read(id)
		grant := keystore.Grant{Region: region, Account: account, ID: hex.EncodeToString(id), Key: keyID, CKAID: objectOf(keyID),
			Grantee: owner, Issuer: account, Operations: operations, Created: time.Now().UTC().Truncate(time.Millisecond), TokenKey: id}
		if batch = append(batch, grant.Put(0)); len(batch) == keystore.MaxChanges || i == n-1 {
			_, err := store.Commit(ctx, batch...)
			require.NoError(b, err)
			batch = batch[:0]
		}
	}
}

// lastPage returns the marker of a page near the end of the grants on a key.
func lastPage(b *testing.B, c *pkcs11kms.Client, keyID string) (last *string) {
	in := &kms.ListGrantsInput{KeyId: &keyID, Limit: aws.Int32(100)}
	for {
		out, err := c.ListGrants(context.Background(), in)
		require.NoError(b, err)
		if out.NextMarker == nil {
			return last
		}
		in.Marker, last = out.NextMarker, in.Marker
	}
}
