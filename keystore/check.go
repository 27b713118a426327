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

// CheckRange tells whether Store.Range takes an index and a limit.
func CheckRange(index Index, limit int) error {
	if !index.Unique() {
		return fmt.Errorf("read index %q in order: it is not unique", index)
	}
	return CheckPage(limit)
}

// CheckRecord tells whether this program would have written the record just so, and with just these index entries (in
// any order). It does not look at the seal. For Store.Verify.
func CheckRecord(r Record, entries []Entry) error {
	r.Seal = nil
	want, err := EntriesOf(r)
	if err != nil {
		return err
	}
	if !sameEntries(entries, want) {
		return fmt.Errorf("%s record %s: index entries do not fit", r.Ref.Kind, r.Ref.ID)
	}
	return nil
}

// EntriesOf returns the index entries that a record has by its value. An error when this program would not have written the record so.
func EntriesOf(r Record) ([]Entry, error) {
	switch r.Ref.Kind {
	case KindKey:
		return entriesOf(DecodeKey, r)
	case KindAlias:
		return entriesOf(DecodeAlias, r)
	case KindAccessKey:
		return entriesOf(DecodeAccessKey, r)
	case KindPrincipal:
		return entriesOf(DecodePrincipal, r)
	case KindManagedPolicy:
		return entriesOf(DecodeManagedPolicy, r)
	case KindOIDCProvider:
		return entriesOf(DecodeOIDCProvider, r)
	case KindMember:
		return entriesOf(DecodeMember, r)
	case KindCounter:
		_, err := DecodeCounter(r)
		return nil, err
	case KindGrant:
		return entriesOf(DecodeGrant, r)
	case KindGrantee:
		return entriesOf(DecodeGrantee, r)
	case KindAccount:
		return entriesOf(DecodeAccount, r)
	case KindKeyUse:
		return entriesOf(DecodeKeyUse, r)
	case KindSeals:
		_, err := DecodeSeals(r)
		return nil, err
	case KindRegion:
		_, err := DecodeRegion(r)
		if err == nil && r.Ref != RegionRef(r.Ref.Region) {
			err = fmt.Errorf("region record %q: reference does not fit", r.Ref.ID)
		}
		return nil, err
	}
	return nil, fmt.Errorf("record %q: unknown kind %q", r.Ref.ID, r.Ref.Kind)
}

func entriesOf[T interface{ Put(uint64) Change }](decode func(Record) (T, error), r Record) ([]Entry, error) {
	value, err := decode(r)
	if err != nil {
		return nil, err
	}
	return value.Put(r.Version).Index, nil
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
