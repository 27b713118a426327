package statedir

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// backUp writes a backup of a state directory.
func backUp(t *testing.T, cfg Config) (path string) {
	t.Helper()
	b, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	path = filepath.Join(t.TempDir(), "kms.bak")
	require.NoError(t, errors.Join(Backup(t.Context(), b, path), b.Close()))
	return path
}

// TestRestoreTellsWhatItChanged: half-made keys are left out, and deletions put off. The rest is as it was.
func TestRestoreTellsWhatItChanged(t *testing.T) {
	dir, _ := initDir(t)
	cfg := load(t, dir)
	bridge, c := openBridge(t, cfg)
	kept, cancelled := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	_, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: cancelled.KeyId, PendingWindowInDays: aws.Int32(7)})
	require.NoError(t, err)
	store := bridge.Core().Store
	const halfMade = "1234abcd-12ab-34cd-56ef-1234567890ab"
	half := keystore.Key{Region: testRegion, Account: testAccount, ID: halfMade, State: keystore.Creating, Instance: store.Instance(),
		Spec: "HMAC_256", Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS", CKAID: []byte("sixteen bytes of")}
	_, err = store.Commit(t.Context(), half.Put(0))
	require.NoError(t, err)
	path := backUp(t, cfg)
	require.NoError(t, bridge.Close())
	loseStore(t, dir)

	done, err := Restore(t.Context(), dir, path)
	require.NoError(t, err)
	require.Equal(t, []string{
		"left the key " + halfMade + " out, which was half made or half deleted; its object, if there is one, is unknown now",
		"put the deletion of the key " + *cancelled.KeyId + " off by 7 days: it may have been cancelled since the backup",
		"every record of the backup is as it was written; all are sealed anew, in the epoch 2: none of before can be put in their place",
	}, done)
	_, err = openClient(t, load(t, dir)).GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: kept.KeyId, MacAlgorithm: "HMAC_SHA_256",
		Message: []byte("m")})
	require.NoError(t, err)
}

// A backup that somebody has edited is put in place, and used by nobody until somebody has looked.
func TestRestoreOfAnEditedBackup(t *testing.T) {
	dir, _ := initDir(t)
	cfg := load(t, dir)
	bridge, c := openBridge(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	path := backUp(t, cfg)
	require.NoError(t, bridge.Close())
	store, err := cfg.OpenStore(t.Context())
	require.NoError(t, err)
	rec, err := store.Get(t.Context(), keystore.KeyRef(testRegion, testAccount, *key.KeyId))
	require.NoError(t, err)
	rec.Value = bytes.Replace(rec.Value, []byte(`"Enabled"`), []byte(`"Disabled"`), 1)
	unsealed := rec
	unsealed.Seal = nil
	index, err := keystore.EntriesOf(unsealed)
	require.NoError(t, err)
	_, err = store.Commit(t.Context(), keystore.Change{Op: keystore.Put, Ref: rec.Ref, Expect: rec.Version, Value: rec.Value, Seal: rec.Seal,
		Index: index})
	require.NoError(t, err)
	edited := filepath.Join(t.TempDir(), "edited")
	require.NoError(t, errors.Join(store.(keystore.Backuper).Backup(t.Context(), edited), store.Close()))
	loseStore(t, dir)
	done, err := Restore(t.Context(), dir, edited)
	require.NoError(t, err)
	require.Contains(t, done[0], "1 records of the backup are not as they were written, such as this: the record key/"+testRegion)
	require.Contains(t, done[0], "pkcs11kms doctor --reseal")
	_, err = New(t.Context(), load(t, dir))
	require.ErrorContains(t, err, "was begun and not finished")

	loseStore(t, dir)
	done, err = Restore(t.Context(), dir, path)
	require.NoError(t, err)
	require.Contains(t, done[0], "every record of the backup is as it was written")
	_, err = openClient(t, load(t, dir)).DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)
}

func TestRestoreRefusals(t *testing.T) {
	dir, _ := initDir(t)
	cfg := load(t, dir)
	c := openClient(t, cfg)
	mustCreate(t, c, types.KeySpecHmac256)
	backup := backUp(t, cfg)
	refused := func(dir, backup, text string) {
		t.Helper()
		_, err := Restore(t.Context(), dir, backup)
		require.ErrorContains(t, err, text)
		var hinted interface{ Hint() string }
		require.ErrorAs(t, err, &hinted)
		require.NotEmpty(t, hinted.Hint())
	}
	refused(dir, backup, "file exists already")
	require.NoError(t, c.Close())
	refused(dir, backup, "file exists already")
	require.NoError(t, os.Rename(filepath.Join(dir, "kms.db"), filepath.Join(dir, "old.db")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kms.db-wal"), nil, 0o600))
	refused(dir, backup, "in the way")
	require.NoError(t, os.Remove(filepath.Join(dir, "kms.db-wal")))

	harmed := filepath.Join(t.TempDir(), "harmed.bak")
	whole, err := os.ReadFile(backup)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(harmed, whole[:len(whole)-4096], 0o600))
	refused(dir, harmed, "file is damaged")
	require.NoFileExists(t, filepath.Join(dir, "kms.db"))
	refused(filepath.Join(dir, "none"), backup, "does not exist")
	bare := filepath.Join(t.TempDir(), "bare")
	require.NoError(t, os.Mkdir(bare, 0o700))
	refused(bare, backup, "has no config.yaml")
	require.NoError(t, os.Chmod(dir, 0o755))
	refused(dir, backup, "is open to other users")
}
