package doctor

import (
	"context"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
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
			err = keyring.Unlock(ctx, t, d.store)
		}
	}
	if err != nil {
		d.store.Trust()
		text := fmt.Errorf("its seals cannot be checked, and what follows may have been edited: the token of %s unlocks it: %w", root.Region, err)
		d.fail("store", name, text)
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
	d.store.Trust()
}

// openSealed opens the token that unlocks a store whose records are sealed, where there is one: a change by an operator is sealed like
// every other. close closes it.
func openSealed(ctx context.Context, cfg pkcs11kms.Config, store keystore.Store) (s *sealed.Store, close func() error, err error) {
	close = func() error { return nil }
	if s, err = sealed.New(ctx, store, sealed.Options{Now: cfg.Now}); err != nil || !s.Locked() {
		return s, close, err
	}
	root, _ := s.Root()
	if _, configured := cfg.Regions[root.Region]; !configured {
		return s, close, refused(fmt.Sprintf("the records of the store are sealed by a key in the token of %s, and the configuration does "+
			"not name this region", root.Region), "put it back; or, if its HSM is gone for good: "+keyring.ResealCommand, nil)
	}
	t, err := openFor(ctx, cfg, s, root.Region)
	if err != nil {
		return s, close, fmt.Errorf("opening the token of region %s, which unlocks the store: %w", root.Region, err)
	}
	if err := keyring.Unlock(ctx, t, s); err != nil {
		return s, close, errors.Join(err, t.Close())
	}
	return s, t.Close, nil
}

// openFor opens the token of a region, without waiting for one that cannot be reached.
func openFor(ctx context.Context, cfg pkcs11kms.Config, s *sealed.Store, region string) (*token.Token, error) {
	bound, err := keyring.BoundTo(ctx, s, region)
	if err != nil {
		return nil, err
	}
	config := cfg.TokenConfig(region)
	config.Wait = false
	return keyring.OpenBound(ctx, s, bound, config)
}
