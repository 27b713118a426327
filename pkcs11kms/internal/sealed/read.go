package sealed

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
)

// check returns a record without its seal, if that is right.
func (s *Store) check(ctx context.Context, rec keystore.Record) (keystore.Record, error) {
	if s.trusted.Load() {
		rec.Seal = nil
		return rec, nil
	}
	right, err := s.checkNow(ctx, rec)
	if errors.Is(err, errSealed) || errors.Is(err, errEpoch) {
		// Is there something new about the seals, or was there since the record was read?
		if _, lookErr := s.LookAgain(ctx); lookErr == nil {
			if rec, err = s.Store.Get(ctx, rec.Ref); err != nil {
				return keystore.Record{}, err
			}
			right, err = s.checkNow(ctx, rec)
		}
	}
	switch {
	case errors.Is(err, errRecord):
		return keystore.Record{}, s.refuse(rec, err)
	case err != nil:
		return keystore.Record{}, err
	}
	right.Seal = nil
	return right, nil
}

// checkNow checks a record by what is known of the seals.
func (s *Store) checkNow(ctx context.Context, rec keystore.Record) (keystore.Record, error) {
	if s.state.Load().version == 0 {
		if len(rec.Seal) > 0 {
			return rec, errSealed
		}
		return rec, nil
	}
	if rec.Ref.Kind != keystore.KindRegion {
		if err := s.Open(ctx); err != nil {
			return rec, err
		}
	}
	now := s.state.Load()
	if now.seals == nil { // a region's, see Store
		return rec, nil
	}
	err := s.checkBy(now, rec)
	if errors.Is(err, errOlder) || errors.Is(err, errUnsealed) {
		return s.checkAgain(ctx, now, rec, err)
	}
	return rec, err
}

func (s *Store) checkBy(by *state, rec keystore.Record) error {
	revision, err := by.check(rec)
	if err == nil && !s.see(rec.Ref, revision) {
		err = errOlder
	}
	return err
}

// checkAgain looks whether a record is really of before: somebody may have written it, or sealed it, and others have read that, since this
// call read it. What was seen before it is read again is there now, or later.
func (s *Store) checkAgain(ctx context.Context, by *state, rec keystore.Record, why error) (keystore.Record, error) {
	seen := s.lastSeen(rec.Ref)
	now, err := s.Store.Get(ctx, rec.Ref)
	switch {
	case errors.Is(err, keystore.ErrNotFound) && errors.Is(why, errOlder):
		return rec, nil // it was deleted meanwhile
	case errors.Is(err, keystore.ErrNotFound):
		return rec, why
	case err != nil:
		return rec, err
	}
	revision, err := by.check(now)
	if err == nil && revision < seen {
		err = errOlder
	}
	if err == nil {
		s.see(now.Ref, revision)
	}
	return now, err
}

// lastSeen is the revision of a record that was seen last; 0 if it is not known.
func (s *Store) lastSeen(ref keystore.Ref) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, _ := s.seen.Get(maphash.Comparable(s.seed, ref))
	return last
}

// see remembers the revision of a record; false when a later one was seen.
func (s *Store) see(ref keystore.Ref, revision uint64) bool {
	place := maphash.Comparable(s.seed, ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.seen.Get(place); ok && last > revision {
		return false
	}
	s.seen.Add(place, revision)
	return true
}

func (s *Store) refuse(rec keystore.Record, why error) error {
	refused := &Error{Ref: rec.Ref, why: why}
	what := maphash.Comparable(s.seed, [3]string{fmt.Sprint(rec.Ref), string(rec.Value), why.Error()})
	s.mu.Lock()
	_, known := s.told.Get(what)
	s.told.Add(what, struct{}{})
	s.mu.Unlock()
	if !known && s.o.Refused != nil {
		s.o.Refused(refused)
	}
	return refused
}

func (s *Store) checkAll(ctx context.Context, recs []keystore.Record, err error) ([]keystore.Record, error) {
	if err != nil {
		return nil, err
	}
	for i := range recs {
		if recs[i], err = s.check(ctx, recs[i]); err != nil {
			return nil, err
		}
	}
	return recs, nil
}

// Get implements keystore.Store. The error is an *Error where the record is not what was written there.
func (s *Store) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	rec, err := s.Store.Get(ctx, ref)
	if err != nil {
		return keystore.Record{}, err
	}
	return s.check(ctx, rec)
}

// List implements keystore.Store. One record that is refused refuses the page: what is missing must not pass for what there is not.
func (s *Store) List(ctx context.Context, kind keystore.Kind, region, account, after string, limit int) ([]keystore.Record, error) {
	recs, err := s.Store.List(ctx, kind, region, account, after, limit)
	return s.checkAll(ctx, recs, err)
}

// All implements keystore.Store, as List.
func (s *Store) All(ctx context.Context, after keystore.Ref, limit int) ([]keystore.Record, error) {
	recs, err := s.Store.All(ctx, after, limit)
	return s.checkAll(ctx, recs, err)
}

// Lookup implements keystore.Store, as List. A seal does not cover index entries, which follow from the value: what an entry found must
// have it.
func (s *Store) Lookup(ctx context.Context, index keystore.Index, value string, after keystore.Ref, limit int) ([]keystore.Record, error) {
	found, err := s.Store.Lookup(ctx, index, value, after, limit)
	return s.checkFound(ctx, found, err, index, func(has string) bool { return value == "" || has == value })
}

// Range implements keystore.Store, as Lookup.
func (s *Store) Range(ctx context.Context, index keystore.Index, prefix, after string, limit int) ([]keystore.Record, error) {
	found, err := s.Store.Range(ctx, index, prefix, after, limit)
	return s.checkFound(ctx, found, err, index, func(has string) bool { return strings.HasPrefix(has, prefix) && has > after })
}

// checkFound checks what an index has found: each has a value there that fits.
func (s *Store) checkFound(ctx context.Context, found []keystore.Record, err error, index keystore.Index,
	fits func(value string) bool) ([]keystore.Record, error) {
	recs, err := s.checkAll(ctx, slices.Clone(found), err)
	if err != nil || s.state.Load().seals == nil {
		return recs, err
	}
	for _, rec := range found { // as it was when the entry was: check may have read it again
		rec.Seal = nil
		entries, err := keystore.EntriesOf(rec)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(entries, func(e keystore.Entry) bool { return e.Index == index && fits(e.Value) }) {
			return nil, s.refuse(rec, errEntry)
		}
	}
	return recs, nil
}
