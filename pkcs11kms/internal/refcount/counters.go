// Package refcount compares what the records of a store say twice.
//
// Such records change in one Commit, so they agree unless somebody edited the store or a program had a defect: the counters of an
// account's keys, users, roles, groups and managed policies, whatever names another record that counts those that name it (see type
// refcount), grants, and who has managed policies and is in groups. What is found here was so at one moment although others change the
// store meanwhile: each finding is made between two looks at a record that every such change would have changed too.
package refcount

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// Discrepancy is a finding and the batch that would correct it, if nothing was changed since. Without a batch it is one
// that could not be looked into.
type Discrepancy struct {
	Area, Subject string
	Text          string // what is wrong
	Remedy        string // what the batch does, in the past tense
	Batch         []keystore.Change
}

// identityCounters are those of an account's users, roles, groups, managed policies and OIDC providers.
var identityCounters = []string{keystore.CounterUsers, keystore.CounterRoles, keystore.CounterGroups, keystore.CounterPolicies,
	keystore.CounterProviders}

// countTries bounds how often the keys of an account are counters while others create and delete them.
const countTries = 20

// Find reads all keys, principals, and what names them. The counters of the accounts in the regions are looked at even where the
// store has nothing that they count. account is the one that the configuration names.
func Find(ctx context.Context, store keystore.Store, account string, regions []string) ([]Discrepancy, error) {
	counts := counters{}
	accounts, err := records.Accounts(ctx, store, account)
	if err != nil {
		return nil, err
	}
	for _, a := range accounts {
		for _, name := range regions {
			counts.add(name, a.ID, keystore.CounterKeys)
		}
		counts.add("", a.ID, identityCounters...)
	}
	counts.add("", "", keystore.CounterAccounts)
	held, err := keyring.Holdings(ctx, store) // also what the configuration does not name
	if err != nil {
		return nil, err
	}
	for _, h := range held {
		switch {
		case h.Region == "":
			counts.add("", h.Account, identityCounters...)
		case h.Account != "":
			counts.add(h.Region, h.Account, keystore.CounterKeys)
		}
	}
	var found []Discrepancy
	for _, r := range []refcount{aliasesOfKeys, accessKeysOfPrincipals} {
		wrong, err := r.examine(ctx, store, counts)
		if err != nil {
			return nil, err
		}
		found = append(found, wrong...)
	}
	wrong, err := examineGrants(ctx, store, counts)
	if err != nil {
		return nil, err
	}
	found = append(found, wrong...)
	if wrong, err = examineMembers(ctx, store, counts); err != nil {
		return nil, err
	}
	found = append(found, wrong...)
	for ref := range counts {
		wrong, err := examineCounter(ctx, store, ref)
		if err != nil {
			return nil, err
		}
		found = append(found, wrong...)
	}
	slices.SortStableFunc(found, func(a, b Discrepancy) int { return strings.Compare(a.Subject, b.Subject) })
	return found, nil
}

// counters are the counters to look at.
type counters map[keystore.Ref]bool

func (c counters) add(region, account string, names ...string) {
	for _, name := range names {
		c[keystore.CounterRef(region, account, name)] = true
	}
}

// examineCounter counts what a counter counts.
func examineCounter(ctx context.Context, store keystore.Store, ref keystore.Ref) ([]Discrepancy, error) {
	where := ref.Region
	if where == "" {
		where = cmp.Or(ref.Account, ref.ID)
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
		return []Discrepancy{{
			Area: "store", Subject: where,
			Text:   fmt.Sprintf("%s has %d %s, but their counter says %d", ownerOf(ref), n, ref.ID, was),
			Remedy: fmt.Sprintf("corrected the counter of the %s from %d to %d", counted(ref), was, n),
			Batch:  []keystore.Change{counter.Put(version)},
		}}, nil
	}
	return []Discrepancy{{Area: "store", Subject: where,
		Text: fmt.Sprintf("%s of %s come and go too fast for their counter to be checked", ref.ID, ownerOf(ref))}}, nil
}

// ownerOf names what has that which a counter counts.
func ownerOf(counter keystore.Ref) string {
	if counter.Account == "" {
		return "the store"
	}
	return "account " + counter.Account
}

// counted names what a counter counts.
func counted(counter keystore.Ref) string {
	text := counter.ID + " of " + ownerOf(counter)
	if counter.Region != "" {
		text += " in " + counter.Region
	}
	return text
}

// count counts the records that the counter of that name is for.
func count(ctx context.Context, store keystore.Store, counter keystore.Ref) (n int, err error) {
	every := map[string]keystore.Kind{keystore.CounterKeys: keystore.KindKey, keystore.CounterAccounts: keystore.KindAccount,
		keystore.CounterPolicies: keystore.KindManagedPolicy, keystore.CounterProviders: keystore.KindOIDCProvider}
	if kind, ok := every[counter.ID]; ok {
		err = records.EachOf(ctx, store, kind, counter.Region, counter.Account, func(keystore.Record) error {
			n++
			return nil
		})
		return n, err
	}
	err = records.EachOf(ctx, store, keystore.KindPrincipal, counter.Region, counter.Account, func(rec keystore.Record) error {
		record, err := keystore.DecodePrincipal(rec)
		if err == nil && record.Type.Counter() == counter.ID {
			n++
		}
		return err
	})
	return n, err
}
