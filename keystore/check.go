package keystore

import (
	"errors"
	"fmt"
	"slices"
)

// CheckChanges tells what the contract of Store.Commit forbids about a batch whatever the store holds: too many
// changes, one Ref twice, a value that is too long, an entry without a value. Every Store calls it first, so that all
// refuse alike.
func CheckChanges(changes []Change) error {
	if len(changes) == 0 || len(changes) > MaxChanges {
		return fmt.Errorf("commit %d changes: want 1 to %d", len(changes), MaxChanges)
	}
	seen := make(map[Ref]bool, len(changes))
	for _, c := range changes {
		if seen[c.Ref] {
			return fmt.Errorf("commit: two changes of %s %q", c.Ref.Kind, c.Ref.ID)
		}
		seen[c.Ref] = true
		if err := c.check(); err != nil {
			return fmt.Errorf("commit %s %q: %w", c.Ref.Kind, c.Ref.ID, err)
		}
	}
	return nil
}

// CheckPage tells whether limit is one that Store.List and Store.Lookup take.
func CheckPage(limit int) error {
	if limit < 1 || limit > MaxPage {
		return fmt.Errorf("read a page of %d records: want 1 to %d", limit, MaxPage)
	}
	return nil
}

// CheckRecord tells whether this program would have written the record just so, and with just these index entries (in
// any order). For Store.Verify.
func CheckRecord(r Record, entries []Entry) error {
	var want []Entry
	switch r.Ref.Kind {
	case KindKey:
		key, err := DecodeKey(r)
		if err != nil {
			return err
		}
		want = key.Put(r.Version).Index
	case KindRegion:
		if _, err := DecodeRegion(r); err != nil {
			return err
		}
		if r.Ref != RegionRef(r.Ref.Region) {
			return fmt.Errorf("region record %q: reference does not fit", r.Ref.ID)
		}
	case KindAlias:
		alias, err := DecodeAlias(r)
		if err != nil {
			return err
		}
		want = alias.Put(r.Version).Index
	case KindCounter:
		if _, err := DecodeCounter(r); err != nil {
			return err
		}
	case KindAccessKey:
		key, err := DecodeAccessKey(r)
		if err != nil {
			return err
		}
		want = key.Put(r.Version).Index
	case KindPrincipal:
		principal, err := DecodePrincipal(r)
		if err != nil {
			return err
		}
		want = principal.Put(r.Version).Index
	default:
		return fmt.Errorf("record %q: unknown kind %q", r.Ref.ID, r.Ref.Kind)
	}
	if !sameEntries(entries, want) {
		return fmt.Errorf("%s record %s: index entries do not fit", r.Ref.Kind, r.Ref.ID)
	}
	return nil
}

func sameEntries(a, b []Entry) bool {
	for _, e := range a {
		if !slices.Contains(b, e) {
			return false
		}
	}
	return len(a) == len(b) // no record has two entries of one index
}

func (c Change) check() error {
	switch {
	case c.Ref.Kind == "" || c.Ref.ID == "":
		return errors.New("reference without kind or id")
	case c.Op != Check && c.Op != Put && c.Op != Delete:
		return fmt.Errorf("unknown operation %d", c.Op)
	case c.Op != Put && (len(c.Value) > 0 || len(c.Seal) > 0 || len(c.Index) > 0):
		return errors.New("only a put has a value, a seal or index entries")
	case len(c.Value) > MaxValue || len(c.Seal) > MaxValue:
		return fmt.Errorf("value of %d and seal of %d bytes: want at most %d", len(c.Value), len(c.Seal), MaxValue)
	}
	return checkEntries(c.Index)
}

func checkEntries(entries []Entry) error {
	for i, e := range entries {
		// Lookup takes the empty value as "any", so an entry with it could not be asked for.
		if e.Index == "" || e.Value == "" {
			return errors.New("index entry without name or value")
		}
		for _, other := range entries[:i] {
			if other.Index == e.Index {
				return fmt.Errorf("two entries of index %q", e.Index)
			}
		}
	}
	return nil
}
