package pkcs11kms

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// adopted makes a key of an object that another application has made, as doctor.AdoptKey does.
func adopted(t *testing.T, c *Client, spec types.KeySpec, ckaID []byte, destroy bool) *types.KeyMetadata {
	t.Helper()
	record := keystore.Key{Region: testRegion, Account: testAccount, ID: uuid.NewString(), CKAID: ckaID, Adopted: keystore.AdoptedKeep}
	if destroy {
		record.Adopted = keystore.AdoptedDestroy
	}
	_, err := c.bridge.core.Keys.Adopt(t.Context(), keyring.MACSpecOf(spec), record, nil)
	require.NoError(t, err)
	return describe(t, c, &record.ID)
}

func keyCount(t *testing.T, c *Client) int {
	t.Helper()
	counter, _, err := records.ReadCounter(t.Context(), c.bridge.core.Store, testRegion, testAccount, keystore.CounterKeys)
	require.NoError(t, err)
	return counter.N
}

// destroyAllDue waits until no key is left. The janitor's own pass may be at it, too.
func destroyAllDue(t *testing.T, c *Client) {
	t.Helper()
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	require.Eventually(t, func() bool { return keyCount(t, c) == 0 }, 20*time.Second, time.Millisecond)
}

// At its date only the record of an adopted key goes, unless its object was given up as well.
func TestDeletionOfAdoptedKeys(t *testing.T) {
	for _, destroy := range []bool{false, true} {
		t.Run(fmt.Sprintf("destroy %v", destroy), func(t *testing.T) {
			cfg := newConfig(t)
			clk := newClock()
			cfg.Now = clk.Now
			c := openClient(t, cfg)
			id := []byte("theirs")
			_, err := c.region.Token.GenerateHMACKey(t.Context(), token.SHA512, id, "theirs")
			require.NoError(t, err)
			m := adopted(t, c, types.KeySpecHmac512, id, destroy)
			createAlias(t, c, "alias/theirs", m.KeyId)
			schedule(t, c, m.KeyId, 7)
			clk.Advance(7 * day)
			destroyAllDue(t, c)
			_, err = c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: m.KeyId})
			requireAPIError(t, err, "NotFoundException", "Key '"+*m.Arn+"' does not exist")
			_, err = c.region.Token.Describe(t.Context(), id)
			if destroy {
				require.ErrorIs(t, err, token.ErrKeyMissing)
				return
			}
			require.NoError(t, err)
			adopted(t, c, types.KeySpecHmac512, id, destroy)
		})
	}
}

// Whoever finishes the deletion of a key that was adopted to be kept leaves the object alone, too. Its label, which others can
// change, does not matter: not even the one that an object of ours would have.
func TestJanitorLeavesKeptObjectsAlone(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	record := keystore.Key{Region: testRegion, Account: testAccount, ID: unknownID, State: keystore.Deleting, Spec: "HMAC_256",
		Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: bytes.Repeat([]byte{9}, 16), Adopted: keystore.AdoptedKeep}
	_, err := c.region.Token.GenerateHMACKey(t.Context(), token.SHA256, record.CKAID, record.ID)
	require.NoError(t, err)
	dieOver(t, cfg.StorePath, record)
	other := openClient(t, cfg)
	require.Eventually(t, func() bool {
		_, err := other.bridge.core.Keys.Tidy(t.Context())
		require.NoError(t, err)
		_, err = c.bridge.core.Store.Get(t.Context(), record.Ref())
		return errors.Is(err, keystore.ErrNotFound)
	}, 20*time.Second, time.Millisecond)
	_, err = c.region.Token.Describe(t.Context(), record.CKAID)
	require.NoError(t, err)
}
