package doctor

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// auditing opens a client, as another process does, whose audit log is in a directory and is sealed all the time, unless it is short-lived.
func auditing(t *testing.T, cfg statedir.Config, dir string, short bool) (*client, *audit.Log) {
	log, err := audit.Open(dir, audit.Options{SealInterval: time.Millisecond, Fsync: audit.FsyncOff, Logger: cfg.Logger})
	require.NoError(t, err)
	cfg.Audit, cfg.CloseAudit, cfg.ShortLived = log, true, short
	return openClient(t, cfg), log
}

// serviceKeysFor are those of a purpose.
func serviceKeysFor(t *testing.T, c *client, purpose string) (keys []ServiceKey) {
	t.Helper()
	all, err := ServiceKeys(t.Context(), c.Client)
	require.NoError(t, err)
	for _, key := range all {
		if key.Purpose == purpose {
			keys = append(keys, key)
		}
	}
	return keys
}

func firstPublicKey(t *testing.T, c *client) audit.SealKeys {
	public, err := keyring.AuditPublicKeys(t.Context(), c.inside.Store, c.inside.Regions)
	require.NoError(t, err)
	keys, err := audit.ParseSealKeys([]byte(public[1]))
	require.NoError(t, err)
	return keys
}

// The key of the audit log is rotated while two processes use and seal the log: none fails, they seal by the new key at once, and whoever
// has the first public key verifies all of it.
func TestTheAuditKeyIsRotatedUnderLoad(t *testing.T) {
	cfg := newConfig(t)
	cfg.SealRecords = true
	dir := filepath.Join(t.TempDir(), "audit")
	var all []*client
	var logs []*audit.Log
	for range 2 {
		c, log := auditing(t, cfg, dir, false)
		all, logs = append(all, c), append(logs, log)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load errgroup.Group
	for _, c := range all {
		load.Go(func() error {
			for ctx.Err() == nil {
				if _, err := c.ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, log := range logs {
		require.Eventually(t, func() bool { return log.Stats().Seals > 1 }, time.Minute, time.Millisecond)
	}
	operator, _ := auditing(t, cfg, dir, true)
	for _, want := range []uint32{2, 3} {
		epoch, err := RotateServiceKey(t.Context(), operator.Client, "audit", func(int) {})
		require.NoError(t, err)
		require.Equal(t, want, epoch)
		for _, log := range logs {
			before := log.Stats().Seals
			require.Eventually(t, func() bool { return log.Stats().Seals > before+1 }, time.Minute, time.Millisecond)
			require.Zero(t, log.Stats().SealFailures)
		}
	}
	stop()
	require.NoError(t, load.Wait())
	keys := serviceKeysFor(t, operator, "audit")
	require.Len(t, keys, 3)
	require.Equal(t, []bool{false, false, true}, []bool{keys[0].Present, keys[1].Present, keys[2].Present})
	first := firstPublicKey(t, operator)
	require.NoError(t, operator.bridge.Close())
	for _, c := range all {
		require.NoError(t, c.bridge.Close())
	}
	v, err := audit.VerifyDir(dir, audit.Known{Check: first.Check, MustBeSealed: true})
	require.NoError(t, err)
	require.Empty(t, v.Problems)
	require.Empty(t, v.Unsealed)
	require.Greater(t, v.Seals, 6)
}

// A rotation whose command died when the key was made is finished by whoever seals next, or by the next command.
func TestARotationOfTheAuditKeyIsFinishedByOthers(t *testing.T) {
	for _, command := range []bool{true, false} {
		cfg := newConfig(t)
		dir := filepath.Join(t.TempDir(), "audit")
		c, _ := auditing(t, cfg, dir, false)
		_, err := c.ListKeys(t.Context(), &kms.ListKeysInput{})
		require.NoError(t, err)
		require.NoError(t, c.bridge.Close())
		dead, log := auditing(t, cfg, dir, true)
		first := firstPublicKey(t, dead)
		require.NoError(t, dead.inside.Keys.NextAuditKey(t.Context(), 2))
		if command {
			epoch, err := RotateServiceKey(t.Context(), dead.Client, "audit", func(int) {})
			require.NoError(t, err)
			require.EqualValues(t, 2, epoch)
		}
		require.Zero(t, log.Stats().SealFailures)
		require.NoError(t, dead.bridge.Close())
		c, _ = auditing(t, cfg, dir, false)
		_, err = c.ListKeys(t.Context(), &kms.ListKeysInput{})
		require.NoError(t, err)
		require.NoError(t, c.bridge.Close())
		v, err := audit.VerifyDir(dir, audit.Known{Check: first.Check, MustBeSealed: true})
		require.NoError(t, err)
		require.Empty(t, v.Problems)
		require.Empty(t, v.Unsealed)
		after, err := audit.Search(t.Context(), dir, audit.Query{EventName: "HandOverAuditSeals"})
		require.NoError(t, err)
		require.Len(t, after, 1)
	}
}

// What cannot be rotated is told, and nothing is made.
func TestWhatCannotBeRotated(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	_, err := RotateServiceKey(t.Context(), c.Client, "audit", func(int) {})
	require.ErrorContains(t, err, "the audit log is not sealed")
	_, err = RotateServiceKey(t.Context(), c.Client, "everything", func(int) {})
	var refused *pkcs11kms.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Hint(), "audit")
	operator, _ := auditing(t, cfg, filepath.Join(t.TempDir(), "audit"), true)
	_, err = RotateServiceKey(t.Context(), operator.Client, "audit", func(int) {})
	require.ErrorContains(t, err, "there is no service key for audit yet")
	keys, err := ServiceKeys(t.Context(), operator.Client)
	require.NoError(t, err)
	require.Empty(t, keys)
}
