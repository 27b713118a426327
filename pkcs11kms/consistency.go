package pkcs11kms

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// Records that say the same thing twice change in one Commit, so they agree unless somebody edited the store or a program
// had a defect: the counters of an account's keys, users and roles, and whatever names another record that counts those that
// name it (see relation). What is found here was so at one moment although others change the store meanwhile: each finding is made between two looks at a
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

// discrepancies reads all keys, principals, and what names them.
func discrepancies(ctx context.Context, store keystore.Store, cfg Config) ([]discrepancy, error) {
	counts := counted{}
	for name := range cfg.Regions {
		counts.add(name, cfg.AccountID, keystore.CounterKeys)
	}
	counts.add("", cfg.AccountID, keystore.CounterUsers, keystore.CounterRoles)
	held, err := holdings(ctx, store) // also what the configuration does not name
	if err != nil {
		return nil, err
	}
	for _, h := range held {
		switch {
		case h.region == "":
			counts.add("", h.account, keystore.CounterUsers, keystore.CounterRoles)
		case h.account != "":
			counts.add(h.region, h.account, keystore.CounterKeys)
		}
	}
	var found []discrepancy
	for _, r := range []relation{aliasesOfKeys, accessKeysOfPrincipals} {
		wrong, err := r.examine(ctx, store, counts)
		if err != nil {
			return nil, err
		}
		found = append(found, wrong...)
	}
	for ref := range counts {
		wrong, err := examineCount(ctx, store, ref)
		if err != nil {
			return nil, err
		}
		found = append(found, wrong...)
	}
	slices.SortStableFunc(found, func(a, b discrepancy) int { return strings.Compare(a.subject, b.subject) })
	return found, nil
}

// counted are the counters to look at.
type counted map[keystore.Ref]bool

func (c counted) add(region, account string, names ...string) {
	for _, name := range names {
		c[keystore.CounterRef(region, account, name)] = true
	}
}

// examineCount counts what a counter counts.
func examineCount(ctx context.Context, store keystore.Store, ref keystore.Ref) ([]discrepancy, error) {
	where := ref.Region
	if where == "" {
		where = ref.Account
	}
	for range countTries {
		counter, version, err := records.ReadCounter(ctx, store, ref.Region, ref.Account, ref.ID)
		if err != nil {
			return nil, err
		}
		n, err := count(ctx, store, ref)
		if err != nil {
			return nil, err
		}
		same, err := records.Unchanged(ctx, store, ref, version)
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
		remedy := fmt.Sprintf("corrected the counter of the %s of account %s from %d to %d", ref.ID, ref.Account, was, n)
		if ref.Region != "" {
			remedy = fmt.Sprintf("corrected the counter of the %s of account %s in %s from %d to %d", ref.ID, ref.Account, ref.Region, was, n)
		}
		return []discrepancy{{
			area: "store", subject: where,
			text:   fmt.Sprintf("account %s has %d %s, but their counter says %d", ref.Account, n, ref.ID, was),
			remedy: remedy,
			batch:  []keystore.Change{counter.Put(version)},
		}}, nil
	}
	return []discrepancy{{area: "store", subject: where,
		text: fmt.Sprintf("%s of account %s come and go too fast for their counter to be checked", ref.ID, ref.Account)}}, nil
}

// count counts the records that the counter of that name is for.
func count(ctx context.Context, store keystore.Store, counter keystore.Ref) (n int, err error) {
	if counter.ID == keystore.CounterKeys {
		err = records.EachOf(ctx, store, keystore.KindKey, counter.Region, counter.Account, func(keystore.Record) error {
			n++
			return nil
		})
		return n, err
	}
	err = records.EachOf(ctx, store, keystore.KindPrincipal, counter.Region, counter.Account, func(rec keystore.Record) error {
		record, err := keystore.DecodePrincipal(rec)
		if err == nil && kindOf(record.Type).counter == counter.ID {
			n++
		}
		return err
	})
	return n, err
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
