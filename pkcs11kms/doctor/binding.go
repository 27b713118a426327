package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// The values of TokenReport.Binding.
const (
	BindingProved     = "proved"     // the token is the one that holds the keys of its region
	BindingRefused    = "refused"    // it is not, or does not prove it: nothing but doctor uses it
	BindingMissing    = "missing"    // its serial alone says which one it is: the next command but doctor makes the binding key
	BindingImpossible = "impossible" // its serial alone says which one it is: it can make no binding key
)

// openToken opens the token of a region to look at it, also one that does not prove to be the right one: verdict says why nothing else
// would use it. One that could not be opened is reported, and nil.
func (d *examination) openToken(ctx context.Context, name string) (t *token.Token, bound keystore.Region, verdict *keyring.BindingError) {
	config := d.cfg.TokenConfig(name)
	bound = keystore.Region{Name: name}
	err := errors.New("no store")
	if d.store != nil {
		if bound, err = keyring.BoundTo(ctx, d.store, name); err != nil {
			d.fail("store", name, err)
		}
	}
	if err != nil {
		t, err = token.Open(ctx, config)
	} else {
		t, err = keyring.OpenBound(ctx, d.store, bound, config)
	}
	var refused *token.OpenError
	if errors.As(err, &verdict) && !errors.As(err, &refused) { // it has logged in, and can again
		config.Known = keyring.NamesIn(bound)
		t, _, err = keyring.OpenAnyway(ctx, bound, config)
	}
	if err != nil {
		d.fail("token", name, err)
		return nil, bound, nil
	}
	return t, bound, verdict
}

// examineBinding reports how the token of a region is known to be the one that holds its keys.
func (d *examination) examineBinding(region *RegionReport, bound keystore.Region, verdict *keyring.BindingError) {
	r := region.Token
	names := token.Names{Label: r.Label, Serial: r.Serial, Manufacturer: r.Manufacturer, Model: r.Model}
	switch {
	case verdict != nil:
		r.Binding = BindingRefused
		d.advise("token", region.Name, StatusError, verdict.Error(), fmt.Sprintf("%s\n%s; if it is to hold them from now on: %s",
			verdict.Advice, heldOf(region.Keys), keyring.RebindCommand(region.Name)))
	case bound.Binding != nil:
		r.Binding = BindingProved
		d.add("token", region.Name, StatusOK, "is the one that holds the region's keys: its binding key makes the proof that was recorded")
		if keyring.Renamed(bound, names) {
			d.advise("token", region.Name, StatusWarning, fmt.Sprintf("calls itself otherwise than before: it was %v", keyring.NamesIn(bound)),
				"nothing, if its firmware was updated or somebody has renamed it: the next command but doctor keeps the new names")
		}
	case bound.Unable != "":
		r.Binding = BindingImpossible
		d.advise("token", region.Name, StatusWarning, "can make no key by which it is known again: its serial alone says which one it is",
			"make sure that no other token with the serial "+names.Serial+" comes into its place")
	case bound.Serial != "":
		r.Binding = BindingMissing
		d.add("token", region.Name, StatusOK, "is known by its serial alone: the next command but doctor makes its binding key")
	}
}

// heldOf tells how many of the keys are in the token.
func heldOf(keys []KeyReport) string {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k KeyReport) bool { return keyring.ForItsToken(k.KeyID) })
	missing := slices.DeleteFunc(slices.Clone(keys), func(k KeyReport) bool { return k.Object != nil })
	return fmt.Sprintf("%d of the region's %d keys are in it", len(keys)-len(missing), len(keys))
}

// Rebinding is what somebody is asked before the keys of a region are said to be in another token.
type Rebinding struct {
	Region  string
	Was, Is string // what the token that is bound to the region, and the one that is there, call themselves
	Problem string // why the token is not used as it is
	Keys    int    // of the region
	Present int    // those of them whose object is in the token
}

// RebindRegion says that the token which the configuration names for a region holds its keys, whatever the store says: after the token
// was restored from a copy that is older than its binding key, or was replaced. It makes a new binding key in it. No record of a key is
// changed, and no object destroyed: keys that are not in the token cannot be used until one that has them is bound again. agree is asked
// before anything is made; when it answers no, or nothing is to be done, the error is a *RefusedError. The store is the one that open
// opens, not cfg.Store.
func RebindRegion(ctx context.Context, cfg pkcs11kms.Config, open OpenStore, name string,
	agree func(Rebinding) (bool, error)) (err error) {
	if cfg, err = cfg.WithDefaults(); err != nil {
		return err
	}
	if _, configured := cfg.Regions[name]; !configured {
		return refused(fmt.Sprintf("the configuration names no token for region %s", name), "put its token into config.yaml first", nil)
	}
	if cfg.Store, err = open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cfg.Store.Close()) }()
	with := cfg.Keyring()
	closeToken, err := unlockFor(ctx, cfg, name, &with)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeToken()) }()
	err = keyring.Rebind(ctx, with, name, func(r keyring.Rebinding) (bool, error) {
		asked := Rebinding{Region: name, Was: r.Was.String(), Is: r.Is.String(), Keys: r.Keys, Present: r.Present}
		if r.Refused != nil {
			asked.Problem = r.Refused.Error()
		}
		return agree(asked)
	})
	return rebindRefusal(name, err)
}

func rebindRefusal(name string, err error) error {
	switch {
	case errors.Is(err, keyring.ErrNothingToRebind), errors.Is(err, keyring.ErrNeverBound):
		return refused(fmt.Sprintf("region %s is left as it is: %v", name, err),
			"nothing is left to do; see how things stand: pkcs11kms doctor", nil)
	case errors.Is(err, keyring.ErrNotAgreed):
		return refused(fmt.Sprintf("region %s is left as it is", name), "to bind it to this token, answer y", nil)
	case errors.Is(err, keyring.ErrBoundMeanwhile):
		return refused(fmt.Sprintf("region %s is left as it is", name), "look again: pkcs11kms doctor", err)
	}
	return err
}

// unlockFor unlocks a store whose records are sealed, unless it is the token of the region itself that does so: then Rebind does.
func unlockFor(ctx context.Context, cfg pkcs11kms.Config, name string, with *keyring.Config) (closeToken func() error, err error) {
	s, err := sealed.New(ctx, cfg.Store, sealed.Options{Now: cfg.Now})
	closeToken = func() error { return nil }
	if root, _ := s.Root(); err == nil && s.Locked() && root.Region != name {
		s, closeToken, err = keyring.OpenSealed(ctx, cfg.Keyring(), cfg.Store)
	}
	with.Store, with.Sealed = s, s
	return closeToken, err
}
