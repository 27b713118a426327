package pkcs11kms

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

const day = 24 * time.Hour

func schedule(t testing.TB, c *Client, keyID *string, days int32) *kms.ScheduleKeyDeletionOutput {
	t.Helper()
	out, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: keyID, PendingWindowInDays: &days})
	require.NoError(t, err)
	return out
}

func TestScheduleAndCancel(t *testing.T) {
	cfg := newConfig(t)
	clk := newClock()
	cfg.Now = clk.Now
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	for days, text := range map[int32]string{
		0: "1 validation error detected: Value '0' at 'pendingWindowInDays' failed to satisfy constraint: " +
			"Member must have value greater than or equal to 1",
		1: pendingWindowText, 6: pendingWindowText, 31: pendingWindowText, 365: pendingWindowText,
		366: "1 validation error detected: Value '366' at 'pendingWindowInDays' failed to satisfy constraint: " +
			"Member must have value less than or equal to 365",
	} {
		_, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: key.KeyId, PendingWindowInDays: &days})
		requireAPIError(t, err, "ValidationException", text)
	}
	_, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: key.KeyId})
	requireAPIError(t, err, "KMSInvalidStateException", *key.Arn+" is not pending deletion.")

	out, err := c.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: key.KeyId})
	require.NoError(t, err)
	date := clk.Now().Add(30 * day)
	require.Equal(t, &kms.ScheduleKeyDeletionOutput{KeyId: key.Arn, DeletionDate: &date, KeyState: types.KeyStatePendingDeletion,
		PendingWindowInDays: aws.Int32(30)}, out)
	m := describe(t, c, key.KeyId)
	require.Equal(t, types.KeyStatePendingDeletion, m.KeyState)
	require.Equal(t, date, *m.DeletionDate)
	require.False(t, m.Enabled)
	require.Nil(t, m.PendingDeletionWindowInDays, "only in PendingReplicaDeletion")
	_, err = generate(t.Context(), c, key.KeyId, []byte("m"))
	requireAPIError(t, err, "KMSInvalidStateException", *key.Arn+" is pending deletion.")

	cancelled, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: key.KeyId})
	require.NoError(t, err)
	require.Equal(t, *key.Arn, *cancelled.KeyId)
	m = describe(t, c, key.KeyId)
	require.Equal(t, types.KeyStateDisabled, m.KeyState, "not Enabled")
	require.Nil(t, m.DeletionDate)
}

// due makes a client whose clock is set, with a key whose date has come and one whose date has not.
func due(t *testing.T) (c *Client, clk *clock, cfg testConfig, gone, kept *types.KeyMetadata) {
	cfg = newConfig(t)
	clk = newClock()
	cfg.Now = clk.Now
	c = openClient(t, cfg)
	gone, kept = mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/gone", gone.KeyId)
	createAlias(t, c, "alias/kept", kept.KeyId)
	schedule(t, c, gone.KeyId, 7)
	schedule(t, c, kept.KeyId, 8)
	clk.Advance(7 * day)
	return c, clk, cfg, gone, kept
}

func TestDeletionDestroysJustTheKey(t *testing.T) {
	c, _, _, gone, kept := due(t)
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: gone.KeyId})
	requireAPIError(t, err, "NotFoundException", "Key '"+*gone.Arn+"' does not exist")
	_, err = c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: ptr("alias/gone")})
	requireAPIError(t, err, "NotFoundException", "Alias arn:aws:kms:us-west-2:111122223333:alias/gone is not found.")
	require.Equal(t, []string{"alias/kept"}, aliasesOf(t, c, nil))
	requireNothingHalfMade(t, c, 1)
	_, err = c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: kept.KeyId})
	require.NoError(t, err)
	require.NoError(t, toggle(t.Context(), c, kept.KeyId, true))
	_, err = generate(t.Context(), c, kept.KeyId, []byte("m"))
	require.NoError(t, err)
	requireNoDiscrepancies(t, c.bridge)
}

// Nothing is destroyed in the first ten minutes, however wrong the clock, and never by programs that do one thing.
func TestDeletionWaits(t *testing.T) {
	c, clk, cfg, gone, _ := due(t)
	there := func(c *Client) { t.Helper(); describe(t, c, gone.KeyId) }
	young := openClient(t, cfg) // it opens with the date long gone
	clk.Advance(365 * day)
	late := openClient(t, cfg)
	require.NoError(t, late.bridge.core.Keys.DestroyDue(t.Context()))
	there(late)
	clk.Advance(10*time.Minute - 1)
	require.NoError(t, late.bridge.core.Keys.DestroyDue(t.Context()))
	there(late)
	cfg.ShortLived = true
	short := openClient(t, cfg)
	clk.Advance(day)
	require.NoError(t, short.bridge.core.Keys.DestroyDue(t.Context()))
	there(short)
	require.NoError(t, young.bridge.core.Keys.DestroyDue(t.Context()))
	_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: gone.KeyId})
	requireCode(t, err, "NotFoundException")
}

// A clock behind the latest time that the store has seen is wrong, and nobody knows by how much. A minute is no more than
// the clocks of one machine may differ.
func TestDeletionWithAClockThatWentBack(t *testing.T) {
	c, clk, _, gone, _ := due(t)
	clk.Advance(365 * day)
	seen := clk.Now().Truncate(time.Second)
	haveSeen(t, c, seen)
	for _, back := range []time.Duration{time.Minute + time.Nanosecond, 59 * time.Minute, 3 * time.Hour, 2 * day, 365 * day} {
		clk.Advance(seen.Add(-back).Sub(clk.Now()))
		require.ErrorContains(t, c.bridge.core.Keys.DestroyDue(t.Context()), "no key is destroyed")
		describe(t, c, gone.KeyId)
	}
	clk.Advance(seen.Add(-time.Minute).Sub(clk.Now()))
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: gone.KeyId})
	requireCode(t, err, "NotFoundException")
}

// haveSeen is what a process that destroyed keys at that time leaves in the store.
func haveSeen(t *testing.T, c *Client, now time.Time) {
	t.Helper()
	counter, version, err := records.ReadCounter(t.Context(), c.bridge.core.Store, "", "", keyring.ClockCounter)
	require.NoError(t, err)
	counter.N = int(now.Unix())
	_, err = c.bridge.core.Store.Commit(t.Context(), counter.Put(version))
	require.NoError(t, err)
}

// The store's time moves on by an hour or more at once, and never back.
func TestTimeThatTheStoreHasSeen(t *testing.T) {
	cfg, clk := newConfig(t), newClock()
	cfg.Now = clk.Now
	c := openClient(t, cfg)
	clk.Advance(day) // a process must have lived for a while
	seen := func() int {
		counter, _, err := records.ReadCounter(t.Context(), c.bridge.core.Store, "", "", keyring.ClockCounter)
		require.NoError(t, err)
		return counter.N
	}
	now := clk.Now()
	for _, step := range []struct {
		to   time.Duration
		want time.Duration
	}{{0, 0}, {time.Hour - 1, 0}, {-time.Minute, 0}, {time.Hour, time.Hour}, {2*time.Hour - 1, time.Hour}, {50 * time.Hour, 50 * time.Hour}} {
		clk.Advance(now.Add(step.to).Sub(clk.Now()))
		require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
		require.EqualValues(t, now.Add(step.want).Unix(), seen())
	}
}

// When the time that the store has seen cannot be read, nothing is destroyed.
func TestDeletionWithoutTheTimeOfTheStore(t *testing.T) {
	c, store, clk, gone := dueWithFaults(t)
	haveSeen(t, c, clk.Now())
	store.onGet(func(ref keystore.Ref) error {
		if ref == keystore.CounterRef("", "", keyring.ClockCounter) {
			return errDisk
		}
		return nil
	})
	require.ErrorIs(t, c.bridge.core.Keys.DestroyDue(t.Context()), errDisk)
	store.onGet(nil)
	describe(t, c, gone.KeyId)

	_, version, err := records.ReadCounter(t.Context(), store, "", "", keyring.ClockCounter)
	require.NoError(t, err)
	damaged := keystore.Change{Op: keystore.Put, Ref: keystore.CounterRef("", "", keyring.ClockCounter), Expect: version,
		Value: []byte("damaged")}
	_, err = store.Commit(t.Context(), damaged)
	require.NoError(t, err)
	require.ErrorContains(t, c.bridge.core.Keys.DestroyDue(t.Context()), "counter")
	describe(t, c, gone.KeyId)
}

// dueWithFaults is a client of a store that can be made to fail, with a key whose date has come.
func dueWithFaults(t *testing.T) (c *Client, store *faultyStore, clk *clock, gone *types.KeyMetadata) {
	c, _, store, clk = twoProcesses(t)
	gone = mustCreate(t, c, types.KeySpecHmac256)
	schedule(t, c, gone.KeyId, 7)
	clk.Advance(7 * day)
	return c, store, clk, gone
}

// Cancel and the janitor at the last moment: one of them wins, cleanly.
func TestCancelAgainstTheJanitor(t *testing.T) {
	for _, cancelFirst := range []bool{true, false} {
		c, store, _, gone := dueWithFaults(t)
		record, _ := storedKey(t, c, gone.KeyId)
		cancel := func() error {
			_, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: gone.KeyId})
			return err
		}
		if cancelFirst {
			store.hook(func(changes []keystore.Change) error {
				if failWhen(keystore.Deleting)(changes) == nil {
					return nil
				}
				store.hook(nil, nil)
				return cancel()
			}, nil)
			require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()), "too late, which is no error")
			require.Equal(t, types.KeyStateDisabled, describe(t, c, gone.KeyId).KeyState)
			_, err := c.region.Token.Describe(t.Context(), record.CKAID)
			require.NoError(t, err)
			continue
		}
		require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
		requireAPIError(t, cancel(), "NotFoundException", "Key '"+*gone.Arn+"' does not exist")
		_, err := c.region.Token.Describe(t.Context(), record.CKAID)
		require.ErrorIs(t, err, token.ErrKeyMissing)
	}
}

// The two at once, by two clients: whoever was first, the other one is told so or leaves the key alone.
func TestCancelAndJanitorAtOnce(t *testing.T) {
	cfg := newConfig(t)
	clk := newClock()
	cfg.Now = clk.Now
	c, janitor := openClient(t, cfg), openClient(t, cfg)
	cancelled := 0
	const rounds = 30
	for range rounds {
		key := mustCreate(t, c, types.KeySpecHmac256)
		record, _ := storedKey(t, c, key.KeyId)
		schedule(t, c, key.KeyId, 7)
		clk.Advance(7 * day)
		destroyed := make(chan error)
		go func() { destroyed <- janitor.bridge.core.Keys.DestroyDue(t.Context()) }()
		_, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: key.KeyId})
		require.NoError(t, <-destroyed)
		_, object := c.region.Token.Describe(t.Context(), record.CKAID)
		if err == nil {
			cancelled++
			require.NoError(t, object)
			require.Equal(t, types.KeyStateDisabled, describe(t, c, key.KeyId).KeyState)
			continue
		}
		requireAPIError(t, err, "NotFoundException", "Key '"+*key.Arn+"' does not exist")
		require.ErrorIs(t, object, token.ErrKeyMissing)
	}
	t.Logf("%d of %d were cancelled in time", cancelled, rounds)
	requireNothingHalfMade(t, c, cancelled)
}

// An alias cannot be put on a key that is being deleted, whatever the order of the two.
func TestAliasAgainstDeletion(t *testing.T) {
	c, _, _, gone, kept := due(t)
	for _, id := range []*string{gone.KeyId, kept.KeyId} {
		_, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: ptr("alias/late"), TargetKeyId: id})
		require.ErrorContains(t, err, "is pending deletion.")
	}
	_, err := c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: ptr("alias/kept"), TargetKeyId: gone.KeyId})
	requireAPIError(t, err, "KMSInvalidStateException", *gone.Arn+" is pending deletion.")
	live := mustCreate(t, c, types.KeySpecHmac256)
	_, err = c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: ptr("alias/gone"), TargetKeyId: live.KeyId})
	require.NoError(t, err, "away from it is fine")
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	require.Equal(t, []string{"alias/gone"}, aliasesOf(t, c, live.KeyId))
	rec, err := c.bridge.core.Store.Get(t.Context(), keystore.KeyRef(testRegion, testAccount, *live.KeyId))
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	require.Equal(t, 1, record.Aliases)
}
