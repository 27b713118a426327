package doctor

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

// Sealing says how SealRecords asks and tells.
type Sealing struct {
	// Again seals the records of a store anew whose seals are not right any more, or whose service key is gone.
	Again bool
	// List is told what each record says that is going to be vouched for.
	List func(line string) error
	// Agree is asked afterwards. When it answers no, nothing is changed, and the error is a *RefusedError.
	Agree func(records int) (bool, error)
	// Progress is told from time to time how many records are done.
	Progress func(done int)
}

// SealRecords seals all records of a store as they are, by a service key that is made in the token of the default region: from then on
// every record that was edited, moved, copied or put back is refused when it is read, see package sealed. Nobody else may have the store
// open meanwhile. When it is cut off, the store is used by nobody until it is run again. The store is the one that open opens, not
// cfg.Store. It returns the epoch of the seals.
func SealRecords(ctx context.Context, cfg pkcs11kms.Config, open OpenStore, how Sealing) (epoch uint32, err error) {
	if cfg, err = cfg.WithDefaults(); err != nil {
		return 0, err
	}
	store, err := open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	before, err := mayBeSealed(ctx, cfg, store, how.Again)
	if err != nil {
		return 0, err
	}
	fault, err := sealFaults(ctx, cfg, store, before, how)
	if err != nil {
		return 0, err
	}
	agreed, err := vouch(ctx, store, fault, how)
	if err != nil {
		return 0, err
	}
	if !agreed {
		return 0, refused("the records are left as they are", "to seal them, answer y", nil)
	}
	return sealAll(ctx, cfg, store, before, how)
}

// mayBeSealed refuses what is not to be sealed, and returns what the store tells of its seals so far.
func mayBeSealed(ctx context.Context, cfg pkcs11kms.Config, store keystore.Store, again bool) (before keystore.Seals, err error) {
	s, err := sealed.New(ctx, store, sealed.Options{})
	if err != nil {
		return before, err
	}
	before, there := s.Root()
	switch {
	case there && !again && !before.Unfinished:
		return before, refused("the records are sealed already", "see whether they are as they were written: pkcs11kms doctor", nil)
	case !there && again:
		return before, refused("the records have no seals", "seal them: "+keyring.SealCommand, nil)
	}
	sole, ok := store.(keystore.Sole)
	if !ok {
		return before, refused("this store cannot tell whether others have it open", "stop all that use it", nil)
	}
	if err := sole.Alone(ctx); err != nil {
		return before, err
	}
	return before, keyring.CheckHoldings(ctx, sealed.Trusting(store), cfg.AccountID, cfg.Keyring().Regions)
}

// sealFaults returns what tells why a record is not as it was written, as far as the seals of before can be checked; nil where there are
// none.
func sealFaults(ctx context.Context, cfg pkcs11kms.Config, store keystore.Store, before keystore.Seals, how Sealing) (
	fault func(keystore.Record) error, err error) {
	if len(before.Store) == 0 {
		return nil, nil
	}
	key, err := keyOfSeals(ctx, cfg, sealed.Trusting(store), before)
	if err != nil {
		return nil, how.List(fmt.Sprintf("NONE OF THE SEALS CAN BE CHECKED: %v", err))
	}
	return func(rec keystore.Record) error { return sealed.Check(before, key, rec) }, nil
}

func keyOfSeals(ctx context.Context, cfg pkcs11kms.Config, store *sealed.Store, root keystore.Seals) (key sealed.Key, err error) {
	if _, configured := cfg.Regions[root.Region]; !configured {
		return key, fmt.Errorf("the configuration does not name the region %s, whose token has their service key", root.Region)
	}
	t, err := openFor(ctx, cfg, store, root.Region)
	if err != nil {
		return key, err
	}
	key, err = keyring.SealKeyIn(ctx, t, root)
	return key, errors.Join(err, t.Close())
}

func vouch(ctx context.Context, store keystore.Store, fault func(keystore.Record) error, how Sealing) (bool, error) {
	n := 0
	err := sealed.Each(ctx, store, func(recs []keystore.Record) error {
		for _, rec := range recs {
			line, err := vouchLine(rec)
			if err != nil {
				return fmt.Errorf("the record %s cannot be read, and what cannot be read is not vouched for: %w", placeOf(rec.Ref), err)
			}
			if fault != nil && rec.Ref != keystore.SealsRef() {
				if err := fault(rec); err != nil {
					line = fmt.Sprintf("%s: IT %s", cmp.Or(line, placeOf(rec.Ref)), err)
				}
			}
			if line == "" {
				continue
			}
			n++
			if err := how.List(line); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	return how.Agree(n)
}

func placeOf(r keystore.Ref) string {
	return fmt.Sprintf("%s %s/%s/%s", r.Kind, r.Region, r.Account, r.ID)
}

// vouchLine says what a record allows or denies, for people; counters and the like have none.
func vouchLine(rec keystore.Record) (string, error) {
	rec.Seal = nil
	switch rec.Ref.Kind {
	case keystore.KindKey:
		key, err := keystore.DecodeKey(rec)
		return fmt.Sprintf("key %s/%s/%s %s %s, policy %s", key.Region, key.Account, key.ID, key.State, key.Spec, shortHash(key.Policy)), err
	case keystore.KindAlias:
		alias, err := keystore.DecodeAlias(rec)
		return fmt.Sprintf("alias %s/%s/%s of key %s", alias.Region, alias.Account, alias.Name, alias.Target), err
	case keystore.KindPrincipal:
		p, err := keystore.DecodePrincipal(rec)
		var policies []string
		for _, inline := range p.Policies {
			policies = append(policies, inline.Name+" "+shortHash(inline.Document))
		}
		line := fmt.Sprintf("%s %s/%s%s %s", p.Type, p.Account, strings.TrimPrefix(p.Path, "/"), p.Name, p.ID)
		if len(policies) > 0 {
			line += ", policies " + strings.Join(policies, ", ")
		}
		return line, err
	case keystore.KindAccessKey:
		key, err := keystore.DecodeAccessKey(rec)
		return fmt.Sprintf("access key %s of %s/%s %s", key.ID, key.Account, key.Owner, key.Status), err
	case keystore.KindRegion:
		region, err := keystore.DecodeRegion(rec)
		return fmt.Sprintf("region %s on the token %v", region.Name, keyring.NamesIn(region)), err
	}
	_, err := keystore.EntriesOf(rec)
	return "", err
}

func shortHash(text string) string {
	if text == "" {
		return "none"
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))[:23]
}

func sealAll(ctx context.Context, cfg pkcs11kms.Config, store keystore.Store, before keystore.Seals, how Sealing) (_ uint32, err error) {
	if len(before.Store) > 0 { // until the end nobody takes the records for sealed ones
		if _, err := sealed.Begin(ctx, store, before); err != nil {
			return 0, err
		}
	}
	trusting := sealed.Trusting(store)
	cfg.Store = trusting
	with := cfg.Keyring()
	ring, err := keyring.Open(ctx, with, records.New(trusting, with.Log, with.Now))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, ring.Close()) }()
	root, key, err := ring.MakeSealKey(ctx, before)
	if err != nil {
		return 0, err
	}
	version, err := sealed.Begin(ctx, store, root)
	if err != nil {
		return 0, err
	}
	return root.Epoch, sealed.SealAll(ctx, store, root, version, key, with.Now(), how.Progress)
}
