package keyring

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Rebinding is what is known before the keys of a region are said to be in another token.
type Rebinding struct {
	Region  string
	Was, Is token.Names
	Refused error // why the token is not used as it is; nil if it would be
	Keys    int   // records of the region, without its binding key and that of the seals
	Present int   // those of them whose object is in the token
}

// The outcomes of Rebind that are no failure of the store or the token.
var (
	ErrNothingToRebind = errors.New("the region is bound to this token already")
	ErrNeverBound      = errors.New("the region was never used, so it is bound to no token yet")
	ErrNotAgreed       = errors.New("it was not agreed to")
	ErrBoundMeanwhile  = errors.New("another process is binding the region, or has bound it meanwhile")
)

// Rebind says that the keys of a region are in the token that the configuration names, whatever the store says: it makes a new binding
// key in it, unless the token proves to be the same under other names. agree is asked before anything is made or changed. The records of
// the keys stay as they are, and no object is destroyed.
func Rebind(ctx context.Context, cfg Config, name string, agree func(Rebinding) (bool, error)) (err error) {
	bound, version, err := readRegion(ctx, cfg.Store, name)
	if err != nil {
		return err
	}
	if version == 0 {
		return ErrNeverBound
	}
	t, verdict, err := OpenAnyway(ctx, bound, cfg.Token(name))
	if err != nil {
		return err
	}
	r := newRing(cfg, records.New(cfg.Store, cfg.Log, cfg.Now))
	region := &Region{Name: name, Token: t}
	r.regions[name] = region
	defer func() { err = errors.Join(err, r.Close()) }()
	lost, err := r.unlockOrTrust(ctx, region)
	if err != nil {
		return err
	}
	at, err := r.bindingPlace(ctx, name)
	if err != nil {
		return err
	}
	about := Rebinding{Region: name, Was: NamesIn(bound), Is: t.Info().Names(), Refused: verdict}
	proved := verdict == nil && bound.Binding != nil
	if (proved || bound.Binding == nil && at.expect == 0) && !Renamed(bound, about.Is) {
		return ErrNothingToRebind
	}
	if about.Keys, about.Present, err = r.present(ctx, region); err != nil {
		return err
	}
	agreed, err := agree(about)
	if err != nil {
		return err
	}
	if !agreed {
		return ErrNotAgreed
	}
	if err := lost(); err != nil {
		return err
	}
	if proved { // under other names
		_, err = r.cache.Commit(ctx, named(bound, about.Is).Put(version))
		return meanwhile(err)
	}
	return r.rebind(ctx, region, bound, version, at)
}

// unlockOrTrust has the token of the region unlock the store, if it is the one to do so. One that has not the key of the seals cannot:
// then the records are taken as they are and, once lost was called, nobody uses the store until all are sealed anew.
func (r *Ring) unlockOrTrust(ctx context.Context, in *Region) (lost func() error, err error) {
	lost = func() error { return nil }
	if !r.locked() {
		return lost, nil
	}
	err = Unlock(ctx, in.Token, r.cfg.Sealed)
	if _, other := errors.AsType[*SealError](err); !other {
		return lost, err
	}
	r.cfg.Sealed.Trust()
	root, _ := r.cfg.Sealed.Root()
	return func() error {
		_, err := sealed.Begin(ctx, r.cfg.Sealed.Below(), root, r.cfg.Sealed.Version())
		return err
	}, nil
}

// bindingPlace is the place of a region's binding key: that of the one before, whatever has become of it.
func (r *Ring) bindingPlace(ctx context.Context, region string) (place, error) {
	ref := keystore.KeyRef(region, "", BindingKey)
	rec, err := r.cfg.Store.Get(ctx, ref)
	if errors.Is(err, keystore.ErrNotFound) {
		return place{}, nil
	}
	if err != nil {
		return place{}, err
	}
	if record, err := keystore.DecodeKey(rec); err != nil || !record.State.Unfinished() {
		return place{expect: rec.Version}, err
	}
	version, err := r.abandoned(ctx, ref)
	if err == nil && version == 0 {
		_, _ = r.Tidy(ctx) // logs what fails
		err = ErrBoundMeanwhile
	}
	return place{expect: version}, err
}

// present counts the keys of a region, and those whose object is in its token.
func (r *Ring) present(ctx context.Context, in *Region) (keys, present int, err error) {
	objects, err := in.Token.Objects(ctx)
	if err != nil {
		return 0, 0, err
	}
	there := map[string]bool{}
	for _, o := range objects {
		there[hex.EncodeToString(o.ID)] = true
	}
	err = records.EachIndexed(ctx, r.cfg.Store, keystore.IndexCKAID, func(rec keystore.Record) error {
		record, err := keystore.DecodeKey(rec)
		if err != nil || record.Region != in.Name || ForItsToken(record.ID) {
			return err
		}
		keys++
		if there[record.CKAID.String()] {
			present++
		}
		return nil
	})
	return keys, present, err
}

// ForItsToken tells whether a key is there for its token's sake alone: when the token is lost, nobody misses the key.
func ForItsToken(id string) bool {
	_, seals := EpochOf(SealKey, id)
	return seals || id == BindingKey
}

// rebind makes the new binding key in the place of the old one, and binds the region by it. Until then the region stays bound as it was.
func (r *Ring) rebind(ctx context.Context, in *Region, bound keystore.Region, version uint64, at place) error {
	bound.Learnt = nil // of another token
	k, made := r.make(ctx, in, bindingSpec(in.Token), in.NewRecord("", BindingKey), at, nil)
	err := r.keepProof(ctx, in, bound, version, k, made)
	if err == nil || made != nil {
		return meanwhile(err)
	}
	_, undone := r.Finish(ctx, k.Record, k.Version)
	return errors.Join(meanwhile(err), undone)
}

func meanwhile(err error) error {
	if errors.Is(err, keystore.ErrConflict) {
		return fmt.Errorf("%w: %w", ErrBoundMeanwhile, err)
	}
	return err
}
