package pkcs11kms

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sigv4"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

const testDate = "20260102"

func TestAccessKeyLife(t *testing.T) {
	cfg := newConfig(t)
	b := openClient(t, cfg).bridge
	other := openClient(t, cfg).bridge
	made, err := asRoot(b).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	require.Regexp(t, `^AKIA[A-Z2-7]{16}$`, made.ID)
	require.Len(t, made.Secret, 40)
	require.Equal(t, keystore.AccessKeyActive, made.Status)

	for _, process := range []*Bridge{b, other} { // the secret is made anew by whoever has the token
		key, caller, err := process.SigningKey(t.Context(), made.ID, testDate, testRegion, "kms")
		require.NoError(t, err)
		require.True(t, key == sigv4.SigningKey(made.Secret, testDate, testRegion, "kms"))
		require.Equal(t, b.Root(), caller)
		again, _, err := process.SigningKey(t.Context(), made.ID, testDate, testRegion, "kms")
		require.NoError(t, err)
		require.True(t, key == again)
	}
	list, err := asRoot(b).ListAccessKeys(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	require.Equal(t, []iam.AccessKey{{ID: made.ID, Status: keystore.AccessKeyActive, Created: made.Created,
		LastUsed: iam.AccessKeyLastUsed{ServiceName: "N/A", Region: "N/A"}}}, list)

	require.ErrorContains(t, asRoot(b).UpdateAccessKey(t.Context(), iam.PrincipalName{}, made.ID, keystore.AccessKeyDeleted),
		"enum value set: [Active, Inactive]")
	require.NoError(t, asRoot(b).UpdateAccessKey(t.Context(), iam.PrincipalName{}, made.ID, keystore.AccessKeyInactive))
	requireUnknown(t, b, made.ID)
	require.Eventually(t, func() bool {
		_, _, err := other.SigningKey(t.Context(), made.ID, testDate, testRegion, "kms")
		return err != nil
	}, 10*time.Second, 10*time.Millisecond)
	requireUnknown(t, other, made.ID)
	require.NoError(t, asRoot(b).UpdateAccessKey(t.Context(), iam.PrincipalName{}, made.ID, keystore.AccessKeyActive))
	_, _, err = b.SigningKey(t.Context(), made.ID, testDate, testRegion, "kms")
	require.NoError(t, err)

	require.NoError(t, asRoot(b).DeleteAccessKey(t.Context(), iam.PrincipalName{}, made.ID))
	requireUnknown(t, b, made.ID)
	list, err = asRoot(b).ListAccessKeys(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	require.Empty(t, list)
	gone := "The Access Key with id " + made.ID + " cannot be found."
	requireAPIError(t, asRoot(b).DeleteAccessKey(t.Context(), iam.PrincipalName{}, made.ID), "NoSuchEntity", gone)
	requireAPIError(t, asRoot(b).UpdateAccessKey(t.Context(), iam.PrincipalName{}, made.ID, keystore.AccessKeyActive), "NoSuchEntity", gone)
	rec, err := b.core.Store.Get(t.Context(), keystore.AccessKeyRef(made.ID))
	require.NoError(t, err, "the tombstone")
	record, err := keystore.DecodeAccessKey(rec)
	require.NoError(t, err)
	require.Equal(t, keystore.AccessKeyDeleted, record.Status)
}

func requireUnknown(t *testing.T, b *Bridge, id string) {
	t.Helper()
	_, _, err := b.SigningKey(t.Context(), id, testDate, testRegion, "kms")
	require.ErrorIs(t, err, iam.ErrUnknownAccessKey)
}

func TestSigningKeysDiffer(t *testing.T) {
	b := newClient(t).bridge
	first, err := asRoot(b).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	second, err := asRoot(b).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	require.NotEqual(t, first.Secret, second.Secret)
	seen := map[sigv4.Key]bool{}
	for _, id := range []string{first.ID, second.ID} {
		const kept = 16
		for i := range kept + 2 {
			for range 2 {
				key, _, err := b.SigningKey(t.Context(), id, testDate, "us-west-"+string(rune('a'+i)), "kms")
				require.NoError(t, err)
				seen[key] = true
			}
		}
	}
	require.Len(t, seen, 2*18)
}

// A signing key is of one day and one region (AWS Signature Version 4), also when others of its access key are kept in memory.
func TestSigningKeyOfADayAndARegion(t *testing.T) {
	b := newClient(t).bridge
	access, err := asRoot(b).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	for range 2 {
		for _, date := range []string{"20260101", "20260102", "20270101"} {
			for _, region := range []string{testRegion, "eu-central-1"} {
				key, _, err := b.SigningKey(t.Context(), access.ID, date, region, "kms")
				require.NoError(t, err)
				require.True(t, key == sigv4.SigningKey(access.Secret, date, region, "kms"), "%s %s", date, region)
			}
		}
	}
}

// At most 64 signing keys of an access key are kept, whatever the dates and regions that requests name. Which are kept shows
// when the token, which makes them, is busy.
func TestSigningKeysThatAreKeptAreBounded(t *testing.T) {
	cfg := newConfig(t)
	cfg.MaxSessions, cfg.CallTimeout = 1, 30*time.Second
	c := openClient(t, cfg)
	mac := mustCreate(t, c, types.KeySpecHmac256)
	access, err := asRoot(c.bridge).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	ask := func(ctx context.Context, n int) error {
		_, _, err := c.bridge.SigningKey(ctx, access.ID, testDate, fmt.Sprint("region-", n), "kms")
		return err
	}
	// while runs something when no session of the token is free.
	while := func(f func(short context.Context)) {
		s, err := c.NewMAC(t.Context(), *mac.KeyId, types.MacAlgorithmSpecHmacSha256)
		require.NoError(t, err)
		short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		f(short)
		require.NoError(t, s.Close())
		requireSessionsBack(t, c)
	}
	for n := range 64 {
		require.NoError(t, ask(t.Context(), n))
	}
	while(func(short context.Context) {
		for n := range 64 {
			require.NoError(t, ask(t.Context(), n), "the token is not asked")
		}
		require.ErrorIs(t, ask(short, 64), token.ErrBusy)
	})
	require.NoError(t, ask(t.Context(), 64))
	while(func(short context.Context) {
		require.NoError(t, ask(t.Context(), 64), "the newest is kept")
		require.ErrorIs(t, ask(short, 0), token.ErrBusy, "and an older one is not")
	})
}

// An id that is not known must not cost a call to the token: with no access key there is not even a service key.
func TestUnknownAccessKeysDoNotReachTheToken(t *testing.T) {
	c := newClient(t)
	requireUnknown(t, c.bridge, "AKIAAAAAAAAAAAAAAAAA")
	require.Empty(t, objectsOf(t, c.region.Token))
}

// Several processes that start at once agree on one service key, also over the body of one that died making it.
func TestFirstStartsMakeOneServiceKey(t *testing.T) {
	t.Run("over a dead one's", func(t *testing.T) { firstStarts(t, true) })
	t.Run("in a copy of a store", func(t *testing.T) { firstStarts(t, false) })
}

func firstStarts(t *testing.T, provable bool) {
	cfg := newConfig(t)
	bridges := make([]*Bridge, 4)
	for i := range bridges {
		bridges[i] = openClient(t, cfg).bridge
	}
	b := bridges[0]
	half := b.core.Keys.Region(testRegion).NewRecord("", keyring.SecretsKey)
	half.State = keystore.Creating
	if provable { // the object that it has made is destroyed
		_, err := b.core.Keys.Region(testRegion).Token.GenerateHMACKey(t.Context(), token.SHA256, half.CKAID, half.ID)
		require.NoError(t, err)
		dieOver(t, cfg.StorePath, half)
	} else {
		half.Instance = strings.Repeat("0", len(b.core.Store.Instance()))
		_, err := b.core.Store.Commit(t.Context(), half.Put(0))
		require.NoError(t, err)
	}

	keys := make([]iam.AccessKey, len(bridges))
	var wg sync.WaitGroup
	for i, b := range bridges {
		wg.Go(func() {
			var err error
			keys[i], err = asRoot(b).CreateAccessKey(t.Context(), iam.PrincipalName{})
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	objects := objectsOf(t, b.core.Keys.Region(testRegion).Token)
	require.Len(t, objects, 1)
	require.Equal(t, "pkcs11kms/service/access-keys", objects[0].Label)
	require.NotEqual(t, []byte(half.CKAID), objects[0].ID)
	for _, key := range keys {
		signing, _, err := b.SigningKey(t.Context(), key.ID, testDate, testRegion, "kms")
		require.NoError(t, err)
		require.True(t, signing == sigv4.SigningKey(key.Secret, testDate, testRegion, "kms"), "whoever made it")
	}
	requireNoDiscrepancies(t, b)
}

// Who needs the service key waits for the one that makes it, for as long as that takes within the call timeout.
func TestServiceKeyIsWaitedFor(t *testing.T) {
	c, store, cfg := withFaults(t)
	maker := reopen(t, cfg)
	half := c.region.NewRecord("", keyring.SecretsKey)
	half.State, half.Instance, half.Created = keystore.Creating, maker.Instance(), c.bridge.core.Now()
	half.Spec, half.Usage, half.Origin = "HMAC_256", "GENERATE_VERIFY_MAC", "AWS_KMS"
	version, err := maker.Commit(t.Context(), half.Put(0))
	require.NoError(t, err)
	var looks atomic.Int64
	wanted := half.Ref()
	store.onGet(func(ref keystore.Ref) error {
		if ref == wanted {
			looks.Add(1)
		}
		return nil
	})
	made := make(chan error, 1)
	go func() {
		_, err := asRoot(c.bridge).CreateAccessKey(context.Background(), iam.PrincipalName{})
		made <- err
	}()
	require.Eventually(t, func() bool { return looks.Load() > 12 }, 10*time.Second, time.Millisecond, "it looks again and again")
	_, err = c.region.Token.GenerateHMACKey(t.Context(), token.SHA256, half.CKAID, half.ID)
	require.NoError(t, err)
	half.State, half.Instance = keystore.Enabled, ""
	_, err = maker.Commit(t.Context(), half.Put(version))
	require.NoError(t, err)
	require.NoError(t, <-made)
}

// Many of one process who need the service key at once wait for the one that makes it.
func TestFirstAccessKeysOfOneProcess(t *testing.T) {
	c := newClient(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := asRoot(c.bridge).CreateAccessKey(t.Context(), iam.PrincipalName{})
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	rec, err := c.bridge.core.Store.Get(t.Context(), keystore.KeyRef(testRegion, "", keyring.SecretsKey))
	require.NoError(t, err)
	service, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	objects := objectsOf(t, c.region.Token)
	require.Len(t, objects, 1)
	require.Equal(t, []byte(service.CKAID), objects[0].ID)
}

// Service keys are no KMS keys.
func TestServiceKeysAreInvisible(t *testing.T) {
	c := newClient(t)
	_, err := asRoot(c.bridge).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	out, err := c.ListKeys(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, out.Keys)
	for id, code := range map[string]string{
		keyring.SecretsKey: "NotFoundException",
		"arn:aws:kms:us-west-2::key/" + keyring.SecretsKey:             "InvalidArnException",
		"arn:aws:kms:us-west-2:111122223333:key/" + keyring.SecretsKey: "NotFoundException",
	} {
		_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
		requireCode(t, err, code)
	}
	_, err = c.bridge.core.Store.Get(t.Context(), keystore.CounterRef(testRegion, "", keystore.CounterKeys))
	require.ErrorIs(t, err, keystore.ErrNotFound, "nor do they count as such")
}
