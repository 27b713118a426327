package sealed_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

// What is written is read as it was written, by whoever has the key; nobody else can read it.
func TestLifeOfSealedRecords(t *testing.T) {
	s, below := newSealed(t)
	for _, sample := range samples() {
		change := sample.Put(0)
		rec := mustGet(t, s, change.Ref)
		require.Equal(t, change.Value, rec.Value)
		require.Empty(t, rec.Seal)
		_, err := keystore.EntriesOf(mustGet(t, below, change.Ref))
		require.ErrorContains(t, err, "a seal that nobody has checked")

		change.Expect = rec.Version
		mustCommit(t, s, change)
		require.Equal(t, change.Value, mustGet(t, open(t, below, sealed.Options{}), change.Ref).Value)
		for _, entry := range change.Index {
			recs, err := s.Lookup(t.Context(), entry.Index, entry.Value, keystore.Ref{}, 10)
			require.NoError(t, err)
			require.Len(t, recs, 1)
			require.Empty(t, recs[0].Seal)
		}
	}
	require.NoError(t, s.Verify(t.Context()))
	require.NoError(t, s.Faults(t.Context(), func(e *sealed.Error) { t.Error(e) }))
}

func TestAStoreWithoutSealsIsAsItIs(t *testing.T) {
	below := newBelow(t)
	s := open(t, below, sealed.Options{})
	_, there := s.Root()
	require.False(t, there)
	require.False(t, s.Locked())
	alias := samples()[2].Put(0)
	mustCommit(t, s, alias)
	require.Empty(t, mustGet(t, below, alias.Ref).Seal)
	require.Equal(t, alias.Value, mustGet(t, s, alias.Ref).Value)
}

// Until it is unlocked a store hands out where its regions' tokens are, and nothing else; it changes nothing.
func TestLockedStore(t *testing.T) {
	_, below := newSealed(t)
	s, err := sealed.New(t.Context(), below, sealed.Options{})
	require.NoError(t, err)
	unavailable := errors.New("the token is not there")
	var calls atomic.Int32
	s.UnlockBy(func(context.Context) error {
		calls.Add(1)
		return unavailable
	})
	_, err = s.Get(t.Context(), keystore.RegionRef(region))
	require.NoError(t, err)
	require.Zero(t, calls.Load())
	alias := samples()[2].Put(0)
	_, got := s.Get(t.Context(), alias.Ref)
	_, listed := s.List(t.Context(), alias.Ref.Kind, region, account, "", 1)
	_, found := s.Lookup(t.Context(), alias.Index[0].Index, "", keystore.Ref{}, 1)
	_, committed := s.Commit(t.Context(), samples()[2].(*keystore.Alias).Put(1))
	for _, err := range []error{got, listed, found, committed} {
		require.ErrorIs(t, err, sealed.ErrLocked)
		require.ErrorIs(t, err, unavailable, "why, so that the caller can try again")
	}
	require.EqualValues(t, 4, calls.Load())
	require.True(t, s.Locked())
}

// Calls that come at once have the store unlocked once, and one that has no more time does not wait for the others.
func TestUnlockedOnce(t *testing.T) {
	_, below := newSealed(t)
	s, err := sealed.New(t.Context(), below, sealed.Options{})
	require.NoError(t, err)
	entered, goOn := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	s.UnlockBy(func(ctx context.Context) error {
		if calls.Add(1) == 1 {
			close(entered)
		}
		<-goOn
		return s.Unlock(ctx, keysOf(newRoot()))
	})
	ref := samples()[2].Put(0).Ref
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			_, err := s.Get(context.Background(), ref)
			assert.NoError(t, err)
		})
	}
	<-entered
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Get(over, ref)
	require.ErrorIs(t, err, context.Canceled)
	close(goOn)
	group.Wait()
	require.EqualValues(t, 1, calls.Load())
}

// lateReads answers a Get with what was there before, once.
type lateReads struct {
	keystore.Store
	late atomic.Pointer[keystore.Record]
}

func (l *lateReads) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	if rec := l.late.Swap(nil); rec != nil {
		return *rec, nil
	}
	return l.Store.Get(ctx, ref)
}

// A read that was overtaken by a write which others have seen since is none of an old record: it is read again.
func TestAReadThatWasOvertaken(t *testing.T) {
	_, below := newSealed(t)
	late := &lateReads{Store: below}
	s := open(t, late, sealed.Options{})
	alias := keystore.Alias{Region: region, Account: account, Name: "alias/moved", Target: "old"}
	version := mustCommit(t, s, alias.Put(0))
	old := mustGet(t, below, alias.Ref())
	alias.Target = "new"
	version = mustCommit(t, s, alias.Put(version))
	late.late.Store(&old)
	require.Equal(t, alias.Put(0).Value, mustGet(t, s, alias.Ref()).Value)

	mustCommit(t, s, keystore.Change{Op: keystore.Delete, Ref: alias.Ref(), Expect: version})
	late.late.Store(&old)
	require.Equal(t, old.Value, mustGet(t, s, alias.Ref()).Value, "it was there when it was read")

	unsealed := old
	unsealed.Seal = nil
	late.late.Store(&unsealed)
	_, err := s.Get(t.Context(), alias.Ref())
	require.True(t, refusedOf(err, alias.Ref()), "what had no seal then either")
}

// What is written to a sealed store is told to who collects it, with the revision and hash of the value; of others nothing is known.
func TestWritesAreNoted(t *testing.T) {
	s, below := newSealed(t)
	plain := open(t, newBelow(t), sealed.Options{})
	alias := keystore.Alias{Region: region, Account: account, Name: "alias/a", Target: "t"}
	for _, store := range []*sealed.Store{plain, s} {
		ctx := audit.CollectWrites(t.Context())
		counter := keystore.Counter{Region: region, Account: account, Name: "c"}
		version, err := store.Commit(ctx, alias.Put(0), counter.Put(0))
		require.NoError(t, err)
		written, sealOf := audit.WritesOf(ctx).Last, []byte(nil)
		if store == s {
			sealOf = mustGet(t, below, alias.Ref()).Seal
		}
		gone, err := store.Commit(ctx, keystore.Change{Op: keystore.Delete, Ref: alias.Ref(), Expect: version})
		require.NoError(t, err)
		all := audit.WritesOf(ctx).Last
		if store == plain {
			require.Empty(t, all)
			continue
		}
		require.Len(t, written, 1, "counters are nobody's business")
		now := audit.Stored{Revision: binary.BigEndian.Uint64(sealOf[5:]), SHA256: sha256.Sum256(alias.Put(0).Value)} // as the seal has it
		require.Equal(t, audit.Wrote{Record: "alias/" + region + "/" + account + "/alias/a", Revision: now.Revision, SHA256: now.SHA256,
			Commit: version, Epoch: 1}, written[0])
		require.Len(t, all, 2)
		require.Greater(t, all[1].Revision, now.Revision)
		require.Equal(t, audit.Wrote{Record: written[0].Record, Revision: all[1].Revision, Deleted: true, Commit: gone, Epoch: 1, Was: &now},
			all[1])
	}
}

// A commit that was refused has written nothing; of one whose answer was lost nobody knows.
func TestWritesOfFailedCommits(t *testing.T) {
	_, below := newSealed(t)
	failing := &failingStore{Store: below}
	s := open(t, failing, sealed.Options{})
	alias := keystore.Alias{Region: region, Account: account, Name: "alias/a", Target: "t"}
	for err, unsure := range map[error]int{keystore.ErrConflict: 0, keystore.ErrExists: 0, keystore.ErrBusy: 0, keystore.ErrFull: 0,
		keystore.ErrReadOnly: 0, context.DeadlineExceeded: 1, io.ErrUnexpectedEOF: 1} {
		failing.err = err
		ctx := audit.CollectWrites(t.Context())
		_, got := s.Commit(ctx, alias.Put(0))
		require.Error(t, got)
		require.Len(t, audit.WritesOf(ctx).Last, unsure, err)
		for _, w := range audit.WritesOf(ctx).Last {
			require.True(t, w.Unsure)
		}
	}
}

// failingStore answers commits with an error.
type failingStore struct {
	keystore.Store
	err error
}

func (s *failingStore) Commit(context.Context, ...keystore.Change) (uint64, error) { return 0, s.err }

// Revisions go on where the clock was set back.
func TestClockSetBack(t *testing.T) {
	_, below := newSealed(t)
	now := time.Now()
	s := open(t, below, sealed.Options{Now: func() time.Time { return now }})
	watching := open(t, below, sealed.Options{})
	alias := keystore.Alias{Region: region, Account: account, Name: "alias/a"}
	version := uint64(0)
	for _, target := range []string{"one", "two", "three"} {
		alias.Target = target
		version = mustCommit(t, s, alias.Put(version))
		require.Equal(t, alias.Put(0).Value, mustGet(t, watching, alias.Ref()).Value, target)
		now = now.Add(-time.Hour)
	}
	again := open(t, below, sealed.Options{Now: func() time.Time { return now }})
	alias.Target = "four"
	rec := mustGet(t, again, alias.Ref())
	mustCommit(t, again, alias.Put(rec.Version))
	require.Equal(t, alias.Put(0).Value, mustGet(t, watching, alias.Ref()).Value)
}

// Who has opened the store before it was sealed, or sealed anew, finds out and goes on with the new seals.
func TestSealedMeanwhile(t *testing.T) {
	below := newBelow(t)
	writing, reading := open(t, below, sealed.Options{}), open(t, below, sealed.Options{})
	for _, s := range []*sealed.Store{writing, reading} {
		s.UnlockBy(func(ctx context.Context) error {
			root, _ := s.Root()
			return s.Unlock(ctx, keysOf(root))
		})
	}
	alias := samples()[2].Put(0)
	mustCommit(t, writing, alias)
	mustGet(t, reading, alias.Ref)
	for epoch := range uint32(3) {
		next := newRoot()
		next.Epoch += epoch
		seal(t, below, next)
		counter := keystore.Counter{Region: region, Account: account, Name: "epoch" + string(rune('0'+epoch))}
		mustCommit(t, writing, counter.Put(0))
		require.Equal(t, alias.Value, mustGet(t, reading, alias.Ref).Value)
		for _, s := range []*sealed.Store{writing, reading} {
			root, _ := s.Root()
			require.Equal(t, next, root)
			mustGet(t, s, counter.Put(0).Ref)
		}
	}
}

// An epoch of before is none that counts, whatever the store says: not even when all of the store was put back.
func TestEpochsOnlyGrow(t *testing.T) {
	_, below := newSealed(t)
	next := newRoot()
	next.Epoch = 2
	seal(t, below, next)
	s := open(t, below, sealed.Options{})
	alias := samples()[2].Put(0)
	mustGet(t, s, alias.Ref)
	seal(t, below, newRoot())
	_, err := s.Get(t.Context(), alias.Ref)
	require.True(t, refusedOf(err, alias.Ref), "%v", err)
	_, err = s.Commit(t.Context(), keystore.Counter{Region: region, Account: account, Name: "c"}.Put(0))
	require.ErrorIs(t, err, sealed.ErrChanged)
}

// While somebody seals a store that others have open, these wait, as long as they have time.
func TestOthersWaitForWhoIsSealing(t *testing.T) {
	below := newBelow(t)
	s := open(t, below, sealed.Options{})
	s.UnlockBy(func(ctx context.Context) error { return s.Unlock(ctx, keysOf(newRoot())) })
	alias := samples()[2].Put(0)
	mustCommit(t, s, alias)
	version, err := sealed.Begin(t.Context(), below, newRoot(), 0)
	require.NoError(t, err)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Commit(over, samples()[3].Put(0))
	require.Error(t, err)
	committed := make(chan error)
	go func() {
		_, err := s.Commit(context.Background(), samples()[3].Put(0))
		committed <- err
	}()
	require.NoError(t, sealed.SealAll(t.Context(), below, newRoot(), version, keyOf(newRoot()), time.Now(), func(int) {}))
	require.NoError(t, <-committed)
	mustGet(t, open(t, below, sealed.Options{}), samples()[3].Put(0).Ref)
}

// Sealing that was cut off leaves a store that nobody unlocks, until somebody has sealed all of it.
func TestSealingThatWasCutOff(t *testing.T) {
	below := newBelow(t)
	for _, sample := range samples() {
		mustCommit(t, below, sample.Put(0))
	}
	_, err := sealed.Begin(t.Context(), below, newRoot(), 0)
	require.NoError(t, err)
	s := open(t, below, sealed.Options{})
	_, err = s.Get(t.Context(), samples()[2].Put(0).Ref)
	require.ErrorIs(t, err, sealed.ErrUnfinished)
	seal(t, below, newRoot())
	mustGet(t, open(t, below, sealed.Options{}), samples()[2].Put(0).Ref)
}

// Records that no program has written are not vouched for.
func TestUnreadableRecordsAreNotSealed(t *testing.T) {
	below := newBelow(t)
	mustCommit(t, below, keystore.Change{Op: keystore.Put, Ref: samples()[2].Put(0).Ref, Value: []byte(`{"target":"x","more":1}`)})
	version, err := sealed.Begin(t.Context(), below, newRoot(), 0)
	require.NoError(t, err)
	err = sealed.SealAll(t.Context(), below, newRoot(), version, keyOf(newRoot()), time.Now(), func(int) {})
	require.ErrorContains(t, err, "does not seal")
}

// As many changes as a Commit takes are sealed like fewer.
func TestMostChanges(t *testing.T) {
	s, below := newSealed(t)
	var changes []keystore.Change
	for i := range keystore.MaxChanges {
		changes = append(changes, keystore.Counter{Region: region, Account: account, Name: "c" + string(rune('0'+i)), N: i}.Put(0))
	}
	mustCommit(t, s, changes...)
	other := open(t, below, sealed.Options{})
	for _, c := range changes {
		mustGet(t, other, c.Ref)
	}
}

// A record that is refused is told once, whoever reads it how often.
func TestRefusalsAreToldOnce(t *testing.T) {
	_, below := newSealed(t)
	alias := samples()[2].Put(0)
	rec := mustGet(t, below, alias.Ref)
	rec = replace(t, below, rec, keystore.Record{Ref: rec.Ref, Value: rec.Value}, alias.Index)
	var told []string
	s := open(t, below, sealed.Options{Refused: func(e *sealed.Error) { told = append(told, e.Error()) }})
	for range 3 {
		_, err := s.Get(t.Context(), alias.Ref)
		require.Error(t, err)
	}
	require.Len(t, told, 1)
	require.Contains(t, told[0], "alias/tokens has no seal")
	replace(t, below, rec, keystore.Record{Ref: rec.Ref, Value: append([]byte(nil), rec.Value[:20]...)}, alias.Index)
	_, err := s.Get(t.Context(), alias.Ref)
	require.Error(t, err)
	require.Len(t, told, 2, "another value")
}

// Writers and readers at once: nobody is refused anything.
func TestSealsUnderLoad(t *testing.T) {
	_, below := newSealed(t)
	stores := []*sealed.Store{open(t, below, sealed.Options{}), open(t, below, sealed.Options{})}
	counter := keystore.Counter{Region: region, Account: account, Name: "load"}
	mustCommit(t, stores[0], counter.Put(0))
	ref := counter.Put(0).Ref
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			s := stores[i%2]
			for done := 0; done < 25; {
				rec, err := s.Get(context.Background(), ref)
				if !assert.NoError(t, err) {
					return
				}
				c, err := keystore.DecodeCounter(rec)
				if !assert.NoError(t, err) {
					return
				}
				c.N++
				switch _, err := s.Commit(context.Background(), c.Put(rec.Version)); {
				case err == nil:
					done++
				case !errors.Is(err, keystore.ErrConflict):
					assert.NoError(t, err)
					return
				}
			}
		})
		group.Go(func() {
			for range 200 {
				_, err := stores[i%2].Get(context.Background(), ref)
				assert.NoError(t, err)
				_, err = stores[(i+1)%2].List(context.Background(), keystore.KindCounter, region, account, "", 10)
				assert.NoError(t, err)
			}
		})
	}
	group.Wait()
	got, err := keystore.DecodeCounter(mustGet(t, stores[0], ref))
	require.NoError(t, err)
	require.Equal(t, 100, got.N)
}
