package refcount

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// What is said twice of the grants on a key: how many there are, and what those to one grantee give together. Whoever makes or ends a grant
// changes their counter, so that what was read while it stayed the same is of one moment.

// grantsOf is what the store has of the grants on one key.
type grantsOf struct {
	key     keystore.Ref
	counter keystore.Counter
	version uint64 // of the counter

	void    []keystore.Record // grants that nobody can use: their key or their grantee is no more
	why     string            // of the first of them
	n       int               // how many others
	want    map[keystore.Ref]keystore.Grantee
	grantee map[keystore.Ref]keystore.Record
}

// examineGrants looks at the grants on every key that any are counted on, in the regions and accounts of counts.
func examineGrants(ctx context.Context, store keystore.Store, counts counters) (found []Discrepancy, err error) {
	keys := map[keystore.Ref]bool{}
	err = records.EachIndexed(ctx, store, keystore.IndexGrantKey, func(rec keystore.Record) error {
		grant, err := keystore.DecodeGrant(rec)
		keys[keystore.KeyRef(grant.Region, grant.Account, grant.Key)] = true
		return err
	})
	for ref := range counts {
		for _, kind := range []keystore.Kind{keystore.KindGrantee, keystore.KindCounter} {
			if err != nil {
				return nil, err
			}
			err = records.EachOf(ctx, store, kind, ref.Region, ref.Account, func(rec keystore.Record) error {
				id, of := strings.CutPrefix(rec.Ref.ID, keystore.CounterGrants)
				if kind == keystore.KindGrantee {
					id, _, of = strings.Cut(rec.Ref.ID, "/")
				}
				if of {
					keys[keystore.KeyRef(ref.Region, ref.Account, id)] = true
				}
				return nil
			})
		}
	}
	if err != nil {
		return nil, err
	}
	for _, key := range slices.SortedFunc(maps.Keys(keys), func(a, b keystore.Ref) int { return strings.Compare(a.ID, b.ID) }) {
		wrong, err := examineGrantsOf(ctx, store, key)
		if err != nil {
			return nil, err
		}
		found = append(found, wrong...)
	}
	return found, nil
}

func examineGrantsOf(ctx context.Context, store keystore.Store, key keystore.Ref) ([]Discrepancy, error) {
	for range countTries {
		g := &grantsOf{key: key, want: map[keystore.Ref]keystore.Grantee{}, grantee: map[keystore.Ref]keystore.Record{}}
		var err error
		g.counter, g.version, err = records.ReadCounter(ctx, store, key.Region, key.Account, keystore.CounterGrants+key.ID)
		if err != nil {
			return nil, err
		}
		removed, err := g.read(ctx, store)
		if err != nil || removed {
			return nil, err
		}
		same, err := records.Unchanged(ctx, store, g.counter.Put(0).Ref, g.version)
		if err != nil {
			return nil, err
		}
		if same {
			return g.discrepancies()
		}
	}
	return []Discrepancy{{Area: "key", Subject: key.ID, Text: "its grants come and go too fast to be checked"}}, nil
}

// read reads the grants on the key, and tells whether they are being removed with it.
func (g *grantsOf) read(ctx context.Context, store keystore.Store) (removed bool, err error) {
	var object keystore.HexBytes // nil: there is no key
	rec, err := store.Get(ctx, g.key)
	if err == nil {
		var record keystore.Key
		record, err = keystore.DecodeKey(rec)
		object, removed = record.CKAID, record.State == keystore.Deleting
	}
	if err := records.IgnoreNotFound(err); err != nil || removed {
		return removed, err
	}
	if err := g.readGrants(ctx, store, object); err != nil {
		return false, err
	}
	after, prefix := keystore.GranteePrefix(g.key.ID), keystore.GranteePrefix(g.key.ID)
	for {
		recs, err := store.List(ctx, keystore.KindGrantee, g.key.Region, g.key.Account, after, keystore.MaxPage)
		if err != nil {
			return false, err
		}
		for _, rec := range recs {
			if after = rec.Ref.ID; !strings.HasPrefix(after, prefix) {
				return false, nil
			}
			g.grantee[rec.Ref] = rec
		}
		if len(recs) < keystore.MaxPage {
			return false, nil
		}
	}
}

func (g *grantsOf) readGrants(ctx context.Context, store keystore.Store, object keystore.HexBytes) error {
	there := map[string]bool{} // grantees
	value, after := keystore.TargetValue(g.key.Region, g.key.Account, g.key.ID), keystore.Ref{}
	for {
		recs, err := store.Lookup(ctx, keystore.IndexGrantKey, value, after, keystore.MaxPage)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			after = rec.Ref
			grant, err := keystore.DecodeGrant(rec)
			if err != nil {
				return err
			}
			if _, known := there[grant.Grantee]; !known {
				if there[grant.Grantee], err = principalThere(ctx, store, grant.Grantee); err != nil {
					return err
				}
			}
			g.add(rec, grant, object, there[grant.Grantee])
		}
		if len(recs) < keystore.MaxPage {
			return nil
		}
	}
}

// add counts a grant among those that are void, or among the others.
func (g *grantsOf) add(rec keystore.Record, grant keystore.Grant, object keystore.HexBytes, granteeThere bool) {
	why := ""
	switch {
	case object == nil:
		why = "the key is not in the store"
	case !slices.Equal(object, grant.CKAID):
		why = "the key has another object now"
	case !granteeThere:
		why = "there is no such user or role any more"
	}
	if why != "" {
		g.void = append(g.void, rec)
		g.why = why
		return
	}
	g.n++
	if grant.SourceARN != "" {
		return
	}
	ref := keystore.GranteeRef(grant.Region, grant.Account, grant.Key, grant.Grantee)
	want, ok := g.want[ref]
	if !ok {
		want = keystore.Grantee{Region: grant.Region, Account: grant.Account, Key: grant.Key, Principal: grant.Grantee, CKAID: grant.CKAID}
	}
	want.Add(grant.Operations, 1)
	g.want[ref] = want
}

// principalThere tells whether there is a user or role; accounts count as there.
func principalThere(ctx context.Context, store keystore.Store, owner string) (bool, error) {
	account, id, _ := strings.Cut(owner, "/")
	if id == account {
		return true, nil
	}
	_, err := store.Get(ctx, keystore.RightsRef(account, id))
	if errors.Is(err, keystore.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// voidBatch is how many void grants go in one batch.
const voidBatch = keystore.MaxChanges - 1

// discrepancies are the findings. Each batch is bound to the counter, which is corrected last.
func (g *grantsOf) discrepancies() (found []Discrepancy, err error) {
	bound := keystore.Change{Op: keystore.Check, Ref: g.counter.Put(0).Ref, Expect: g.version}
	for void := range slices.Chunk(g.void, voidBatch) {
		batch := []keystore.Change{bound}
		for _, rec := range void {
			batch = append(batch, keystore.Change{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version})
		}
		found = append(found, Discrepancy{Area: "key", Subject: g.key.ID,
			Text:   fmt.Sprintf("has %d grants that nobody can use, such as %s: %s", len(void), void[0].Ref.ID, g.why),
			Remedy: fmt.Sprintf("removed %d grants on the key %s that nobody could use", len(void), g.key.ID),
			Batch:  batch})
	}
	wrong, err := g.wrongGrantees(bound)
	if err != nil {
		return nil, err
	}
	found = append(found, wrong...)
	if g.counter.N != g.n {
		was := g.counter.N
		g.counter.N = g.n
		found = append(found, Discrepancy{Area: "key", Subject: g.key.ID,
			Text:   fmt.Sprintf("has %d grants that can be used, but their counter says %d", g.n, was),
			Remedy: fmt.Sprintf("corrected the number of grants on the key %s from %d to %d", g.key.ID, was, g.n),
			Batch:  []keystore.Change{g.corrected()}})
	}
	return found, nil
}

// corrected is the change of the counter, which is not there for no grants.
func (g *grantsOf) corrected() keystore.Change {
	if g.n == 0 {
		return keystore.Change{Op: keystore.Delete, Ref: g.counter.Put(0).Ref, Expect: g.version}
	}
	return g.counter.Put(g.version)
}

func (g *grantsOf) wrongGrantees(bound keystore.Change) (found []Discrepancy, err error) {
	wrong := func(ref keystore.Ref, change keystore.Change) {
		_, who, _ := strings.Cut(ref.ID, "/")
		found = append(found, Discrepancy{Area: "key", Subject: g.key.ID,
			Text:   fmt.Sprintf("its grants to %s give something else than the record of them says", who),
			Remedy: fmt.Sprintf("corrected what the grants on the key %s give to %s", g.key.ID, who),
			Batch:  []keystore.Change{bound, change}})
	}
	for ref, rec := range g.grantee {
		want, ok := g.want[ref]
		if !ok {
			wrong(ref, keystore.Change{Op: keystore.Delete, Ref: ref, Expect: rec.Version})
			continue
		}
		have, err := keystore.DecodeGrantee(rec)
		if err != nil {
			return nil, err
		}
		if !reflect.DeepEqual(have, want) {
			wrong(ref, want.Put(rec.Version))
		}
	}
	for ref, want := range g.want {
		if _, ok := g.grantee[ref]; !ok {
			wrong(ref, want.Put(0))
		}
	}
	return found, nil
}
