package statedir

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/doctor"
	"github.com/pkcs11kms/bridge/test/contention"
)

// loseStore takes the store of a directory away, as a disk that fails does.
func loseStore(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"kms.db", "kms.db-wal", "kms.db-shm"} {
		if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			require.NoError(t, err)
		}
	}
}

// openBridge opens a Bridge that is closed at the end of the test, if not before, and the client of its account's root.
func openBridge(t *testing.T, cfg Config) (*pkcs11kms.Bridge, *pkcs11kms.Client) {
	t.Helper()
	b, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) }) // closing twice does nothing
	c, err := b.Client("")
	require.NoError(t, err)
	return b, c.As(b.Root())
}

// Keys are made, renamed, tagged and scheduled meanwhile. Every key that was acknowledged before a backup began is in it,
// and it is a sound store of one moment.
func TestBackupWhileServing(t *testing.T) {
	dir, _ := initDir(t)
	cfg := load(t, dir)
	cfg.Quotas.NoRates = true
	bridge, c := openBridge(t, cfg)
	another, other := openBridge(t, cfg)
	var mu sync.Mutex // guards acknowledged
	var acknowledged []string
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	for _, client := range []*pkcs11kms.Client{c, other, c, other} {
		load.Go(func() {
			for ctx.Err() == nil {
				id, err := createNamed(t.Context(), client)
				if err != nil {
					t.Errorf("making keys: %v", err)
					return
				}
				mu.Lock()
				acknowledged = append(acknowledged, id)
				mu.Unlock()
			}
		})
	}
	var fought []string
	for range 5 {
		fought = append(fought, *mustCreate(t, c, types.KeySpecHmac256).KeyId)
	}
	for i, client := range []*pkcs11kms.Client{c, other} {
		user := contention.NewUser(client, fought, i, 2, 1)
		load.Go(func() { assert.NoError(t, user.Work(ctx, math.MaxInt)) })
	}
	seen := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string(nil), acknowledged...)
	}
	require.Eventually(t, func() bool { return len(seen()) >= 12 }, 30*time.Second, time.Millisecond)
	before, backup := seen(), filepath.Join(t.TempDir(), "kms.bak")
	require.NoError(t, Backup(t.Context(), bridge, backup))
	stop()
	load.Wait()
	require.NoError(t, errors.Join(bridge.Close(), another.Close()))
	loseStore(t, dir)

	_, err := Restore(t.Context(), dir, backup)
	require.NoError(t, err)
	restored, again := openBridge(t, cfg)
	for _, id := range before {
		_, err := again.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: aws.String("alias/of-" + id), MacAlgorithm: "HMAC_SHA_256",
			Message: []byte("m")})
		require.NoError(t, err)
	}
	require.NoError(t, contention.Judge(t.Context(), restored.Core().Store, cfg.DefaultRegion, cfg.AccountID, fought))
	for _, id := range fought {
		_, err := again.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
		require.NoError(t, err, "it was there before the backup")
	}
	r := doctor.Examine(t.Context(), cfg.Config, cfg.StorePath, cfg.OpenStore)
	for _, check := range r.Checks {
		require.Equal(t, doctor.StatusOK, check.Status, "%+v", check)
	}
	require.GreaterOrEqual(t, len(r.Regions[0].Keys), len(before)+len(fought))
}

// createNamed makes a key with an alias.
func createNamed(ctx context.Context, c *pkcs11kms.Client) (id string, err error) {
	made, err := c.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
	if err != nil {
		return "", err
	}
	id = *made.KeyMetadata.KeyId
	_, err = c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/of-" + id), TargetKeyId: &id})
	return id, err
}

func TestBackupNeedsAStoreThatCan(t *testing.T) {
	dir, _ := initDir(t)
	cfg := load(t, dir)
	store, err := cfg.OpenStore(t.Context())
	require.NoError(t, err)
	given := cfg.Config
	given.Store, given.CloseStore = struct{ keystore.Store }{store}, true
	b, err := pkcs11kms.Open(t.Context(), given)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "kms.bak")
	err = Backup(t.Context(), b, path)
	require.ErrorContains(t, err, "does not write backups")
	require.ErrorAs(t, err, new(*pkcs11kms.RefusedError))
	require.NoFileExists(t, path)
	require.NoError(t, b.Close())
}
