package pkcs11kms

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// fillStore writes n enabled key records that have no objects. It returns their ids in order.
func fillStore(t testing.TB, c *Client, n int) []string {
	ids := make([]string, n)
	var batch []keystore.Change
	for i := range ids {
		ids[i] = fmt.Sprintf("%08x-0000-4000-8000-000000000000", i+1)
		batch = append(batch, bareKey(ids[i]).Put(0))
		if len(batch) == keystore.MaxChanges || i == n-1 {
			_, err := c.bridge.core.Cache.Commit(t.Context(), batch...)
			require.NoError(t, err)
			batch = batch[:0]
		}
	}
	return ids
}

func walk(t *testing.T, c *Client, limit *int32) (ids []string, pages int) {
	var marker *string
	for {
		out, err := c.ListKeys(t.Context(), &kms.ListKeysInput{Limit: limit, Marker: marker})
		require.NoError(t, err)
		pages++
		for _, entry := range out.Keys {
			require.Equal(t, arnOf(*entry.KeyId), *entry.KeyArn)
			ids = append(ids, *entry.KeyId)
		}
		require.Equal(t, out.Truncated, out.NextMarker != nil)
		if !out.Truncated {
			return ids, pages
		}
		marker = out.NextMarker
	}
}

func TestListKeysPages(t *testing.T) {
	c := newClient(t)
	ids, pages := walk(t, c, nil)
	require.Empty(t, ids)
	require.Equal(t, 1, pages)
	want := fillStore(t, c, 205)
	for limit, pages := range map[int32]int{1: 205, 5: 41, 7: 30, 100: 3, 205: 1, 206: 1, 1000: 1} {
		got, n := walk(t, c, aws.Int32(limit))
		require.Equal(t, want, got)
		require.Equal(t, pages, n, "limit %d: no empty page at the end", limit)
	}
	got, n := walk(t, c, nil)
	require.Equal(t, want, got)
	require.Equal(t, 3, n, "the default is 100")
	for limit, text := range map[int32]string{0: "greater than or equal to 1", -1: "greater than or equal to 1",
		1001: "less than or equal to 1000"} {
		_, err := c.ListKeys(t.Context(), &kms.ListKeysInput{Limit: aws.Int32(limit)})
		requireAPIError(t, err, "ValidationException", fmt.Sprintf(
			"1 validation error detected: Value '%d' at 'limit' failed to satisfy constraint: Member must have value %s", limit, text))
	}
}

// putKey writes an enabled key record that has no object.
func putKey(t *testing.T, c *Client, id string) string {
	t.Helper()
	put(t, c, bareKey(id).Put(0))
	return id
}

// dropKey removes such a record.
func dropKey(t *testing.T, c *Client, id string) {
	t.Helper()
	ref := bareKey(id).Ref()
	put(t, c, keystore.Change{Op: keystore.Delete, Ref: ref, Expect: mustVersion(t, c, ref)})
}

// bareKey is the record of an enabled key that has no object.
func bareKey(id string) keystore.Key {
	return keystore.Key{Region: testRegion, Account: testAccount, ID: id, State: keystore.Enabled, Spec: "HMAC_256",
		Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: []byte(strings.ReplaceAll(id, "-", "")[:16])}
}

func TestEnableAndDisable(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	state := func() *types.KeyMetadata {
		out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
		require.NoError(t, err)
		return out.KeyMetadata
	}
	mac, err := generate(t.Context(), c, key.KeyId, []byte("m"))
	require.NoError(t, err)
	for range 2 { // the second time changes nothing
		_, err := c.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: key.KeyId})
		require.NoError(t, err)
		require.Equal(t, types.KeyStateDisabled, state().KeyState)
		require.False(t, state().Enabled)
	}
	requireAPIError(t, verify(t.Context(), c, key.KeyId, []byte("m"), mac), "DisabledException", *key.Arn+" is disabled.")
	for range 2 {
		_, err := c.EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: key.Arn})
		require.NoError(t, err)
		require.Equal(t, key, state(), "as it was made")
	}
	require.NoError(t, verify(t.Context(), c, key.KeyId, []byte("m"), mac))
}

// A change that lost its race decides anew.
func TestStateChangesThatCollide(t *testing.T) {
	cfg := newConfig(t)
	clients := []*Client{openClient(t, cfg), openClient(t, cfg)}
	key := mustCreate(t, clients[0], types.KeySpecHmac256)
	errs := make(chan error)
	for i := range 8 {
		go func() {
			var err error
			for n := 0; n < 25 && err == nil; n++ {
				err = toggle(t.Context(), clients[i%2], key.KeyId, n%2 == 0)
			}
			errs <- err
		}()
	}
	for range 8 {
		require.NoError(t, <-errs)
	}
	require.NoError(t, toggle(t.Context(), clients[0], key.KeyId, true))
	out, err := clients[1].DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
	require.NotNil(t, out)
}

func toggle(ctx context.Context, c *Client, id *string, on bool) error {
	var err error
	if on {
		_, err = c.EnableKey(ctx, &kms.EnableKeyInput{KeyId: id})
	} else {
		_, err = c.DisableKey(ctx, &kms.DisableKeyInput{KeyId: id})
	}
	return err
}
