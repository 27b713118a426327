package refcount

import (
	"context"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// refcount is a kind of record that names another, which counts those that name it: both change in one Commit.
type refcount struct {
	index   keystore.Index // of the records that name
	targets keystore.Index // of the records that are named
	// named returns what a record names. The zero Ref: nothing that counts.
	named func(keystore.Record) (keystore.Ref, error)
	// dangling is the finding about a record that names what is missing.
	dangling func(rec keystore.Record, target keystore.Ref) (Discrepancy, error)
	// count reads what a record counts.
	count func(keystore.Record) (stated, error)
}

// stated is what a record says about those that name it.
type stated struct {
	n       int
	value   string // of refcount.index, for those that name it
	area    string
	subject string
	what    string                      // is counted, in the plural
	correct func(n int) keystore.Change // the record with another number
	counter func(counters)              // adds the counters that count the record itself
}

var aliasesOfKeys = refcount{
	index:   keystore.IndexAliasTarget,
	targets: keystore.IndexCKAID,
	named: func(rec keystore.Record) (keystore.Ref, error) {
		alias, err := keystore.DecodeAlias(rec)
		return keystore.KeyRef(alias.Region, alias.Account, alias.Target), err
	},
	dangling: func(rec keystore.Record, target keystore.Ref) (Discrepancy, error) {
		return Discrepancy{
			Area: "alias", Subject: rec.Ref.ID,
			Text:   fmt.Sprintf("names the key %s, which is not in the store", target.ID),
			Remedy: fmt.Sprintf("removed the alias %s of the missing key %s", rec.Ref.ID, target.ID),
			Batch:  []keystore.Change{{Op: keystore.Delete, Ref: rec.Ref, Expect: rec.Version}},
		}, nil
	},
	count: func(rec keystore.Record) (stated, error) {
		record, err := keystore.DecodeKey(rec)
		return stated{
			n: record.Aliases, value: keystore.TargetValue(record.Region, record.Account, record.ID),
			area: "key", subject: record.ID, what: "aliases",
			correct: func(n int) keystore.Change {
				record.Aliases = n
				return record.Put(rec.Version)
			},
			counter: func(c counters) {
				if record.Account != "" { // a service key
					c.add(record.Region, record.Account, keystore.CounterKeys)
				}
			},
		}, err
	},
}

var accessKeysOfPrincipals = refcount{
	index:   keystore.IndexAccessKeyOwner,
	targets: keystore.IndexPrincipalName,
	named: func(rec keystore.Record) (keystore.Ref, error) {
		key, err := keystore.DecodeAccessKey(rec)
		if err != nil || key.Owner == key.Account || key.Status == keystore.AccessKeyDeleted { // the root has no record
			return keystore.Ref{}, err
		}
		return keystore.PrincipalRef(key.Account, key.Owner), nil
	},
	dangling: func(rec keystore.Record, target keystore.Ref) (Discrepancy, error) {
		key, err := keystore.DecodeAccessKey(rec)
		key.Status = keystore.AccessKeyDeleted
		return Discrepancy{
			Area: "access key", Subject: key.ID,
			Text:   fmt.Sprintf("belongs to the principal %s, which is not in the store", target.ID),
			Remedy: fmt.Sprintf("ended the access key %s of the missing principal %s", key.ID, target.ID),
			Batch:  []keystore.Change{key.Put(rec.Version)},
		}, err
	},
	count: func(rec keystore.Record) (stated, error) {
		record, err := keystore.DecodePrincipal(rec)
		return stated{
			n: record.AccessKeys, value: keystore.OwnerValue(record.Account, record.ID),
			area: string(record.Type), subject: record.Name, what: "access keys",
			correct: func(n int) keystore.Change {
				record.AccessKeys = n
				return record.Put(rec.Version)
			},
			counter: func(c counters) { c.add("", record.Account, record.Type.Counter()) },
		}, err
	},
}

// examine compares every record's number with the records that name it, and finds those that name what is missing. It adds
// the counters that it came across.
func (r refcount) examine(ctx context.Context, store keystore.Store, counts counters) ([]Discrepancy, error) {
	names := map[keystore.Ref][]keystore.Ref{}
	err := records.EachIndexed(ctx, store, r.index, func(rec keystore.Record) error {
		target, err := r.named(rec)
		if err == nil && target != (keystore.Ref{}) {
			names[target] = append(names[target], rec.Ref)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	found, err := r.examineTargets(ctx, store, names)
	if err != nil {
		return nil, err
	}
	err = records.EachIndexed(ctx, store, r.targets, func(rec keystore.Record) error {
		has, err := r.count(rec)
		if err != nil {
			return err
		}
		has.counter(counts)
		if has.n == len(names[rec.Ref]) {
			return nil
		}
		wrong, err := r.examineCount(ctx, store, rec.Ref)
		found = append(found, wrong...)
		return err
	})
	return found, err
}

// examineTargets looks for what is named.
func (r refcount) examineTargets(ctx context.Context, store keystore.Store, names map[keystore.Ref][]keystore.Ref) (
	found []Discrepancy, err error) {
	for target := range names {
		_, err := store.Get(ctx, target)
		if err == nil {
			continue
		}
		if !errors.Is(err, keystore.ErrNotFound) {
			return nil, err
		}
		for _, name := range names[target] {
			wrong, err := r.examineDangling(ctx, store, name, target)
			if err != nil {
				return nil, err
			}
			found = append(found, wrong...)
		}
	}
	return found, nil
}

// examineDangling makes sure that a record names what is missing, and that this is missing while it does.
func (r refcount) examineDangling(ctx context.Context, store keystore.Store, name, target keystore.Ref) ([]Discrepancy, error) {
	rec, err := store.Get(ctx, name)
	if err != nil {
		return nil, records.IgnoreNotFound(err)
	}
	now, err := r.named(rec)
	if err != nil || now != target {
		return nil, err
	}
	if _, err := store.Get(ctx, target); !errors.Is(err, keystore.ErrNotFound) {
		return nil, err
	}
	if same, err := records.Unchanged(ctx, store, name, rec.Version); err != nil || !same {
		return nil, err
	}
	wrong, err := r.dangling(rec, target)
	wrong.Batch = append(wrong.Batch, keystore.Change{Op: keystore.Check, Ref: target})
	return []Discrepancy{wrong}, err
}

// examineCount compares the number in a record with those that name it. The numbers of a walk are of several moments, so
// what seems wrong by them is looked at again here.
func (r refcount) examineCount(ctx context.Context, store keystore.Store, ref keystore.Ref) ([]Discrepancy, error) {
	rec, err := store.Get(ctx, ref)
	if err != nil {
		return nil, records.IgnoreNotFound(err)
	}
	has, err := r.count(rec)
	if err != nil {
		return nil, err
	}
	naming, err := store.Lookup(ctx, r.index, has.value, keystore.Ref{}, keystore.MaxPage)
	if err != nil || has.n == len(naming) {
		return nil, err
	}
	if same, err := records.Unchanged(ctx, store, ref, rec.Version); err != nil || !same {
		return nil, err
	}
	return []Discrepancy{{
		Area: has.area, Subject: has.subject,
		Text:   fmt.Sprintf("has %d %s, but its record counts %d", len(naming), has.what, has.n),
		Remedy: fmt.Sprintf("corrected the number of %s of the %s %s from %d to %d", has.what, has.area, has.subject, has.n, len(naming)),
		Batch:  []keystore.Change{has.correct(len(naming))},
	}}, nil
}
