package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// openedToken is what openToken has returned.
type openedToken struct {
	region  string
	t       *token.Token
	bound   keystore.Region
	verdict *keyring.BindingError
}

// tokenOf is openToken, once for each region: a log-in by a wrong PIN is not to be repeated.
func (d *examination) tokenOf(ctx context.Context, name string) (*token.Token, keystore.Region, *keyring.BindingError) {
	if d.ready != nil && d.ready.region == name {
		return d.ready.t, d.ready.bound, d.ready.verdict
	}
	return d.openToken(ctx, name)
}

// unlock opens the token that unlocks the store. What the store holds is shown all the same when it cannot: the report says that nobody
// knows whether it is as it was written.
func (d *examination) unlock(ctx context.Context, name string) {
	if !d.store.Locked() {
		return
	}
	root, _ := d.store.Root()
	_, configured := d.cfg.Regions[root.Region]
	err := errors.New("the configuration does not name this region")
	if configured {
		t, bound, verdict := d.openToken(ctx, root.Region)
		d.ready = &openedToken{root.Region, t, bound, verdict}
		if err = errors.New("it could not be opened"); t != nil {
			if err = keyring.Unlock(ctx, t, d.store); err == nil {
				d.examineLastSeal(ctx, name, t)
			}
		}
	}
	if err != nil {
		d.store.Trust()
		text := fmt.Errorf("its seals cannot be checked, and what follows may have been edited: the token of %s unlocks it: %w", root.Region, err)
		d.fail("store", name, text)
	}
}

// examineLastSeal compares store and log with the last seal of the log that the token keeps.
func (d *examination) examineLastSeal(ctx context.Context, name string, t *token.Token) {
	log, ok := d.cfg.Audit.(interface {
		Holds(audit.Head) error
		TokenSeal() bool
	})
	if !ok || !log.TokenSeal() {
		return
	}
	kept, err := keyring.CheckLastSeals(ctx, t, d.store, log.Holds)
	switch {
	case err != nil:
		d.fail("store", name, err)
	case len(kept) == 0:
		d.add("store", name, StatusOK, "the token keeps no last seal of its audit log (yet): that both were put back to an earlier time is not "+
			"found by it")
	default:
		last := slices.MaxFunc(kept, func(x, y audit.LastSeal) int { return x.Time.Compare(y.Time) })
		d.add("store", name, StatusOK, fmt.Sprintf("it and its audit log are not older than the last seal that the token keeps, of %s",
			last.Time.Format(time.RFC3339)))
	}
}

// tryWrite tries to write to the store, unless what is written could not be sealed.
func (d *examination) tryWrite(ctx context.Context) error {
	if _, sealing := d.store.Root(); sealing && d.store.Trusted() {
		return sealed.ErrLocked
	}
	return records.TryWrite(ctx, d.store)
}

// examineSeals names the records that are not what was written. Afterwards they are looked at all the same, like all others.
func (d *examination) examineSeals(ctx context.Context, name string) {
	root, sealing := d.store.Root()
	if !sealing {
		d.add("store", name, StatusOK, "its records have no seals: who can write to it can edit them. To seal them: "+keyring.SealCommand)
		return
	}
	if d.store.Trusted() {
		return
	}
	if root.Previous != nil {
		text := fmt.Sprintf("its records are being sealed anew, in the epoch %d; until that is done, seals of the epoch %d count as well",
			root.Epoch, root.Previous.Epoch)
		d.advise("store", name, StatusWarning, text, "if nobody is at it, go on with it: pkcs11kms service-key rotate seal")
	}
	found := 0
	err := d.store.Faults(ctx, func(fault *sealed.Error) {
		found++
		d.advise("store", name, StatusError, fault.Error(), "it is refused when it is read. Restore the store from a backup; or see what it "+
			"holds, and have\nall of it sealed anew as it is: "+keyring.ResealCommand)
	})
	switch {
	case err != nil:
		d.fail("store", name, err)
	case found == 0:
		d.add("store", name, StatusOK, fmt.Sprintf("every record is as it was written: its seals, of the epoch %d, are right", root.Epoch))
	}
	d.compareLog(ctx, name)
	d.store.Trust()
}
