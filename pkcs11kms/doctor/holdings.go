package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/refcount"
)

// regions are the names of the configured regions, in order.
func (d *examination) regions() []string { return slices.Sorted(maps.Keys(d.cfg.Regions)) }

// examineHoldings reports what the configuration does not name, and what was set aside on purpose; the policies of such keys are
// read like those of others.
func (d *examination) examineHoldings(ctx context.Context) {
	held, err := keyring.Holdings(ctx, d.store)
	if err == nil {
		err = keyring.CheckHoldings(ctx, d.store, d.cfg.AccountID, d.regions())
	}
	if err != nil {
		d.fail("store", "configuration", err)
	}
	aside := map[string]int{}
	for _, h := range held {
		_, configured := d.cfg.Regions[h.Region]
		if h.Region == "" || configured && (h.Account == "" || slices.Contains(d.accounts, h.Account)) {
			continue // of no region, or examined with the region's token
		}
		err := d.eachKey(ctx, h.Region, h.Account, func(record keystore.Key) {
			d.examinePolicy(ctx, record)
			if !configured && record.ID != keyring.BindingKey {
				aside[h.Region]++
			}
		})
		if err != nil {
			d.fail("store", h.Region, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(aside)) {
		bound, err := keyring.BoundTo(ctx, d.store, name)
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

// readAccounts finds out which accounts there are. Where the store does not tell, it is the one that the configuration names.
func (d *examination) readAccounts(ctx context.Context) {
	found, err := records.Accounts(ctx, d.store, d.cfg.AccountID)
	if err != nil {
		d.fail("store", "accounts", err)
		found = []keystore.Account{{ID: d.cfg.AccountID}}
	}
	for _, account := range found {
		d.accounts = append(d.accounts, account.ID)
	}
	if n := len(d.accounts); n > 1 {
		d.add("store", "accounts", StatusOK, fmt.Sprintf("there are %d, all of which are examined", n))
	}
}

// examineConsistency reports what Repair would correct.
func (d *examination) examineConsistency(ctx context.Context) {
	found, err := refcount.Find(ctx, d.store, d.cfg.AccountID, d.regions())
	if err != nil {
		d.fail("store", "records", err)
		return
	}
	for _, wrong := range found {
		hint := "pkcs11kms doctor --repair"
		if wrong.Batch == nil {
			hint = "do it again at a calmer time"
		}
		d.advise(wrong.Area, wrong.Subject, StatusWarning, wrong.Text, hint)
	}
}
