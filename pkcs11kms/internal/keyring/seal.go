package keyring

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// SealStore seals all records of a store as they are, see sealed.SealAll, by the service key in the token of the default region, which is
// made unless there is one that can be used. Until the end nobody uses the store. keystore.ErrConflict: somebody else is at it.
func SealStore(ctx context.Context, cfg Config, below keystore.Store, progress func(int)) (epoch uint32, err error) {
	s, err := sealed.New(ctx, below, sealed.Options{})
	if err != nil {
		return 0, err
	}
	before, there := s.Root()
	version := s.Version()
	if there { // nobody takes the records for sealed ones meanwhile
		if version, err = sealed.Begin(ctx, below, before, version); err != nil {
			return 0, err
		}
	}
	cfg.Store, cfg.Sealed = sealed.Trusting(below), nil
	r, err := Open(ctx, cfg, records.New(cfg.Store, cfg.Log, cfg.Now))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return r.sealAll(ctx, below, before, version, progress)
}

// sealAll seals a store in the epoch after before, which is of a version.
func (r *Ring) sealAll(
	ctx context.Context, below keystore.Store, before keystore.Seals, version uint64, progress func(int),
) (epoch uint32, err error) {
	root, key, err := r.makeSealKey(ctx, before)
	if err != nil {
		return 0, err
	}
	if version, err = sealed.Begin(ctx, below, root, version); err != nil {
		return 0, err
	}
	if err := sealed.SealAll(ctx, below, root, version, key, r.cfg.Now(), progress); err != nil {
		return root.Epoch, err
	}
	if before.Epoch > 0 {
		r.endEpochs(ctx, root)
	}
	return root.Epoch, nil
}

// passEpochs takes an epoch after those that the token knows of: the store may be older.
func (r *Ring) passEpochs(ctx context.Context, root *keystore.Seals) error {
	kept, err := LastSeals(ctx, r.regions[root.Region].Token, *root)
	for _, one := range kept {
		if one.Epoch == math.MaxUint32 {
			return fmt.Errorf("the token keeps a last seal of the epoch %d, after which there is none", one.Epoch)
		}
		root.Epoch = max(root.Epoch, one.Epoch+1)
	}
	return err
}

// endEpochs has the token know that a store of an epoch before this one is an earlier one, where it keeps any last seal of it.
func (r *Ring) endEpochs(ctx context.Context, root keystore.Seals) {
	t := r.regions[root.Region].Token
	kept, err := LastSeals(ctx, t, root)
	if err == nil && len(kept) > 0 {
		err = r.replaceLastSeal(ctx, t, root, audit.Head{})
	}
	if err != nil {
		r.cfg.Log.Warn("the token is not told that all records were sealed anew: it is with the next seal of the audit log", "error", err)
	}
}

// makeSealKey makes the service key of the seals, unless there is one that can be used, and returns what tells of the seals of the next
// epoch after before, with their key.
func (r *Ring) makeSealKey(ctx context.Context, before keystore.Seals) (root keystore.Seals, key sealed.Key, err error) {
	want := r.secretsKey(1)
	want.name = SealKey
	_, newest, err := r.newest(ctx, SealKey)
	if err != nil && !errors.Is(err, keystore.ErrNotFound) {
		return root, key, err
	}
	want.name = EpochName(SealKey, newest)
	if _, err := r.renewService(ctx, want, true); err != nil {
		return root, key, err
	}
	k, err := r.service(ctx, want)
	if err != nil {
		return root, key, err
	}
	root = keystore.Seals{Store: before.Store, Epoch: max(before.Epoch+1, newest), Region: k.Record.Region, CKAID: k.Record.CKAID,
		Spec: k.Record.Spec}
	if len(root.Store) == 0 {
		root.Store = make(keystore.HexBytes, 16)
		rand.Read(root.Store) // never fails, see crypto/rand
	} else if err := r.passEpochs(ctx, &root); err != nil {
		return root, key, err
	}
	key, err = SealKeyIn(ctx, r.regions[root.Region].Token, root)
	return root, key, err
}

// sealNew seals a store that has no key, user or access key yet, so that there is nothing to vouch for. Two processes that do so at once
// make one key, and one of them seals. A token that can make no such key leaves the store without seals.
func (r *Ring) sealNew(ctx context.Context) error {
	if !r.cfg.SealNew || r.cfg.Sealed == nil || r.cfg.Sealed.Trusted() {
		return nil
	}
	home := r.regions[r.secretsKey(1).regions[0]]
	if _, there := r.cfg.Sealed.Root(); there || home == nil || !home.met {
		return nil
	}
	below := r.cfg.Sealed.Below()
	if empty, err := hasNothing(ctx, below); err != nil || !empty {
		return err
	}
	_, err := r.sealAll(ctx, below, keystore.Seals{}, 0, func(int) {})
	if _, gap := errors.AsType[*token.GapError](err); gap {
		r.cfg.Log.Warn("the token can make no key for the seals of records: who can write to the store can edit them", "error", err)
		return nil
	}
	if errors.Is(err, keystore.ErrConflict) || errors.Is(err, keystore.ErrReadOnly) {
		err = nil // another process is at it; or nothing can be written that would need a seal
	}
	if err == nil {
		_, err = r.cfg.Sealed.LookAgain(ctx)
	}
	return err
}

// OpenSealed opens the token that unlocks a store whose records are sealed, where there is one, without waiting for one that cannot be
// reached. closeToken closes it. With an ErrRolledBack, for which Config.Holds asks, the store is unlocked all the same.
func OpenSealed(ctx context.Context, cfg Config, below keystore.Store) (s *sealed.Store, closeToken func() error, err error) {
	closeToken = func() error { return nil }
	if s, err = sealed.New(ctx, below, sealed.Options{Now: cfg.Now}); err != nil {
		return s, closeToken, err
	}
	cfg.Sealed = s
	region, err := cfg.sealRegion()
	if err != nil || region == "" {
		return s, closeToken, err
	}
	t, err := openNow(ctx, cfg, s, region)
	if err != nil {
		return s, closeToken, fmt.Errorf("opening the token of region %s, which unlocks the store: %w", region, err)
	}
	err = Unlock(ctx, t, s)
	if err == nil && cfg.Holds != nil {
		_, err = CheckLastSeals(ctx, t, s, cfg.Holds)
	}
	if err != nil && !errors.Is(err, ErrRolledBack) {
		return s, closeToken, errors.Join(err, t.Close())
	}
	return s, t.Close, err
}

func openNow(ctx context.Context, cfg Config, s *sealed.Store, region string) (*token.Token, error) {
	bound, err := BoundTo(ctx, s, region)
	if err != nil {
		return nil, err
	}
	config := cfg.Token(region)
	config.Wait = false
	return OpenBound(ctx, s, bound, config)
}

// SealFaults tells which records of a store are not as they were written, by the token that has the key of their seals: nil where there are
// no seals. An error says that nobody knows.
func SealFaults(ctx context.Context, cfg Config, below keystore.Store) (faultOf func(keystore.Record) error, err error) {
	s, err := sealed.New(ctx, below, sealed.Options{})
	if err != nil {
		return nil, err
	}
	root, there := s.Root()
	if !there {
		return nil, nil
	}
	if !slices.Contains(cfg.Regions, root.Region) {
		return nil, fmt.Errorf("the configuration does not name the region %s, whose token has the key of the seals", root.Region)
	}
	s.Trust()
	t, err := openNow(ctx, cfg, s, root.Region)
	if err != nil {
		return nil, err
	}
	keys, err := SealKeysIn(ctx, t, root)
	if err = errors.Join(err, t.Close()); err != nil {
		return nil, err
	}
	return func(rec keystore.Record) error {
		if rec.Ref == keystore.SealsRef() {
			return nil // which has no seal of its own where the sealing was not finished
		}
		return sealed.Check(root, keys, rec)
	}, nil
}

// finishPatience is how long somebody who has begun to seal a new store may take, before he counts as dead.
const finishPatience = 5 * time.Second

// FinishSealing seals a store that has nothing yet and that a process was about to seal which died over it. Of one that has something the
// records are to be looked at first.
func FinishSealing(ctx context.Context, cfg Config, below keystore.Store) error {
	s, err := sealed.New(ctx, below, sealed.Options{})
	if err != nil {
		return err
	}
	before, _ := s.Root()
	if !before.Unfinished {
		return nil
	}
	if empty, err := hasNothing(ctx, below); err != nil || !empty {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, finishPatience)
	defer cancel()
	if _, err := s.LookAgain(patient); !errors.Is(err, sealed.ErrUnfinished) || ctx.Err() != nil {
		return err
	}
	_, err = SealStore(ctx, cfg, below, func(int) {})
	if err != nil {
		err = fmt.Errorf("sealing the new store: %w", err)
	}
	return err
}

// hasNothing tells whether a store has nothing that anybody has made: service keys, and what belongs to regions, are there at once.
func hasNothing(ctx context.Context, below keystore.Store) (bool, error) {
	held, err := Holdings(ctx, sealed.Trusting(below))
	return !slices.ContainsFunc(held, func(h Holding) bool { return h.Account != "" }), err
}
