package sealed_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

func nextRoot(s *sealed.Store) keystore.Seals {
	root, _ := s.Root()
	root.Epoch++
	root.CKAID = []byte{byte(root.Epoch)}
	return root
}

func begin(t *testing.T, s *sealed.Store) {
	t.Helper()
	require.NoError(t, s.Open(t.Context()))
	next := nextRoot(s)
	require.NoError(t, s.Next(t.Context(), next, keyOf(next)))
}

func notBusy(context.Context, keystore.Record) (bool, error) { return false, nil }

func reseal(t *testing.T, s *sealed.Store) {
	t.Helper()
	left, err := s.Reseal(t.Context(), notBusy, func(int) {})
	require.NoError(t, err)
	require.Zero(t, left)
}

func epochs(t *testing.T, below keystore.Store) (all []uint32) {
	t.Helper()
	require.NoError(t, sealed.Each(t.Context(), below, func(recs []keystore.Record) error {
		for _, rec := range recs {
			all = append(all, binary.BigEndian.Uint32(rec.Seal[1:]))
		}
		return nil
	}))
	return all
}

// readAll reads every record as somebody does who has a store open.
func readAll(t *testing.T, s *sealed.Store) {
	t.Helper()
	recs, err := s.All(t.Context(), keystore.Ref{}, keystore.MaxPage)
	require.NoError(t, err)
	require.Len(t, recs, len(samples())+1)
}

// All records are sealed anew while others read and write: they take seals of both epochs until the end, and write by the new key.
func TestRecordsAreSealedAnewBesideOthers(t *testing.T) {
	s, below := newSealed(t)
	others := []*sealed.Store{open(t, below, sealed.Options{}), open(t, below, sealed.Options{})}
	readAll(t, others[0])
	begin(t, s)
	readAll(t, others[0])
	readAll(t, others[1])
	late := open(t, below, sealed.Options{}) // which was opened meanwhile
	readAll(t, late)
	counter := keystore.Counter{Name: "c", N: 1}
	version := mustCommit(t, others[0], counter.Put(0))
	require.EqualValues(t, 2, binary.BigEndian.Uint32(mustGet(t, below, counter.Put(0).Ref).Seal[1:]), "who writes writes by the new key")
	mustCommit(t, others[1], keystore.Change{Op: keystore.Delete, Ref: counter.Put(0).Ref, Expect: version})
	reseal(t, s)
	for _, epoch := range epochs(t, below) {
		require.EqualValues(t, 2, epoch)
	}
	for _, one := range append(others, late, s, open(t, below, sealed.Options{})) {
		readAll(t, one)
	}
	require.NoError(t, s.End(t.Context()))
	for _, one := range append(others, late, s, open(t, below, sealed.Options{})) {
		readAll(t, one)
		at := mustCommit(t, one, counter.Put(0))
		mustCommit(t, one, keystore.Change{Op: keystore.Delete, Ref: counter.Put(0).Ref, Expect: at})
		root, _ := one.Root()
		require.Nil(t, root.Previous)
		require.EqualValues(t, 2, root.Epoch)
	}
}

// A seal of the epoch before counts until the end alone, and those who have the store open know of that as soon as of other changes.
func TestTheEpochBeforeEnds(t *testing.T) {
	s, below := newSealed(t)
	alias := samples()[2].Put(0)
	old := mustGet(t, below, alias.Ref)
	begin(t, s)
	other := open(t, below, sealed.Options{})
	readAll(t, other)
	reseal(t, s)
	require.NoError(t, s.End(t.Context()))
	now := mustGet(t, below, alias.Ref)
	replace(t, below, now, old, alias.Index)
	_, err := other.ChangedSince(t.Context(), "")
	require.NoError(t, err)
	for _, one := range []*sealed.Store{s, other, open(t, below, sealed.Options{})} {
		_, err := one.Get(t.Context(), alias.Ref)
		require.ErrorContains(t, err, "has a seal of another epoch")
	}
}

// Edits are refused in each of the steps, also by who seals records anew: nothing that was edited gets a new seal.
func TestEditsWhileRecordsAreSealedAnew(t *testing.T) {
	for step := range 3 {
		s, below := newSealed(t)
		alias := samples()[2].Put(0)
		begin(t, s)
		if step > 0 {
			reseal(t, s)
		}
		if step > 1 {
			require.NoError(t, s.End(t.Context()))
		}
		rec := mustGet(t, below, alias.Ref)
		with := rec
		other := keystore.Alias{Region: region, Account: account, Name: "alias/tokens", Target: "another"}.Put(0)
		with.Value = other.Value
		replace(t, below, rec, with, other.Index)
		for _, one := range []*sealed.Store{s, open(t, below, sealed.Options{})} {
			_, err := one.Get(t.Context(), alias.Ref)
			require.ErrorContains(t, err, edited, step)
		}
		if step == 0 {
			_, err := s.Reseal(t.Context(), notBusy, func(int) {})
			var refused *sealed.Error
			require.ErrorAs(t, err, &refused)
			require.Equal(t, alias.Ref, refused.Ref)
		}
	}
}

// What was put back to what it was before, and is sealed anew so, is no newer by that: who has seen what it became refuses it.
func TestWhatWasPutBackStaysRefusedWhenItIsSealedAnew(t *testing.T) {
	_, below := newSealed(t)
	witness := open(t, below, sealed.Options{})
	alias := samples()[2].Put(0)
	old := mustGet(t, below, alias.Ref)
	later := keystore.Alias{Region: region, Account: account, Name: "alias/tokens", Target: "another"}
	mustCommit(t, witness, later.Put(old.Version))
	replace(t, below, mustGet(t, below, alias.Ref), old, alias.Index)
	s := open(t, below, sealed.Options{}) // of a process that has seen nothing
	begin(t, s)
	reseal(t, s)
	require.NoError(t, s.End(t.Context()))
	_, err := witness.Get(t.Context(), alias.Ref)
	require.ErrorContains(t, err, "was put back to what it was before")
	for i, sample := range samples() {
		if i != 2 {
			mustGet(t, witness, sample.Put(0).Ref)
		}
	}
}

// What is left is gone on with: by a process that comes later, and by two at once.
func TestSealingAnewIsGoneOnWith(t *testing.T) {
	s, below := newSealed(t)
	begin(t, s)
	stop := errors.New("the process dies")
	_, err := s.Reseal(t.Context(), func(context.Context, keystore.Record) (bool, error) { return false, stop }, func(int) {})
	require.ErrorIs(t, err, stop)
	require.ErrorIs(t, s.Next(t.Context(), nextRoot(s), keyOf(nextRoot(s))), keystore.ErrConflict, "one at a time")
	busy := func(_ context.Context, rec keystore.Record) (bool, error) {
		return rec.Ref.Kind == keystore.KindKey, nil
	}
	next := open(t, below, sealed.Options{})
	require.NoError(t, next.Open(t.Context()))
	left, err := next.Reseal(t.Context(), busy, func(int) {})
	require.NoError(t, err)
	require.Equal(t, 1, left, "that somebody works on")
	require.Contains(t, epochs(t, below), uint32(1))
	both := []*sealed.Store{open(t, below, sealed.Options{}), next}
	var group errgroup.Group
	for _, one := range both {
		require.NoError(t, one.Open(t.Context()))
		group.Go(func() error {
			for {
				if left, err := one.Reseal(t.Context(), notBusy, func(int) {}); left == 0 || err != nil {
					return err
				}
			}
		})
	}
	require.NoError(t, group.Wait())
	require.NotContains(t, epochs(t, below), uint32(1))
	require.NoError(t, both[0].End(t.Context()))
	require.ErrorIs(t, both[1].End(t.Context()), keystore.ErrConflict)
	readAll(t, both[1])
}

// Others that write and read all the while see no fault, whatever is done to the seals meanwhile.
func TestOthersGoOnWhileRecordsAreSealedAnew(t *testing.T) {
	s, below := newSealed(t)
	done := make(chan struct{})
	var group errgroup.Group
	for i := range 3 {
		other := open(t, below, sealed.Options{Refused: func(e *sealed.Error) { t.Error(e) }})
		group.Go(func() error {
			counter, version := keystore.Counter{Name: fmt.Sprint("counter", i)}, uint64(0)
			for {
				select {
				case <-done:
					return nil
				default:
				}
				rec, err := other.Get(t.Context(), keystore.CounterRef("", "", counter.Name))
				if err == nil {
					version = rec.Version
				} else if !errors.Is(err, keystore.ErrNotFound) {
					return err
				}
				counter.N++
				if _, err := other.Commit(t.Context(), counter.Put(version)); err != nil && !errors.Is(err, keystore.ErrConflict) {
					return err
				}
				if _, err := other.All(t.Context(), keystore.Ref{}, keystore.MaxPage); err != nil {
					return err
				}
				if _, err := other.ChangedSince(t.Context(), ""); err != nil {
					return err
				}
			}
		})
	}
	for range 10 {
		begin(t, s)
		for left := 1; left > 0; {
			var err error
			left, err = s.Reseal(t.Context(), notBusy, func(int) {})
			require.NoError(t, err)
		}
		require.NoError(t, s.End(t.Context()))
	}
	close(done)
	require.NoError(t, group.Wait())
	for _, epoch := range epochs(t, below) {
		require.EqualValues(t, 11, epoch)
	}
}

// The end of an epoch is believed when the present key has sealed it, and not otherwise.
func TestTheEndOfAnEpochIsForged(t *testing.T) {
	s, below := newSealed(t)
	begin(t, s)
	other := open(t, below, sealed.Options{})
	readAll(t, other)
	rec := mustGet(t, below, keystore.SealsRef())
	root, _ := other.Root()
	root.Previous = nil
	with := rec
	with.Value = root.Put(0).Value
	replace(t, below, rec, with, nil)
	_, err := other.ChangedSince(t.Context(), "")
	require.ErrorIs(t, err, sealed.ErrChanged)
	now, _ := other.Root()
	require.NotNil(t, now.Previous)
}

// Who seals records anew, and was overtaken by who came to the end, writes nothing more.
func TestNothingIsSealedAnewAfterTheEnd(t *testing.T) {
	s, below := newSealed(t)
	begin(t, s)
	slow := open(t, below, sealed.Options{})
	require.NoError(t, slow.Open(t.Context()))
	var before []keystore.Record
	_, err := slow.Reseal(t.Context(), func(context.Context, keystore.Record) (bool, error) {
		if before == nil {
			reseal(t, s)
			require.NoError(t, s.End(t.Context()))
			recs, err := below.All(t.Context(), keystore.Ref{}, keystore.MaxPage)
			require.NoError(t, err)
			before = recs
		}
		return false, nil
	}, func(int) {})
	require.ErrorIs(t, err, sealed.ErrChanged)
	after, err := below.All(t.Context(), keystore.Ref{}, keystore.MaxPage)
	require.NoError(t, err)
	require.Equal(t, before, after)
}
