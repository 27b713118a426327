package pkcs11kms

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
)

// A key's record carries the name of its region and the number of its account. Whoever edits those in the configuration would see no
// key at all, and no error; so what the store holds is compared with the configuration before any token is touched.

// holding is an account and a region of which the store has keys. Service keys are of no account; users and roles, and access keys,
// are of no region.
type holding struct{ account, region string }

func (h holding) String() string {
	switch {
	case h.region == "":
		return "users or access keys of the account " + h.account
	case h.account == "":
		return "service keys in " + h.region
	}
	return "keys of the account " + h.account + " in " + h.region
}

// lastID is behind every id that this program makes.
const lastID = "\U0010FFFF"

// holdings returns what the store holds, in order. The cost is that of one read for each answer, however many keys there are.
func holdings(ctx context.Context, store keystore.Store) (held []holding, err error) {
	for _, index := range []keystore.Index{keystore.IndexCKAID, keystore.IndexPrincipalName} {
		var after keystore.Ref
		for {
			recs, err := store.Lookup(ctx, index, "", after, 1)
			if err != nil {
				return nil, err
			}
			if len(recs) == 0 {
				break
			}
			after = recs[0].Ref
			after.ID = lastID
			held = append(held, holding{after.Account, after.Region})
		}
	}
	// Access keys have no account in their names. All are of one, unless somebody has changed the configuration of a store in which
	// nothing else tells the account, so the first one speaks for the others.
	recs, err := store.Lookup(ctx, keystore.IndexAccessKeyOwner, "", keystore.Ref{}, 1)
	if err != nil || len(recs) == 0 {
		return held, err
	}
	first, err := keystore.DecodeAccessKey(recs[0])
	if err != nil {
		return nil, err
	}
	if of := (holding{account: first.Account}); !slices.Contains(held, of) {
		held = append(held, of)
	}
	return held, nil
}

// unnamed returns what the store holds and the configuration does not name; regions that were retired may be missing there.
func unnamed(ctx context.Context, store keystore.Store, cfg Config) (strange []holding, err error) {
	held, err := holdings(ctx, store)
	if err != nil {
		return nil, err
	}
	for _, h := range held {
		ok := h.account == "" || h.account == cfg.AccountID
		if _, configured := cfg.Regions[h.region]; ok && h.region != "" && !configured {
			bound, err := boundTo(ctx, store, h.region)
			if err != nil {
				return nil, err
			}
			ok = bound.Retired != nil
		}
		if !ok {
			strange = append(strange, h)
		}
	}
	return strange, nil
}

// checkHoldings refuses a configuration by which keys, users or access keys would not be seen.
func checkHoldings(ctx context.Context, store keystore.Store, cfg Config) error {
	strange, err := unnamed(ctx, store, cfg)
	if err != nil || len(strange) == 0 {
		return err
	}
	lines := []string{"put account and regions back as they were: in a state directory they stand in config.yaml"}
	var texts []string
	gone := map[string]bool{}
	for _, h := range strange {
		texts = append(texts, h.String())
		if _, configured := cfg.Regions[h.region]; h.region != "" && !configured && !gone[h.region] {
			gone[h.region] = true
			lines = append(lines, "if the HSM of "+h.region+" is gone for good: pkcs11kms doctor --retire-region "+h.region)
		}
	}
	return &SetupError{
		Problem: fmt.Sprintf("the store holds %s, and the configuration names the account %s with %s", strings.Join(texts, ", "), cfg.AccountID,
			strings.Join(slices.Sorted(maps.Keys(cfg.Regions)), ", ")),
		Advice: strings.Join(lines, "\n")}
}

// examineHoldings reports what the configuration does not name, and what was set aside on purpose; the policies of such keys are
// read like those of others.
func (d *doctor) examineHoldings(ctx context.Context) {
	held, err := holdings(ctx, d.store)
	if err == nil {
		err = checkHoldings(ctx, d.store, d.cfg)
	}
	if err != nil {
		d.fail("store", "configuration", err)
	}
	aside := map[string]int{}
	for _, h := range held {
		_, configured := d.cfg.Regions[h.region]
		if h.region == "" || configured && (h.account == "" || h.account == d.cfg.AccountID) {
			continue // of no region, or examined with the region's token
		}
		err := d.eachKey(ctx, h.region, h.account, func(record keystore.Key) {
			d.examinePolicy(ctx, record)
			if !configured {
				aside[h.region]++
			}
		})
		if err != nil {
			d.fail("store", h.region, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(aside)) {
		bound, err := boundTo(ctx, d.store, name)
		switch {
		case err != nil:
			d.fail("store", name, err)
		case bound.Retired != nil:
			d.add("store", name, StatusOK, fmt.Sprintf("retired on %s: %s set aside, which the token with the serial %s had",
				bound.Retired.Format("2006-01-02"), keysAre(aside[name]), bound.Serial))
		}
	}
}

func keysAre(n int) string {
	if n == 1 {
		return "1 key is"
	}
	return fmt.Sprintf("%d keys are", n)
}
