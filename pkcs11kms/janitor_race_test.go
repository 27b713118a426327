package pkcs11kms

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// elsewhere is a record that no Bridge of these tests can finish, since none has the token of its region. So the instance
// that left it is not forgotten.
func elsewhere(n int, state keystore.KeyState) keystore.Key {
	record := numbered(n, state)
	record.Region = "eu-north-1"
	return record
}

// Two janitors have read the same record of a dead instance. The slower one comes when the faster one has finished it, and
// the application to which the object belonged has made it anew: that one must stay.
func TestTwoJanitorsOnOneDeadInstance(t *testing.T) {
	c, store, cfg := withFaults(t)
	other := openClient(t, cfg)
	record := numbered(1, keystore.Deleting)
	record.Adopted = keystore.AdoptedDestroy
	theirs := func() {
		_, err := c.region.Token.GenerateHMACKey(context.Background(), token.SHA256, record.CKAID, "theirs")
		assert.NoError(t, err)
	}
	theirs()
	dieOver(t, cfg.StorePath, record, elsewhere(2, keystore.Deleting))
	store.onceListed(func() {
		finished, err := other.bridge.core.Keys.Tidy(context.Background())
		assert.NoError(t, err)
		assert.Equal(t, []string{record.ID}, finished)
		theirs()
	})
	finished, err := c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Empty(t, finished)
	_, err = c.region.Token.Describe(t.Context(), record.CKAID)
	require.NoError(t, err)
}

// A janitor has read a record of a living instance, which then finishes its key and ends: the key must stay.
func TestJanitorBehindAnOwnerThatFinishes(t *testing.T) {
	c, store, cfg := withFaults(t)
	owner, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	record, left := numbered(1, keystore.Creating), elsewhere(2, keystore.Creating)
	record.Instance, left.Instance = owner.Instance(), owner.Instance()
	version, err := owner.Commit(t.Context(), record.Put(0), left.Put(0))
	require.NoError(t, err)
	_, err = c.region.Token.GenerateHMACKey(t.Context(), token.SHA256, record.CKAID, record.ID)
	require.NoError(t, err)
	store.onceListed(func() {
		made := record
		made.State, made.Instance = keystore.Enabled, ""
		_, err := owner.Commit(context.Background(), made.Put(version))
		assert.NoError(t, err)
		assert.NoError(t, owner.Close())
	})
	finished, err := c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.NotContains(t, finished, record.ID)
	_, err = generate(t.Context(), c, ptr(record.ID), []byte("m"))
	require.NoError(t, err)
}

// One pass finishes whatever it can of a dead instance, which is forgotten with its last record and not before.
func TestOnePassFinishesWhatItCan(t *testing.T) {
	c, store, cfg := withFaults(t)
	records := []keystore.Key{numbered(1, keystore.Creating), numbered(2, keystore.Deleting), numbered(3, keystore.Creating)}
	instance := dieOver(t, cfg.StorePath, records...)
	store.hook(func(changes []keystore.Change) error {
		for _, change := range changes {
			if change.Ref == records[1].Ref() {
				return errDisk
			}
		}
		return nil
	}, nil)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	finished, err := c.bridge.core.Keys.Tidy(ended) // a pass that began is finished
	require.ErrorIs(t, err, errDisk)
	require.ErrorContains(t, err, records[1].ID)
	require.Equal(t, []string{records[0].ID, records[2].ID}, finished)

	store.hook(nil, nil)
	free, err := store.TakeOver(t.Context(), instance)
	require.NoError(t, err, "the next janitor can take it over")
	free(false)
	finished, err = c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{records[1].ID}, finished)
	_, err = store.TakeOver(t.Context(), instance)
	require.ErrorIs(t, err, keystore.ErrUndecided, "it is forgotten")
}

// The janitor reads on behind a page that is full of what it cannot finish.
func TestJanitorReadsEveryPage(t *testing.T) {
	c, _, store, clk := twoProcesses(t)
	gone := mustCreate(t, c, types.KeySpecHmac256)
	schedule(t, c, gone.KeyId, 7)
	var left, due []keystore.Key
	for n := range keystore.MaxPage {
		left = append(left, elsewhere(n, keystore.Creating))
		record := elsewhere(keystore.MaxPage+n, keystore.PendingDeletion)
		record.DeletionDate = clk.Now()
		due = append(due, record)
	}
	clk.Advance(7 * day)
	last := numbered(2*keystore.MaxPage, keystore.Creating)
	dieOver(t, store.path, append(left, last)...)
	dieOver(t, store.path, due...)
	finished, err := c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{last.ID}, finished)
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	_, err = c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: gone.KeyId})
	requireCode(t, err, "NotFoundException")
	recs, err := store.Lookup(t.Context(), keystore.IndexPendingDeletion, "", keystore.Ref{}, keystore.MaxPage)
	require.NoError(t, err)
	require.Len(t, recs, keystore.MaxPage, "those of a region without a token here are another process's")
}

// At no moment of a creation or a deletion does the janitor of the same process take the key for one that was left.
func TestOwnJanitorLeavesAloneWhatIsWorkedOn(t *testing.T) {
	c, store, _, _ := dueWithFaults(t)
	inside, passes := false, 0
	pass := func([]keystore.Change) error {
		if inside || t.Failed() { // a key that was taken is made anew, without end
			return nil
		}
		inside = true
		defer func() { inside = false }()
		passes++
		finished, err := c.bridge.core.Keys.Tidy(context.Background())
		assert.NoError(t, err)
		assert.Empty(t, finished)
		return nil
	}
	store.hook(pass, pass)
	_, err := createHMAC256(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	dieOver(t, store.path, numbered(1, keystore.Creating))
	finished, err := c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Len(t, finished, 1)
	store.hook(nil, nil)
	require.Equal(t, 2*(2+3+2), passes, "commits of the creation, of the deletion with its clock, and of the janitor")
	requireNothingHalfMade(t, c, 1)
}

// Bridges on one Store may begin and end at once.
func TestBridgesThatShareAStoreAtOnce(t *testing.T) {
	_, store, cfg := withFaults(t)
	cfg.Store, cfg.StorePath = store, ""
	var all errgroup.Group
	for range 4 {
		all.Go(func() error {
			for range 3 {
				c, err := newAt(t.Context(), cfg)
				if err == nil {
					err = c.Close()
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, all.Wait())
}

// Bridges that share a Store go on knowing what each of them works on when one of them ends and another begins.
func TestBridgesThatShareAStoreComeAndGo(t *testing.T) {
	c, store, cfg := withFaults(t)
	cfg.Store, cfg.StorePath = store, ""
	second, err := newAt(t.Context(), cfg)
	require.NoError(t, err)
	<-second.bridge.core.Keys.Settled() // else its first pass may find the record before it is marked
	record := plant(t, c, store.Instance(), keystore.Creating, true)
	done := c.bridge.core.Keys.InProgress(record.Ref())
	require.NoError(t, second.Close())
	third := openClient(t, cfg)
	finished, err := third.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Empty(t, finished)
	done()
	finished, err = third.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{record.ID}, finished)
}

// A record that cannot be read is told, and keeps neither the janitor nor the deletion from the others.
func TestDamagedRecordStopsNobody(t *testing.T) {
	c, store, _, gone := dueWithFaults(t)
	unfinished, due := numbered(1, keystore.Creating), numbered(2, keystore.PendingDeletion)
	unfinished.Instance = store.Instance()
	for _, change := range []keystore.Change{unfinished.Put(0), due.Put(0)} {
		change.Value = []byte("damaged")
		_, err := store.Commit(t.Context(), change)
		require.NoError(t, err)
	}
	dieOver(t, store.path, numbered(3, keystore.Creating))
	finished, err := c.bridge.core.Keys.Tidy(t.Context())
	require.ErrorContains(t, err, unfinished.ID)
	require.Len(t, finished, 1)
	require.ErrorContains(t, c.bridge.core.Keys.DestroyDue(t.Context()), due.ID)
	_, err = c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: gone.KeyId})
	requireCode(t, err, "NotFoundException")
}

// A store that cannot be read is told.
func TestJanitorOfAStoreThatCannotBeRead(t *testing.T) {
	cfg, clk := newConfig(t), newClock()
	cfg.Now = clk.Now
	c, err := newAt(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_, err = c.bridge.core.Keys.Tidy(t.Context())
	require.ErrorIs(t, err, keystore.ErrClosed)
	clk.Advance(day)
	require.ErrorIs(t, c.bridge.core.Keys.DestroyDue(t.Context()), keystore.ErrClosed)
}

// In a long-lived process the janitor makes a pass each half minute, and after ten minutes it begins to destroy the keys
// whose date has come. The clock is that of a bubble.
func TestJanitorOfALongLivedProcess(t *testing.T) {
	cfg := newConfig(t)
	early := cfg
	early.Now = func() time.Time { return time.Date(1999, 12, 25, 0, 0, 0, 0, time.UTC) } // a bubble begins a week later
	earlier, err := newAt(t.Context(), early)
	require.NoError(t, err)
	gone := mustCreate(t, earlier, types.KeySpecHmac256)
	schedule(t, earlier, gone.KeyId, 7)
	require.NoError(t, earlier.Close())
	synctest.Test(t, func(t *testing.T) {
		c := openClient(t, cfg)
		opened := time.Now()
		record := numbered(1, keystore.Creating)
		dieOver(t, cfg.StorePath, record)
		there := func(ref keystore.Ref) bool {
			_, err := c.bridge.core.Store.Get(t.Context(), ref)
			return err == nil
		}
		at := func(since time.Duration) {
			<-time.After(since - time.Since(opened))
			synctest.Wait()
		}
		at(30*time.Second - 1)
		require.True(t, there(record.Ref()))
		at(30 * time.Second)
		require.False(t, there(record.Ref()))
		key := keystore.KeyRef(testRegion, testAccount, *gone.KeyId)
		at(10*time.Minute - 1)
		require.True(t, there(key))
		at(10 * time.Minute)
		require.False(t, there(key))
	})
}
