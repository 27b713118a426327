package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// loseStore takes a store away, as a disk that fails does.
func loseStore(t *testing.T, path string) {
	t.Helper()
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		if err := os.Remove(name); !errors.Is(err, os.ErrNotExist) {
			require.NoError(t, err)
		}
	}
}

// half is a key that is between two steps of its creation.
func half(t *testing.T, c *client) (record keystore.Key, finish func()) {
	record = keystore.Key{Region: testRegion, Account: testAccount, ID: unknownID, CKAID: []byte("sixteen bytes of"), Created: c.inside.Now()}
	record.Spec, record.Usage, record.Origin = "HMAC_256", "GENERATE_VERIFY_MAC", "AWS_KMS"
	record.State, record.Instance = keystore.Creating, c.inside.Store.Instance()
	done := c.inside.Keys.InProgress(record.Ref())
	counter, at, err := records.ReadCounter(t.Context(), c.inside.Store, testRegion, testAccount, keystore.CounterKeys)
	require.NoError(t, err)
	counter.N++
	version, err := c.inside.Cache.Commit(t.Context(), counter.Put(at), record.Put(0))
	require.NoError(t, err)
	_, err = c.token().GenerateHMACKey(t.Context(), token.SHA256, record.CKAID, record.ID)
	require.NoError(t, err)
	return record, func() {
		record.State, record.Instance = keystore.Enabled, ""
		put(t, c, record.Put(version))
		done()
	}
}

// The token goes on after the backup. What the restored store does not know of is listed, and never touched.
func TestRestoreAfterTheTokenWentOn(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	kept, deleted := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	cancelled := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/kept", kept.KeyId)
	schedule(t, c, cancelled.KeyId, 7)
	mac, err := generate(t.Context(), c, kept.KeyId, []byte("m"))
	require.NoError(t, err)
	unfinished, finish := half(t, c)
	backup := filepath.Join(t.TempDir(), "kms.bak")
	require.NoError(t, statedir.Backup(t.Context(), c.bridge, backup))

	finish()
	newer := mustCreate(t, c, types.KeySpecHmac256)
	newerRecord, _ := storedKey(t, c, newer.KeyId)
	deletedRecord, _ := storedKey(t, c, deleted.KeyId)
	require.NoError(t, c.token().DestroyKey(t.Context(), deletedRecord.CKAID, deletedRecord.ID))
	_, err = generate(t.Context(), c, &unfinished.ID, []byte("m"))
	require.NoError(t, err, "it is in use by now")
	require.NoError(t, c.bridge.Close())
	loseStore(t, cfg.StorePath)

	restored, err := sqlite.Restore(t.Context(), backup, cfg.StorePath, nil)
	require.NoError(t, err)
	require.Equal(t, []keystore.Ref{unfinished.Ref()}, restored.Dropped)
	require.Equal(t, []keystore.Ref{keystore.KeyRef(testRegion, testAccount, *cancelled.KeyId)}, restored.Postponed)
	again := openClient(t, cfg)
	for range 3 {
		finished, err := again.inside.Keys.Tidy(t.Context())
		require.NoError(t, err)
		require.Empty(t, finished)
	}
	repaired, err := Repair(t.Context(), again.Client)
	require.NoError(t, err)
	require.Empty(t, repaired, "the counters are right")
	_, err = again.VerifyMac(t.Context(), &kms.VerifyMacInput{KeyId: aws.String("alias/kept"), MacAlgorithm: "HMAC_SHA_256",
		Message: []byte("m"), Mac: mac})
	require.NoError(t, err)
	_, err = generate(t.Context(), again, deleted.KeyId, []byte("m"))
	requireAPIError(t, err, "KeyUnavailableException", *deleted.Arn+" is unavailable.")
	require.False(t, describe(t, again, cancelled.KeyId).DeletionDate.Before(time.Now().Add(6*24*time.Hour)))

	r := examine(t.Context(), cfg)
	require.Equal(t, StatusError, r.find("key", *deleted.KeyId)[0].Status)
	var unknown []string
	for _, o := range r.Regions[0].Unknown {
		unknown = append(unknown, o.CKAID)
	}
	require.ElementsMatch(t, []string{unfinished.CKAID.String(), newerRecord.CKAID.String()}, unknown)
	// What the operator decides to keep comes back under a new key id.
	m, _ := mustAdopt(t, again, AdoptOptions{ID: newerRecord.CKAID, KeySpec: types.KeySpecHmac256, DestroyWithKey: true})
	_, err = generate(t.Context(), again, m.KeyId, []byte("m"))
	require.NoError(t, err)
}
