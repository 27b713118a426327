package refcount

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// Who has a managed policy attached, or is in a group, is said three times: by the record of the user, role or group, which decides; by a
// record that lists it; and by a counter, which every such change changes. So what was read while the counter stayed the same is of one
// moment.

// membersOf is what the store has of those who have one policy or are in one group.
type membersOf struct {
	counter keystore.Counter
	version uint64
	want    map[keystore.Ref]bool            // the records that there should be
	have    map[keystore.Ref]keystore.Record // those that there are
}

// examineMembers compares all three, for the accounts of counts.
func examineMembers(ctx context.Context, store keystore.Store, counts counters) (found []Discrepancy, err error) {
	targets, naming, err := memberTargets(ctx, store, counts)
	if err != nil {
		return nil, err
	}
	for _, target := range slices.SortedFunc(maps.Keys(targets), func(a, b keystore.Ref) int { return strings.Compare(a.ID, b.ID) }) {
		wrong, err := examineMembersOf(ctx, store, target, naming[target])
		if err != nil {
			return nil, err
		}
		found = append(found, wrong...)
	}
	return found, nil
}

// memberTargets returns the counters of whatever has members by any of the three, and who says so in its own record.
func memberTargets(ctx context.Context, store keystore.Store, counts counters) (
	targets map[keystore.Ref]bool, naming map[keystore.Ref][]keystore.Ref, err error) {
	targets, naming = map[keystore.Ref]bool{}, map[keystore.Ref][]keystore.Ref{}
	target := func(account, id string) keystore.Ref {
		ref := keystore.CounterRef("", account, keystore.CounterMembers+id)
		targets[ref] = true
		return ref
	}
	err = records.EachIndexed(ctx, store, keystore.IndexPrincipalName, func(rec keystore.Record) error {
		p, err := keystore.DecodePrincipal(rec)
		for _, a := range slices.Concat(p.Attached, p.Groups) {
			of := target(p.Account, a.ID)
			naming[of] = append(naming[of], p.Ref())
		}
		return err
	})
	for ref := range counts {
		if ref.Region != "" || err != nil {
			continue
		}
		err = records.EachOf(ctx, store, keystore.KindMember, "", ref.Account, func(rec keystore.Record) error {
			m, err := keystore.DecodeMember(rec)
			target(m.Account, m.Of)
			return err
		})
		if err == nil {
			err = records.EachOf(ctx, store, keystore.KindCounter, "", ref.Account, func(rec keystore.Record) error {
				if id, ok := strings.CutPrefix(rec.Ref.ID, keystore.CounterMembers); ok {
					target(ref.Account, id)
				}
				return nil
			})
		}
	}
	return targets, naming, err
}

func examineMembersOf(ctx context.Context, store keystore.Store, target keystore.Ref, naming []keystore.Ref) ([]Discrepancy, error) {
	id := strings.TrimPrefix(target.ID, keystore.CounterMembers)
	for range countTries {
		m := membersOf{want: map[keystore.Ref]bool{}, have: map[keystore.Ref]keystore.Record{}}
		var err error
		if m.counter, m.version, err = records.ReadCounter(ctx, store, "", target.Account, target.ID); err != nil {
			return nil, err
		}
		if err := m.read(ctx, store, target.Account, id, naming); err != nil {
			return nil, err
		}
		same, err := records.Unchanged(ctx, store, target, m.version)
		if err != nil {
			return nil, err
		}
		if same {
			return m.discrepancies(id), nil
		}
	}
	return []Discrepancy{{Area: "store", Subject: id, Text: "who has it comes and goes too fast to be checked"}}, nil
}

// read reads the records that list who has what id names, and the records of those, and of those who seemed to have it before.
func (m *membersOf) read(ctx context.Context, store keystore.Store, account, id string, naming []keystore.Ref) error {
	asked := slices.Clone(naming)
	after, prefix := id+"/", id+"/"
	for more := true; more; {
		recs, err := store.List(ctx, keystore.KindMember, "", account, after, keystore.MaxPage)
		if err != nil {
			return err
		}
		more = len(recs) == keystore.MaxPage
		for _, rec := range recs {
			if after = rec.Ref.ID; !strings.HasPrefix(after, prefix) {
				more = false
				break
			}
			m.have[rec.Ref] = rec
			asked = append(asked, keystore.PrincipalRef(account, strings.TrimPrefix(after, prefix)))
		}
	}
	for _, ref := range asked {
		rec, err := store.Get(ctx, ref)
		if err := records.IgnoreNotFound(err); err != nil {
			return err
		}
		if rec.Version == 0 {
			continue
		}
		p, err := keystore.DecodePrincipal(rec)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(slices.Concat(p.Attached, p.Groups), func(a keystore.Attached) bool { return a.ID == id }) {
			m.want[keystore.Member{Account: account, Of: id, ID: p.ID}.Ref()] = true
		}
	}
	return nil
}

// discrepancies is one finding with one batch; what does not fit in it, the next examination finds.
func (m *membersOf) discrepancies(id string) []Discrepancy {
	var batch []keystore.Change
	for ref, rec := range m.have {
		if !m.want[ref] {
			batch = append(batch, keystore.Change{Op: keystore.Delete, Ref: ref, Expect: rec.Version})
		}
	}
	for ref := range m.want {
		if _, ok := m.have[ref]; !ok {
			_, who, _ := strings.Cut(ref.ID, "/")
			batch = append(batch, keystore.Member{Account: ref.Account, Of: id, ID: who}.Put(0))
		}
	}
	if len(batch) == 0 && m.counter.N == len(m.want) {
		return nil
	}
	text := fmt.Sprintf("%d users, roles and groups have it, and its counter says %d", len(m.want), m.counter.N)
	if len(batch) > 0 {
		text += fmt.Sprintf("; %d records that list them are wrong", len(batch))
	}
	m.counter.N = len(m.want)
	batch = append(batch[:min(len(batch), voidBatch)], m.counter.Put(m.version))
	return []Discrepancy{{Area: "store", Subject: id, Text: text, Remedy: "corrected who has " + id, Batch: batch}}
}
