package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// BenchmarkGrants: GenerateMac by a grantee, and a page of the list of grants, on a key with as many grants as one can have beside a key
// with ten; all of them are to the one who asks.
func BenchmarkGrants(b *testing.B) {
	r := setUp(b)
	ctx := context.Background()
	newKey := func() string {
		made, err := r.client.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC"})
		require.NoError(b, err)
		return *made.KeyMetadata.KeyId
	}
	full, ten := newKey(), newKey()
	grantee := r.grantee(b)
	r.fillGrants(b, full, grantee, 50_000)
	r.fillGrants(b, ten, grantee, 10)
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
			_, err := r.client.ListGrants(ctx, &kms.ListGrantsInput{KeyId: &keyID, Limit: aws.Int32(10), Marker: marker})
			return err
		}
	}
	b.Run("ListGrants", func(b *testing.B) {
		marker := lastPage(b, r.client, full)
		compare(b, 1, page(full, marker), map[string]rival{"10-grants": each(page(ten, nil)), "first-page": each(page(full, nil))})
	})
}

// grantee returns the client of a user without a policy.
func (r *rig) grantee(b *testing.B) *pkcs11kms.Client {
	made, err := r.bridge.IAM().As(r.bridge.Root()).CreatePrincipal(context.Background(),
		iam.PrincipalName{Type: keystore.PrincipalUser, Name: "grantee"}, iam.PrincipalOptions{})
	require.NoError(b, err)
	caller, err := r.bridge.Caller(context.Background(), made.ARN)
	require.NoError(b, err)
	return r.client.As(caller)
}

// fillGrants makes the records of n grants of GenerateMac, as CreateGrant would, and many in one commit.
func (r *rig) fillGrants(b *testing.B, keyID string, to *pkcs11kms.Client, n int) {
	ctx := context.Background()
	const account = pkcs11kms.DefaultAccountID
	object, owner, operations := r.ckaIDOf(b, keyID), keystore.OwnerValue(account, to.Caller().ID()), []string{"GenerateMac"}
	sum := keystore.Grantee{Region: region, Account: account, Key: keyID, Principal: owner, CKAID: object}
	sum.Add(operations, n)
	batch := []keystore.Change{sum.Put(0),
		keystore.Counter{Region: region, Account: account, Name: keystore.CounterGrants + keyID, N: n}.Put(0)}
	for i := range n {
		id := make([]byte, 32)
		rand.Read(id)
		grant := keystore.Grant{Region: region, Account: account, ID: hex.EncodeToString(id), Key: keyID, CKAID: object, Grantee: owner,
			Issuer: account, Operations: operations, Created: time.Now().UTC().Truncate(time.Millisecond), TokenKey: id}
		if batch = append(batch, grant.Put(0)); len(batch) == keystore.MaxChanges || i == n-1 {
			_, err := r.bridge.Core().Cache.Commit(ctx, batch...)
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
