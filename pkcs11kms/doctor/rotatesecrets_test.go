package doctor

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
)

func rootOf(c *client) *iam.Client {
	return c.inside.Identities.Client().As(c.inside.Identities.Root(testAccount))
}

func accessKey(t *testing.T, c *client) iam.AccessKey {
	t.Helper()
	made, err := rootOf(c).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	return made
}

func rotateSecretsOf(t *testing.T, c *client, want uint32) {
	t.Helper()
	epoch, err := RotateServiceKey(t.Context(), c.Client, "access-keys", func(int) {})
	require.NoError(t, err)
	require.Equal(t, want, epoch)
}

// secretsEpoch is which service key makes the secret of an access key.
func secretsEpoch(t *testing.T, c *client, key iam.AccessKey) uint32 {
	t.Helper()
	rec, err := c.inside.Store.Get(t.Context(), keystore.AccessKeyRef(key.ID))
	require.NoError(t, err)
	record, err := keystore.DecodeAccessKey(rec)
	require.NoError(t, err)
	return record.Epoch
}

// Access keys that were made before and after a rotation are let in by every process, without a restart and after one.
func TestAccessKeysWorkThroughARotation(t *testing.T) {
	cfg := newConfig(t)
	cfg.SealRecords = true
	c, server := openClient(t, cfg), openClient(t, cfg)
	first := accessKey(t, c)
	keys := []iam.AccessKey{first}
	requireAccepted(t, server, first)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load errgroup.Group
	for _, one := range []*client{c, server} {
		load.Go(func() error {
			for ctx.Err() == nil {
				signing, _, err := one.bridge.SigningKey(t.Context(), first.ID, "20260102", testRegion, "kms")
				if err == nil && signing != sigv4.SigningKey(first.Secret, "20260102", testRegion, "kms") {
					err = errors.New("another secret")
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	made := make([][]iam.AccessKey, 2)
	for i, one := range []*client{c, server} {
		load.Go(func() error {
			for ctx.Err() == nil && len(made[i]) < 50 {
				key, err := rootOf(one).CreateAccessKey(t.Context(), iam.PrincipalName{})
				if err != nil {
					return err
				}
				made[i] = append(made[i], key)
			}
			return nil
		})
	}
	for epoch := range uint32(3) {
		rotateSecretsOf(t, c, epoch+2)
		keys = append(keys, accessKey(t, server))
		require.Equal(t, epoch+2, secretsEpoch(t, c, keys[epoch+1]), "at once, in another process")
	}
	stop()
	require.NoError(t, load.Wait())
	keys = slices.Concat(keys, made[0], made[1])
	for _, key := range keys {
		require.True(t, accepts(t, c, key))
		require.True(t, accepts(t, server, key))
	}
	require.NoError(t, c.bridge.Close())
	require.NoError(t, server.bridge.Close())
	after := openClient(t, cfg)
	for _, key := range keys {
		require.True(t, accepts(t, after, key), "after a restart")
	}
	listed := serviceKeysFor(t, after, "access-keys")
	require.Len(t, listed, 4)
	count := 0
	for i, key := range listed {
		require.Equal(t, i == 3, key.Present)
		count += *key.AccessKeys
	}
	require.Equal(t, len(keys), count)
	require.True(t, examine(t.Context(), cfg).OK())
}

// A service key goes when no access key has its secret from it, and not before.
func TestRetiringAServiceKeyOfAccessKeys(t *testing.T) {
	cfg := newConfig(t)
	c, server := openClient(t, cfg), openClient(t, cfg)
	old := accessKey(t, c)
	requireRefused(t, RetireServiceKey(t.Context(), c.Client, "access-keys", 1),
		"no service key for access-keys with the number 1 that was followed")
	rotateSecretsOf(t, c, 2)
	next := accessKey(t, c)
	requireAccepted(t, server, old)
	requireAccepted(t, server, next)
	err := RetireServiceKey(t.Context(), c.Client, "access-keys", 1)
	requireRefused(t, err, "makes the secrets of access keys that there are: "+old.ID)
	require.NotContains(t, err.Error(), next.ID)
	for _, epoch := range []uint32{0, 2, 3} {
		requireRefused(t, RetireServiceKey(t.Context(), c.Client, "access-keys", epoch), "that was followed by another one")
	}
	requireRefused(t, RetireServiceKey(t.Context(), c.Client, "audit", 1), "are kept")
	requireRefused(t, RetireServiceKey(t.Context(), c.Client, "everything", 1), "no service keys for")
	require.True(t, accepts(t, c, old))

	require.NoError(t, rootOf(c).DeleteAccessKey(t.Context(), iam.PrincipalName{}, old.ID))
	require.NoError(t, RetireServiceKey(t.Context(), c.Client, "access-keys", 1))
	there, err := c.token().Labelled(t.Context(), keyring.SecretsKey)
	require.NoError(t, err)
	require.False(t, there)
	for _, one := range []*client{c, server} {
		require.True(t, accepts(t, one, next))
		require.True(t, accepts(t, c, accessKey(t, one)))
		require.Empty(t, one.bridge.Health(t.Context()))
	}
	require.NoError(t, c.bridge.Close())
	again := openClient(t, cfg)
	require.True(t, accepts(t, again, next))
	require.True(t, examine(t.Context(), cfg).OK())
	rotateSecretsOf(t, again, 3)
	there, err = again.token().Labelled(t.Context(), keyring.SecretsKey)
	require.NoError(t, err)
	require.False(t, there, "the first is not made again")
}

// An access key is not made by a service key that is retired meanwhile.
func TestAnAccessKeyIsNotMadeByAKeyThatGoes(t *testing.T) {
	c, store, cfg := withFaults(t)
	other := openClient(t, cfg)
	require.NoError(t, rootOf(c).DeleteAccessKey(t.Context(), iam.PrincipalName{}, accessKey(t, c).ID))
	store.hook(func(changes []keystore.Change) error {
		if !slices.ContainsFunc(changes, func(c keystore.Change) bool { return c.Ref.Kind == keystore.KindAccessKey }) {
			return nil
		}
		store.hook(nil, nil)
		if _, err := RotateServiceKey(t.Context(), other.Client, "access-keys", func(int) {}); err != nil {
			return err
		}
		return RetireServiceKey(t.Context(), other.Client, "access-keys", 1)
	}, nil)
	made := accessKey(t, c)
	require.EqualValues(t, 2, secretsEpoch(t, c, made))
	require.True(t, accepts(t, other, made))
}

// An access key that is made while its service key is being retired keeps that.
func TestAKeyThatIsUsedMeanwhileIsNotRetired(t *testing.T) {
	c, store, cfg := withFaults(t)
	other := openClient(t, cfg)
	require.NoError(t, rootOf(c).DeleteAccessKey(t.Context(), iam.PrincipalName{}, accessKey(t, c).ID))
	rotateSecretsOf(t, c, 2)
	store.hook(func(changes []keystore.Change) error {
		if changes[0].Ref.ID != keyring.SecretsKey {
			return nil
		}
		store.hook(nil, nil)
		rec, err := other.inside.Store.Get(t.Context(), changes[0].Ref) // as somebody has it who has not seen the next key yet
		if err != nil {
			return err
		}
		_, err = other.inside.Store.Commit(t.Context(), keystore.AccessKey{ID: "AKIAAAAAAAAAAAAAAAAA", Account: testAccount, Owner: testAccount,
			Status: keystore.AccessKeyActive}.Put(0), keystore.Change{Op: keystore.Check, Ref: rec.Ref, Expect: rec.Version})
		return err
	}, nil)
	requireRefused(t, RetireServiceKey(t.Context(), c.Client, "access-keys", 1), "AKIAAAAAAAAAAAAAAAAA")
	there, err := c.token().Labelled(t.Context(), keyring.SecretsKey)
	require.NoError(t, err)
	require.True(t, there)
}

// One service key of several is of no use any more: it alone is made anew, and its access keys alone are void.
func TestRepairOfOneServiceKeyOfSeveral(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	old := accessKey(t, c)
	rotateSecretsOf(t, c, 2)
	next := accessKey(t, c)
	rotateSecretsOf(t, c, 3)
	name := keyring.EpochName(keyring.SecretsKey, 2)
	epochs, err := c.inside.Keys.Epochs(t.Context(), keyring.SecretsKey)
	require.NoError(t, err)
	require.NoError(t, c.token().DestroyKey(t.Context(), epochs[1].Record.CKAID, name))
	checks := examine(t.Context(), cfg).find("key", name)
	require.Len(t, checks, 1)
	require.Contains(t, checks[0].Text, "has no object in the token. No request can be authenticated")
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.Len(t, done, 2)
	require.Contains(t, done[0], "made the key "+name+" anew")
	require.Contains(t, done[1], next.ID)
	require.True(t, accepts(t, c, old))
	require.Eventually(t, func() bool { return !accepts(t, c, next) }, 30*time.Second, 10*time.Millisecond)

	rec, err := c.inside.Store.Get(t.Context(), keystore.KeyRef(testRegion, "", name))
	require.NoError(t, err)
	put(t, c, keystore.Change{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version})
	checks = examine(t.Context(), cfg).find("key", name)
	require.Len(t, checks, 1)
	require.Contains(t, checks[0].Text, "has no record, and there are 1 access keys")
	_, _, err = c.bridge.SigningKey(t.Context(), next.ID, "20270102", testRegion, "kms")
	require.ErrorContains(t, err, "KMSInternalException", "and is not made by the way")
}

// What is retired is told by records of its own.
func TestRetiringIsRecorded(t *testing.T) {
	cfg := newConfig(t)
	dir := filepath.Join(t.TempDir(), "audit")
	c, _ := auditing(t, cfg, dir, true)
	require.NoError(t, rootOf(c).DeleteAccessKey(t.Context(), iam.PrincipalName{}, accessKey(t, c).ID))
	rotateSecretsOf(t, c, 2)
	require.NoError(t, RetireServiceKey(t.Context(), c.Client, "access-keys", 1))
	require.NoError(t, c.bridge.Close())
	for name, want := range map[string]string{
		"RotateServiceKey": `"requestParameters":{"purpose":"access-keys"}`,
		"RetireServiceKey": `"requestParameters":{"purpose":"access-keys","epoch":1}`,
		"RemoveServiceKey": `"ckaId"`,
	} {
		lines, err := audit.Search(t.Context(), dir, audit.Query{EventName: name})
		require.NoError(t, err)
		require.Len(t, lines, 2, name)
		require.Contains(t, string(lines[0]), "Pkcs11KmsIntent")
		for _, line := range lines {
			require.Contains(t, string(line), want)
			require.False(t, strings.Contains(string(line), "errorCode"))
		}
	}
}

// Sessions of before a rotation go on in every process, and end when the service key that sealed their tokens is retired.
func TestSessionsWorkThroughARotation(t *testing.T) {
	cfg := newConfig(t)
	c, server := openClient(t, cfg), openClient(t, cfg)
	const trust = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}}`
	_, err := rootOf(c).CreatePrincipal(t.Context(), iam.PrincipalName{Type: keystore.PrincipalRole, Name: "Role"},
		iam.PrincipalOptions{TrustPolicy: trust})
	require.NoError(t, err)
	user, err := rootOf(c).CreatePrincipal(t.Context(), iam.PrincipalName{Type: keystore.PrincipalUser, Name: "User"}, iam.PrincipalOptions{})
	require.NoError(t, err)
	assume := func(one *client) iam.AssumedRole {
		caller, err := one.bridge.Caller(t.Context(), user.ARN)
		require.NoError(t, err)
		made, err := one.bridge.IAM().As(caller).AssumeRole(t.Context(), iam.AssumeRoleInput{SessionName: "job",
			RoleARN: "arn:aws:iam::" + testAccount + ":role/Role"})
		require.NoError(t, err)
		return made
	}
	opens := func(one *client, made iam.AssumedRole) error {
		signing, _, err := one.bridge.SessionKey(t.Context(), made.AccessKeyID, made.SessionToken, "20260102", testRegion, "kms")
		if err == nil && signing != sigv4.SigningKey(made.SecretAccessKey, "20260102", testRegion, "kms") {
			err = errors.New("another secret")
		}
		return err
	}
	first := assume(c)
	require.NoError(t, opens(server, first))
	rotateSecretsOf(t, c, 2)
	second := assume(server)
	require.NoError(t, server.bridge.Close())
	server = openClient(t, cfg)
	for _, one := range []*client{c, server} {
		require.NoError(t, opens(one, first))
		require.NoError(t, opens(one, second))
	}
	require.NoError(t, RetireServiceKey(t.Context(), c.Client, "access-keys", 1))
	require.ErrorIs(t, opens(c, first), iam.ErrUnknownAccessKey)
	require.Eventually(t, func() bool { return errors.Is(opens(server, first), iam.ErrUnknownAccessKey) }, 10*time.Second, 50*time.Millisecond)
	require.NoError(t, opens(c, second))
	require.NoError(t, opens(server, second))
}
