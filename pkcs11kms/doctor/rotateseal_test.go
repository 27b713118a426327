package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

func rotateSealsOf(t *testing.T, c *client, want uint32) {
	t.Helper()
	epoch, err := RotateServiceKey(t.Context(), c.Client, "seal", func(int) {})
	require.NoError(t, err)
	require.Equal(t, want, epoch)
}

// requireEpoch holds that every record of a store has a seal of an epoch, and that none of before counts.
func requireEpoch(t *testing.T, c *client, want uint32) {
	t.Helper()
	require.NoError(t, sealed.Each(t.Context(), c.inside.Store.Below(), func(recs []keystore.Record) error {
		for _, rec := range recs {
			require.Equal(t, want, binary.BigEndian.Uint32(rec.Seal[1:]), rec.Ref)
		}
		return nil
	}))
	rec, err := c.inside.Store.Below().Get(t.Context(), keystore.SealsRef())
	require.NoError(t, err)
	rec.Seal = nil
	root, err := keystore.DecodeSeals(rec)
	require.NoError(t, err)
	require.Equal(t, want, root.Epoch)
	require.Nil(t, root.Previous)
}

func newSealedConfig(t *testing.T) statedir.Config {
	cfg := newConfig(t)
	cfg.SealRecords = true
	return cfg
}

// busyWith makes, uses and changes things until it is told to stop, as the callers of a server do.
func busyWith(ctx context.Context, t *testing.T, c *client, name string) error {
	people := rootOf(c)
	user := iam.PrincipalName{Type: keystore.PrincipalUser, Name: name}
	if _, err := people.CreatePrincipal(t.Context(), user, iam.PrincipalOptions{}); err != nil {
		return err
	}
	for i := 0; ctx.Err() == nil; i++ {
		made, err := c.CreateKey(t.Context(), hmac256)
		var away *types.DependencyTimeoutException
		if errors.As(err, &away) {
			continue // SoftHSM has failed, and the token was not back in time: that is no matter of seals
		}
		if err != nil {
			return fmt.Errorf("CreateKey: %w", err)
		}
		id := made.KeyMetadata.KeyId
		alias := fmt.Sprintf("alias/%s%d", name, i)
		if _, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: id}); err != nil {
			return fmt.Errorf("CreateAlias: %w", err)
		}
		if _, err := generate(t.Context(), c, &alias, []byte("message")); err != nil {
			return fmt.Errorf("GenerateMac: %w", err)
		}
		key, err := people.CreateAccessKey(t.Context(), user)
		if err != nil {
			return fmt.Errorf("CreateAccessKey: %w", err)
		}
		if _, _, err := c.bridge.SigningKey(t.Context(), key.ID, "20260102", testRegion, "kms"); err != nil {
			return fmt.Errorf("SigningKey: %w", err)
		}
		if err := people.DeleteAccessKey(t.Context(), user, key.ID); err != nil {
			return fmt.Errorf("DeleteAccessKey: %w", err)
		}
		if _, err := c.ListAliases(t.Context(), &kms.ListAliasesInput{}); err != nil {
			return fmt.Errorf("ListAliases: %w", err)
		}
	}
	return nil
}

// All records are sealed anew while two processes work, and no call of theirs fails over it. Afterwards every record is of the new epoch,
// by a key of its own; a process that was away opens the store as before.
func TestTheSealKeyIsRotatedUnderLoad(t *testing.T) {
	cfg := newSealedConfig(t)
	operator := openClient(t, cfg)
	for range 40 {
		mustCreate(t, operator, types.KeySpecHmac256)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load errgroup.Group
	for i := range 2 {
		c := openClient(t, cfg)
		load.Go(func() error { return busyWith(ctx, t, c, fmt.Sprint("user", i)) })
	}
	for epoch := uint32(2); epoch < 6; epoch++ {
		rotateSealsOf(t, operator, epoch)
		late := openClient(t, cfg)
		mustCreate(t, late, types.KeySpecHmac256)
		require.NoError(t, late.bridge.Close())
	}
	stop()
	require.NoError(t, load.Wait())
	requireEpoch(t, operator, 5)
	requireNoDiscrepancies(t, operator)
	after := openClient(t, cfg)
	mustCreate(t, after, types.KeySpecHmac256)
	keys, err := ServiceKeys(t.Context(), after.Client)
	require.NoError(t, err)
	var present []uint32
	for _, key := range keys {
		if key.Purpose == "seal" && key.Present {
			present = append(present, key.Epoch)
		}
	}
	require.Equal(t, []uint32{5}, present)
	report := examine(t.Context(), cfg)
	require.True(t, report.OK(), "%+v", report.Checks)
}

// A rotation that has died on its way is gone on with; until then everybody works, and doctor tells of it.
func TestARotationOfTheSealsIsGoneOnWith(t *testing.T) {
	cfg := newSealedConfig(t)
	c := openClient(t, cfg)
	keyID := mustCreate(t, c, types.KeySpecHmac256).KeyId
	ctx, cancel := context.WithCancel(t.Context())
	_, _ = c.inside.Keys.RotateSeals(ctx, func(int) { cancel() })
	if root, _ := c.inside.Store.Root(); root.Previous != nil {
		rotateSealsOf(t, c, 2)
	}
	requireEpoch(t, c, 2)
	next := begunRotation(t, c)
	for _, one := range []*client{c, openClient(t, cfg)} {
		_, err := generate(t.Context(), one, keyID, []byte("message"))
		require.NoError(t, err)
		mustCreate(t, one, types.KeySpecHmac256)
	}
	report := examine(t.Context(), cfg)
	require.True(t, report.OK(), "%+v", report.Checks)
	told := false
	for _, check := range report.Checks {
		told = told || check.Status == StatusWarning && check.Hint == "if nobody is at it, go on with it: pkcs11kms service-key rotate seal"
	}
	require.True(t, told)
	requireRefused(t, RetireServiceKey(t.Context(), c.Client, "seal", 2), "records of the store are sealed by")
	rotateSealsOf(t, openClient(t, cfg), next)
	requireEpoch(t, c, next)
	require.True(t, examine(t.Context(), cfg).OK())
}

// begunRotation begins the next epoch, and seals nothing by it.
func begunRotation(t *testing.T, c *client) (epoch uint32) {
	t.Helper()
	stop := errors.New("the process dies")
	defer func() { require.Equal(t, stop, recover()) }()
	root, _ := c.inside.Store.Root()
	epoch = root.Epoch + 1
	_, err := c.inside.Keys.RotateSeals(t.Context(), func(int) { panic(stop) })
	require.NoError(t, err, "it was to die")
	return epoch
}

// An edited record is not sealed anew: it is named, and refused as before.
func TestAnEditedRecordStopsTheRotationOfTheSeals(t *testing.T) {
	cfg := newSealedConfig(t)
	c := openClient(t, cfg)
	keyID := *mustCreate(t, c, types.KeySpecHmac256).KeyId
	createAlias(t, c, "alias/tokens", &keyID)
	other := *mustCreate(t, c, types.KeySpecHmac256).KeyId
	edit(t, cfg, keystore.Alias{Region: testRegion, Account: testAccount, Name: "alias/tokens"}.Put(0).Ref, replacing(keyID, other))
	_, err := RotateServiceKey(t.Context(), c.Client, "seal", func(int) {})
	requireRefused(t, err, "alias/tokens has a seal that does not belong to it")
	_, err = generate(t.Context(), c, &keyID, []byte("message"))
	require.NoError(t, err)
	requireNamed(t, cfg, "alias/tokens")
	require.NoError(t, c.bridge.Close())
	sealStore(t, cfg, true)
	again := openClient(t, cfg)
	requireEpoch(t, again, 3)
	rotateSealsOf(t, again, 4)
}

// The old key of the seals stays for backups of before, until it is retired: then nothing that it has sealed counts.
func TestRetiringAKeyOfTheSeals(t *testing.T) {
	cfg := newSealedConfig(t)
	c := openClient(t, cfg)
	keyID := mustCreate(t, c, types.KeySpecHmac256).KeyId
	backup := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, statedir.Backup(t.Context(), c.bridge, backup))
	requireRefused(t, RetireServiceKey(t.Context(), c.Client, "seal", 1), "that was followed by another one")
	rotateSealsOf(t, c, 2)
	faults, err := keyring.SealFaults(t.Context(), withDefaults(t, cfg).Keyring(), openedStore(t, backup))
	require.NoError(t, err)
	require.NotNil(t, faults, "the backup can be told from an edited one")
	requireRefused(t, RetireServiceKey(t.Context(), c.Client, "seal", 2), "that was followed by another one")
	require.NoError(t, RetireServiceKey(t.Context(), c.Client, "seal", 1))
	there, err := c.token().Labelled(t.Context(), keyring.SealKey)
	require.NoError(t, err)
	require.False(t, there)
	_, err = keyring.SealFaults(t.Context(), withDefaults(t, cfg).Keyring(), openedStore(t, backup))
	require.ErrorContains(t, err, "has no object of the service key of the store's seals")
	_, err = generate(t.Context(), c, keyID, []byte("message"))
	require.NoError(t, err)
	require.NoError(t, c.bridge.Close())
	require.NoError(t, useKey(t, cfg, *keyID))
	require.True(t, examine(t.Context(), cfg).OK())

	// A store whose seals were taken away is refused by the key that is left.
	inStore(t, cfg, func(store keystore.Store) {
		require.NoError(t, sealed.Each(t.Context(), store, func(recs []keystore.Record) error {
			for _, rec := range recs {
				change := keystore.Change{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version}
				if rec.Ref != keystore.SealsRef() {
					rec.Seal = nil
					index, err := keystore.EntriesOf(rec)
					require.NoError(t, err)
					change = keystore.Change{Op: keystore.Put, Ref: rec.Ref, Expect: rec.Version, Value: rec.Value, Index: index}
				}
				if _, err := store.Commit(t.Context(), change); err != nil {
					return err
				}
			}
			return nil
		}))
	})
	var refused *keyring.SealError
	require.ErrorAs(t, useKey(t, cfg, *keyID), &refused)
	require.ErrorContains(t, refused, "has a key for the seals of records, and the records of this store have none")
	sealStore(t, cfg, false)
	require.NoError(t, useKey(t, cfg, *keyID))
}

func withDefaults(t *testing.T, cfg statedir.Config) pkcs11kms.Config {
	with, err := cfg.WithDefaults()
	require.NoError(t, err)
	return with
}

// A key of somebody's own, or of a later epoch, is no key of the epoch before.
func TestTheEpochBeforeByAnotherKey(t *testing.T) {
	cfg := newSealedConfig(t)
	c := openClient(t, cfg)
	keyID := *mustCreate(t, c, types.KeySpecHmac256).KeyId
	rotateSealsOf(t, c, 2)
	rotateSealsOf(t, c, 3)
	root, _ := c.inside.Store.Root()
	own, _ := storedKey(t, c, &keyID)
	epochs, err := c.inside.Keys.Epochs(t.Context(), keyring.SealKey)
	require.NoError(t, err)
	for _, id := range []keystore.HexBytes{own.CKAID, epochs[2].Record.CKAID} {
		root.Previous = &keystore.SealKeyRef{Epoch: 2, Region: testRegion, CKAID: id, Spec: root.Spec}
		_, err = keyring.SealKeysIn(t.Context(), c.token(), root)
		require.ErrorContains(t, err, "is not the service key for them")
	}
	root.Previous = &keystore.SealKeyRef{Epoch: 2, Region: testRegion, CKAID: epochs[1].Record.CKAID, Spec: root.Spec}
	_, err = keyring.SealKeysIn(t.Context(), c.token(), root)
	require.NoError(t, err)
}

// A store without seals, and what is told of a rotation.
func TestRotationsOfSealsAreRecorded(t *testing.T) {
	unsealed := openClient(t, newConfig(t))
	_, err := RotateServiceKey(t.Context(), unsealed.Client, "seal", func(int) {})
	requireRefused(t, err, "the records of the store have no seals")
	cfg := newSealedConfig(t)
	dir := filepath.Join(t.TempDir(), "audit")
	c, _ := auditing(t, cfg, dir, true)
	mustCreate(t, c, types.KeySpecHmac256)
	rotateSealsOf(t, c, 2)
	found, err := audit.CompareStore(dir, nil, func() (audit.StoredRecords, error) { return c.inside.Store.Stored(t.Context()) })
	require.NoError(t, err)
	require.Empty(t, found.Problems, "the log knows the records by their revisions, which have stayed")
	require.NotZero(t, found.Compared)
	lines, err := audit.Search(t.Context(), dir, audit.Query{EventName: "RotateServiceKey"})
	require.NoError(t, err)
	require.Len(t, lines, 2)
	require.Contains(t, string(lines[1]), `"requestParameters":{"purpose":"seal"}`)
}

// A backup that was made while records were sealed anew is known for what it is, and restored like others.
func TestABackupOfWhileRecordsAreSealedAnew(t *testing.T) {
	cfg := newSealedConfig(t)
	c := openClient(t, cfg)
	keyID := mustCreate(t, c, types.KeySpecHmac256).KeyId
	begunRotation(t, c)
	mustCreate(t, c, types.KeySpecHmac256)
	backup := filepath.Join(t.TempDir(), "backup")
	require.NoError(t, statedir.Backup(t.Context(), c.bridge, backup))
	rotateSealsOf(t, c, 2)
	require.NoError(t, c.bridge.Close())
	store := openedStore(t, backup)
	faultOf, err := keyring.SealFaults(t.Context(), withDefaults(t, cfg).Keyring(), store)
	require.NoError(t, err)
	require.NoError(t, sealed.Each(t.Context(), store, func(recs []keystore.Record) error {
		for _, rec := range recs {
			require.NoError(t, faultOf(rec))
		}
		return nil
	}))
	cfg.StorePath = backup
	require.NoError(t, useKey(t, cfg, *keyID))
	again := openClient(t, cfg)
	rotateSealsOf(t, again, 2)
	requireEpoch(t, again, 2)
}
