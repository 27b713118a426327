package pkcs11kms

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
	"github.com/pkcs11kms/bridge/test/contention"
)

// openAgain opens a client that the test may close earlier than at its end.
func openAgain(t *testing.T, cfg testConfig) *Client {
	t.Helper()
	c, err := newAt(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) }) // closing twice does nothing
	return c
}

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
func half(t *testing.T, c *Client) (record keystore.Key, finish func()) {
	record = newKeyRecord(c.region, testAccount, unknownID)
	record.Spec, record.Usage, record.Origin = "HMAC_256", "GENERATE_VERIFY_MAC", "AWS_KMS"
	record.State, record.Instance = keystore.Creating, c.bridge.store.Instance()
	done := c.bridge.inProgress.add(record.Ref())
	version, err := c.bridge.commitCounted(t.Context(), record, 1, record.Put(0))
	require.NoError(t, err)
	_, err = c.region.token.GenerateHMACKey(t.Context(), token.SHA256, record.CKAID, record.ID)
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
	c := openAgain(t, cfg)
	kept, deleted := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	cancelled := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/kept", kept.KeyId)
	schedule(t, c, cancelled.KeyId, 7)
	mac, err := generate(t.Context(), c, kept.KeyId, []byte("m"))
	require.NoError(t, err)
	unfinished, finish := half(t, c)
	backup := filepath.Join(t.TempDir(), "kms.bak")
	require.NoError(t, c.bridge.Backup(t.Context(), backup))

	finish()
	newer := mustCreate(t, c, types.KeySpecHmac256)
	newerRecord, _ := storedKey(t, c, newer.KeyId)
	deletedRecord, _ := storedKey(t, c, deleted.KeyId)
	require.NoError(t, c.region.token.DestroyKey(t.Context(), deletedRecord.CKAID, deletedRecord.ID))
	_, err = generate(t.Context(), c, ptr(unfinished.ID), []byte("m"))
	require.NoError(t, err, "it is in use by now")
	require.NoError(t, c.Close())
	loseStore(t, cfg.StorePath)

	restored, err := sqlite.Restore(t.Context(), backup, cfg.StorePath)
	require.NoError(t, err)
	require.Equal(t, []keystore.Ref{unfinished.Ref()}, restored.Dropped)
	require.Equal(t, []keystore.Ref{keystore.KeyRef(testRegion, testAccount, *cancelled.KeyId)}, restored.Postponed)
	again := openAgain(t, cfg)
	for range 3 {
		finished, err := again.bridge.tidyOnce(t.Context())
		require.NoError(t, err)
		require.Empty(t, finished)
	}
	repaired, err := again.bridge.Repair(t.Context())
	require.NoError(t, err)
	require.Empty(t, repaired, "the counters are right")
	require.NoError(t, verify(t.Context(), again, ptr("alias/kept"), []byte("m"), mac))
	_, err = generate(t.Context(), again, deleted.KeyId, []byte("m"))
	requireAPIError(t, err, "KeyUnavailableException", *deleted.Arn+" is unavailable.")
	require.False(t, describe(t, again, cancelled.KeyId).DeletionDate.Before(time.Now().Add(6*day)))

	r := examine(t.Context(), cfg)
	require.Equal(t, StatusError, r.find("key", *deleted.KeyId)[0].Status)
	var unknown []string
	for _, o := range r.Regions[0].Unknown {
		unknown = append(unknown, o.CKAID)
	}
	require.ElementsMatch(t, []string{unfinished.CKAID.String(), newerRecord.CKAID.String()}, unknown)
	// What the operator decides to keep comes back under a new key id.
	m, _ := adopt(t, again, AdoptOptions{ID: newerRecord.CKAID, KeySpec: types.KeySpecHmac256, DestroyWithKey: true})
	_, err = generate(t.Context(), again, m.KeyId, []byte("m"))
	require.NoError(t, err)
}

// Keys are made, renamed, tagged and scheduled meanwhile. Every key that was acknowledged before a backup began is in it,
// and it is a sound store of one moment.
func TestBackupWhileServing(t *testing.T) {
	cfg := newConfig(t)
	c := openAgain(t, cfg)
	other, err := newAt(t.Context(), cfg)
	require.NoError(t, err)
	var mu sync.Mutex // guards acknowledged
	var acknowledged []string
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	for _, client := range []*Client{c, other, c, other} {
		load.Go(func() {
			for ctx.Err() == nil {
				key, err := createHMAC256(t.Context(), client)
				if err == nil {
					_, err = client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: ptr("alias/of-" + *key.KeyId), TargetKeyId: key.KeyId})
				}
				if err != nil {
					t.Errorf("making keys: %v", err)
					return
				}
				mu.Lock()
				acknowledged = append(acknowledged, *key.KeyId)
				mu.Unlock()
			}
		})
	}
	fought, users := contenders(t, []*Client{c, other}, 5)
	for _, u := range users {
		load.Go(func() { assert.NoError(t, u.Work(ctx, math.MaxInt)) })
	}
	seen := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), acknowledged...)
	}
	require.Eventually(t, func() bool { return len(seen()) >= 12 }, 30*time.Second, time.Millisecond)
	before, backup := seen(), filepath.Join(t.TempDir(), "kms.bak")
	require.NoError(t, c.bridge.Backup(t.Context(), backup))
	stop()
	load.Wait()
	require.NoError(t, errors.Join(c.Close(), other.Close()))
	loseStore(t, cfg.StorePath)

	_, err = sqlite.Restore(t.Context(), backup, cfg.StorePath)
	require.NoError(t, err)
	again := openAgain(t, cfg)
	for _, id := range before {
		_, err := generate(t.Context(), again, ptr("alias/of-"+id), []byte("m"))
		require.NoError(t, err)
	}
	require.NoError(t, contention.Judge(t.Context(), again.bridge.store, cfg.DefaultRegion, cfg.AccountID, fought))
	for _, id := range fought {
		require.NotNil(t, describe(t, again, &id), "it was there before the backup")
	}
	r := examine(t.Context(), cfg)
	for _, check := range r.Checks {
		require.Equal(t, StatusOK, check.Status, "%+v", check)
	}
	require.GreaterOrEqual(t, len(r.Regions[0].Keys), len(before)+len(fought))
}

func TestBackupNeedsAStoreThatCan(t *testing.T) {
	c, _, _ := withFaults(t)
	path := filepath.Join(t.TempDir(), "kms.bak")
	requireRefused(t, c.bridge.Backup(t.Context(), path), "does not write backups")
	require.NoFileExists(t, path)
}
