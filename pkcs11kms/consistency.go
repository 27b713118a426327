package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
)

// Records that say the same thing twice change in one Commit, so they agree unless somebody edited the store or a program
// had a defect: the counter of an account's keys, the number of aliases in a key's record, the target of an alias. What is
// found here was so at one moment although others change the store meanwhile: each finding is made between two looks at a
// record that every such change would have changed too.

// discrepancy is a finding and the batch that would correct it, if nothing was changed since. Without a batch it is one
// that could not be looked into.
type discrepancy struct {
	area, subject string
	text          string // what is wrong
	remedy        string // what the batch does, in the past tense
	batch         []keystore.Change
}

// countTries bounds how often the keys of an account are counted while others create and delete them.
const countTries = 20

// discrepancies reads all keys and aliases of the store.
func discrepancies(ctx context.Context, store keystore.Store, cfg Config) ([]discrepancy, error) {
	targets, dangling, err := examineAliases(ctx, store)
	if err != nil {
		return nil, err
	}
	type owner struct{ region, account string }
	owners := map[owner]bool{}
	for name := range cfg.Regions {
		owners[owner{name, cfg.AccountID}] = true
	}
	found := dangling
	err = eachRecord(ctx, store, keystore.IndexCKAID, func(rec keystore.Record) error {
		if rec.Ref.Account != "" {
			owners[owner{rec.Ref.Region, rec.Ref.Account}] = true
		}
		wrong, err := examineAliasCount(ctx, store, rec, targets)
		found = append(found, wrong...)
		return err
	})
	if err != nil {
		return nil, err
	}
	for o := range owners {
		wrong, err := examineKeyCount(ctx, store, o.region, o.account)
		if err != nil {
			return nil, err
		}
		found = append(found, wrong...)
	}
	slices.SortStableFunc(found, func(a, b discrepancy) int { return strings.Compare(a.subject, b.subject) })
	return found, nil
}

// eachRecord visits every record of an index.
func eachRecord(ctx context.Context, store keystore.Store, index keystore.Index, visit func(keystore.Record) error) error {
	var after keystore.Ref
	for {
		recs, err := store.Lookup(ctx, index, "", after, keystore.MaxPage)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			after = rec.Ref
			if err := visit(rec); err != nil {
				return err
			}
		}
		if len(recs) < keystore.MaxPage {
			return nil
		}
	}
}

// examineAliases counts the aliases of each key, and finds those that name none.
func examineAliases(ctx context.Context, store keystore.Store) (targets map[keystore.Ref]int, dangling []discrepancy, err error) {
	targets = map[keystore.Ref]int{}
	names := map[keystore.Ref][]keystore.Ref{}
	err = eachRecord(ctx, store, keystore.IndexAliasTarget, func(rec keystore.Record) error {
		alias, err := keystore.DecodeAlias(rec)
		if err != nil {
			return err
		}
		target := keystore.KeyRef(alias.Region, alias.Account, alias.Target)
		targets[target]++
		names[target] = append(names[target], rec.Ref)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for target := range targets {
		_, err := store.Get(ctx, target)
		if err == nil {
			continue
		}
		if !errors.Is(err, keystore.ErrNotFound) {
			return nil, nil, err
		}
		for _, name := range names[target] {
			wrong, err := examineDangling(ctx, store, name, target)
			if err != nil {
				return nil, nil, err
			}
			dangling = append(dangling, wrong...)
		}
	}
	return targets, dangling, nil
}

// examineDangling makes sure that an alias names the key that is missing, and that the key is missing while it does.
func examineDangling(ctx context.Context, store keystore.Store, name, target keystore.Ref) ([]discrepancy, error) {
	rec, err := store.Get(ctx, name)
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	alias, err := keystore.DecodeAlias(rec)
	if err != nil || alias.Target != target.ID {
		return nil, err
	}
	if _, err := store.Get(ctx, target); !errors.Is(err, keystore.ErrNotFound) {
		return nil, err
	}
	if same, err := unchanged(ctx, store, name, rec.Version); err != nil || !same {
		return nil, err
	}
	return []discrepancy{{
		area: "alias", subject: name.ID,
		text:   fmt.Sprintf("names the key %s, which is not in the store", target.ID),
		remedy: fmt.Sprintf("removed the alias %s of the missing key %s", name.ID, target.ID),
		batch: []keystore.Change{{Op: keystore.Delete, Ref: name, Expect: rec.Version},
			{Op: keystore.Check, Ref: target}},
	}}, nil
}

// examineAliasCount compares the number in a key's record with the aliases that name it. The walk's numbers are of several
// moments, so what seems wrong by them is looked at again.
func examineAliasCount(ctx context.Context, store keystore.Store, rec keystore.Record, targets map[keystore.Ref]int) ([]discrepancy, error) {
	record, err := keystore.DecodeKey(rec)
	if err != nil || record.Aliases == targets[rec.Ref] {
		return nil, err
	}
	if rec, err = store.Get(ctx, rec.Ref); err != nil {
		return nil, ignoreNotFound(err)
	}
	if record, err = keystore.DecodeKey(rec); err != nil {
		return nil, err
	}
	value := keystore.TargetValue(record.Region, record.Account, record.ID)
	aliases, err := store.Lookup(ctx, keystore.IndexAliasTarget, value, keystore.Ref{}, keystore.MaxPage)
	if err != nil || record.Aliases == len(aliases) {
		return nil, err
	}
	if same, err := unchanged(ctx, store, rec.Ref, rec.Version); err != nil || !same {
		return nil, err
	}
	was := record.Aliases
	record.Aliases = len(aliases)
	return []discrepancy{{
		area: "key", subject: record.ID,
		text:   fmt.Sprintf("has %d aliases, but its record counts %d", len(aliases), was),
		remedy: fmt.Sprintf("corrected the number of aliases of the key %s from %d to %d", record.ID, was, len(aliases)),
		batch:  []keystore.Change{record.Put(rec.Version)},
	}}, nil
}

// examineKeyCount counts the keys of an account and region.
func examineKeyCount(ctx context.Context, store keystore.Store, region, account string) ([]discrepancy, error) {
	ref := keystore.CounterRef(region, account, keystore.CounterKeys)
	for range countTries {
		counter, version, err := readCounter(ctx, store, region, account)
		if err != nil {
			return nil, err
		}
		n, err := countKeys(ctx, store, region, account)
		if err != nil {
			return nil, err
		}
		same, err := unchanged(ctx, store, ref, version)
		if err != nil {
			return nil, err
		}
		if !same {
			continue
		}
		if counter.N == n {
			return nil, nil
		}
		was := counter.N
		counter.N = n
		return []discrepancy{{
			area: "store", subject: region,
			text:   fmt.Sprintf("account %s has %d keys, but their counter says %d", account, n, was),
			remedy: fmt.Sprintf("corrected the counter of the keys of account %s in %s from %d to %d", account, region, was, n),
			batch:  []keystore.Change{counter.Put(version)},
		}}, nil
	}
	return []discrepancy{{area: "store", subject: region,
		text: fmt.Sprintf("keys of account %s come and go too fast for their counter to be checked", account)}}, nil
}

func readCounter(ctx context.Context, store keystore.Store, region, account string) (keystore.Counter, uint64, error) {
	rec, err := store.Get(ctx, keystore.CounterRef(region, account, keystore.CounterKeys))
	if errors.Is(err, keystore.ErrNotFound) {
		return keystore.Counter{Region: region, Account: account, Name: keystore.CounterKeys}, 0, nil
	}
	if err != nil {
		return keystore.Counter{}, 0, err
	}
	counter, err := keystore.DecodeCounter(rec)
	return counter, rec.Version, err
}

func countKeys(ctx context.Context, store keystore.Store, region, account string) (n int, err error) {
	after := ""
	for {
		recs, err := store.List(ctx, keystore.KindKey, region, account, after, keystore.MaxPage)
		if err != nil {
			return 0, err
		}
		n += len(recs)
		if len(recs) < keystore.MaxPage {
			return n, nil
		}
		after = recs[len(recs)-1].Ref.ID
	}
}

// unchanged tells whether a record has the version still; 0: whether there is still none.
func unchanged(ctx context.Context, store keystore.Store, ref keystore.Ref, version uint64) (bool, error) {
	rec, err := store.Get(ctx, ref)
	if err := ignoreNotFound(err); err != nil {
		return false, err
	}
	return rec.Version == version, nil
}

func ignoreNotFound(err error) error {
	if errors.Is(err, keystore.ErrNotFound) {
		return nil
	}
	return err
}

// examineConsistency reports what Repair would correct.
func (d *doctor) examineConsistency(ctx context.Context) {
	found, err := discrepancies(ctx, d.store, d.cfg)
	if err != nil {
		d.fail("store", "records", err)
		return
	}
	for _, wrong := range found {
		hint := "pkcs11kms doctor --repair"
		if wrong.batch == nil {
			hint = "do it again at a calmer time"
		}
		d.advise(wrong.area, wrong.subject, StatusWarning, wrong.text, hint)
	}
}
