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
	if err := mayBeSealed(ctx, cfg, store, how.Again); err != nil {
		return 0, err
	}
	fault, unknown := keyring.SealFaults(ctx, cfg.Keyring(), store)
	if unknown != nil {
		if err := how.List(fmt.Sprintf("NONE OF THE SEALS CAN BE CHECKED: %v", unknown)); err != nil {
			return 0, err
		}
	}
	agreed, err := vouch(ctx, store, fault, how)
	if err != nil {
		return 0, err
	}
	if !agreed {
		return 0, refused("the records are left as they are", "to seal them, answer y", nil)
	}
	return keyring.SealStore(ctx, cfg.Keyring(), store, how.Progress)
}

// mayBeSealed refuses what is not to be sealed.
func mayBeSealed(ctx context.Context, cfg pkcs11kms.Config, store keystore.Store, again bool) error {
	s, err := sealed.New(ctx, store, sealed.Options{})
	if err != nil {
		return err
	}
	before, there := s.Root()
	switch {
	case there && !again && !before.Unfinished:
		return refused("the records are sealed already", "see whether they are as they were written: pkcs11kms doctor", nil)
	case !there && again:
		return refused("the records have no seals", "seal them: "+keyring.SealCommand, nil)
	}
	sole, ok := store.(keystore.Sole)
	if !ok {
		return refused("this store cannot tell whether others have it open", "stop all that use it", nil)
	}
	if err := sole.Alone(ctx); err != nil {
		return err
	}
	return keyring.CheckHoldings(ctx, sealed.Trusting(store), cfg.AccountID, cfg.Keyring().Regions)
}

func vouch(ctx context.Context, store keystore.Store, fault func(keystore.Record) error, how Sealing) (bool, error) {
	n := 0
	err := sealed.Each(ctx, store, func(recs []keystore.Record) error {
		for _, rec := range recs {
			line, err := vouchLine(rec)
			if err != nil {
				return fmt.Errorf("the record %s cannot be read, and what cannot be read is not vouched for: %w", sealed.Name(rec.Ref), err)
			}
			if fault != nil {
				if err := fault(rec); err != nil {
					line = fmt.Sprintf("%s: IT %v", cmp.Or(line, sealed.Name(rec.Ref)), errors.Unwrap(err))
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
		for _, a := range p.Attached {
			line += ", with " + a.ID
		}
		for _, g := range p.Groups {
			line += ", in " + g.ID
		}
		return line, err
	case keystore.KindManagedPolicy:
		p, err := keystore.DecodeManagedPolicy(rec)
		version, _ := p.Version(p.Default)
		return fmt.Sprintf("policy %s/%s%s %s, version v%d %s", p.Account, strings.TrimPrefix(p.Path, "/"), p.Name, p.ID, p.Default,
			shortHash(version.Document)), err
	case keystore.KindOIDCProvider:
		p, err := keystore.DecodeOIDCProvider(rec)
		return fmt.Sprintf("OIDC provider %s/%s, clients %s, keys %s", p.Account, p.URL, strings.Join(p.ClientIDs, " "), shortHash(p.Keys)), err
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
