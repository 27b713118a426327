package keyring

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// A key's record carries the name of its region and the number of its account. Whoever edits those in the configuration would see no
// key at all, and no error; so what the store holds is compared with the configuration before any token is touched.

// Holding is an account and a region of which the store has keys. Service keys are of no account; users and roles, and access keys,
// are of no region. The binding key of a region is not held: without others nobody misses the region.
type Holding struct{ Account, Region string }

func (h Holding) String() string {
	switch {
	case h.Region == "":
		return "users or access keys of the account " + h.Account
	case h.Account == "":
		return "service keys in " + h.Region
	}
	return "keys of the account " + h.Account + " in " + h.Region
}

// lastID is behind every id that this program makes.
const lastID = "\U0010FFFF"

// Holdings returns what the store holds, in order. The cost is that of one read for each answer, however many keys there are.
func Holdings(ctx context.Context, store keystore.Store) (held []Holding, err error) {
	for _, index := range []keystore.Index{keystore.IndexCKAID, keystore.IndexPrincipalName, keystore.IndexPolicyName} {
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
			if after.Account == "" && after.ID == BindingKey {
				continue
			}
			after.ID = lastID
			held = append(held, Holding{after.Account, after.Region})
		}
	}
	// Access keys have no account in their names. Where there are several accounts, each has a record. Where there is one, all are of it,
	// unless somebody has changed the configuration of a store in which nothing else tells the account: so the first speaks for the others.
	recs, err := store.Lookup(ctx, keystore.IndexAccessKeyOwner, "", keystore.Ref{}, 1)
	if err != nil || len(recs) == 0 {
		return held, err
	}
	first, err := keystore.DecodeAccessKey(recs[0])
	if err != nil {
		return nil, err
	}
	if of := (Holding{Account: first.Account}); !slices.Contains(held, of) {
		held = append(held, of)
	}
	return held, nil
}

// HiddenError says that a configuration does not name what the store holds.
type HiddenError struct {
	Problem string
	Advice  string // one or more lines
}

// Error says what is not named.
func (e *HiddenError) Error() string { return e.Problem }

// Hint returns Advice.
func (e *HiddenError) Hint() string { return e.Advice }

// CheckHoldings refuses with a *HiddenError a configuration by which keys, users or access keys would not be seen: of another
// account, or without a region that was not retired.
func CheckHoldings(ctx context.Context, store keystore.Store, account string, regions []string) error {
	strange, err := unnamed(ctx, store, account, regions)
	if err != nil || len(strange) == 0 {
		return err
	}
	lines := []string{"put account and regions back as they were: in a state directory they stand in config.yaml"}
	var texts []string
	gone := map[string]bool{}
	for _, h := range strange {
		texts = append(texts, h.String())
		if h.Region != "" && !slices.Contains(regions, h.Region) && !gone[h.Region] {
			gone[h.Region] = true
			lines = append(lines, "if the HSM of "+h.Region+" is gone for good: pkcs11kms doctor --retire-region "+h.Region)
		}
	}
	return &HiddenError{
		Problem: fmt.Sprintf("the store holds %s, and the configuration names the account %s with %s", strings.Join(texts, ", "), account,
			strings.Join(slices.Sorted(slices.Values(regions)), ", ")),
		Advice: strings.Join(lines, "\n")}
}

// unnamed returns what the store holds and the configuration does not name; regions that were retired may be missing there.
func unnamed(ctx context.Context, store keystore.Store, account string, regions []string) (strange []Holding, err error) {
	held, err := Holdings(ctx, store)
	if err != nil {
		return nil, err
	}
	for _, h := range held {
		ok, err := known(ctx, store, h.Account, account)
		if err != nil {
			return nil, err
		}
		if ok && h.Region != "" && !slices.Contains(regions, h.Region) {
			bound, err := BoundTo(ctx, store, h.Region)
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

// known tells whether an account is the one that the configuration names, or one of the store's own; service keys are of none.
func known(ctx context.Context, store keystore.Store, id, configured string) (bool, error) {
	if id == "" || id == configured {
		return true, nil
	}
	_, err := store.Get(ctx, keystore.AccountRef(id))
	return err == nil, records.IgnoreNotFound(err)
}
