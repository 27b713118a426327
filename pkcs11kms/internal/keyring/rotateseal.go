package keyring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

// ErrNoSeals says that the records of the store are not sealed.
var ErrNoSeals = errors.New("the records of the store have no seals")

// resealPatience is how long records are left that somebody is working on, and resealPause between two looks at them.
const (
	resealPatience = time.Minute
	resealPause    = 20 * time.Millisecond
)

// RotateSeals has the service key of the seals followed by another one, which it makes in the same token, and all records sealed anew by
// it, beside those who use the store. What was begun before, and not finished, is finished. It returns the epoch of the seals. progress
// is told how many records it has looked at.
func (r *Ring) RotateSeals(ctx context.Context, progress func(int)) (epoch uint32, err error) {
	s := r.cfg.Sealed
	if s == nil || s.Trusted() {
		return 0, ErrNoSeals
	}
	if _, err := s.LookAgain(ctx); err != nil && !errors.Is(err, sealed.ErrChanged) {
		return 0, err
	}
	if err := s.Open(ctx); err != nil {
		return 0, err
	}
	root, ok := s.Root()
	if !ok {
		return 0, ErrNoSeals
	}
	if root.Previous == nil {
		if err := r.nextSeals(ctx, s, root); err != nil {
			return 0, err
		}
		crash.At("seals-begun")
		root, _ = s.Root()
	}
	if err := r.resealAll(ctx, s, progress); err != nil {
		return root.Epoch, err
	}
	crash.At("seals-made")
	err = s.End(ctx)
	if errors.Is(err, keystore.ErrConflict) { // somebody else has finished it
		_, err = s.LookAgain(ctx)
	}
	return root.Epoch, err
}

// nextSeals makes the service key of the next epoch, and begins that.
func (r *Ring) nextSeals(ctx context.Context, s *sealed.Store, root keystore.Seals) error {
	in := r.regions[root.Region]
	if in == nil {
		return fmt.Errorf("the token of %s is not open", root.Region)
	}
	others := slices.DeleteFunc(slices.Clone(r.cfg.Regions), func(name string) bool { return name == root.Region })
	can := func(spec *Spec) bool { return spec.Gap(in.Token) == nil }
	want := serviceKey{name: EpochName(SealKey, root.Epoch+1), regions: append([]string{root.Region}, others...),
		spec: secretsSpecs[max(0, slices.IndexFunc(secretsSpecs, can))]}
	if _, err := r.renewService(ctx, want, true); err != nil { // what was left of one that was begun may be of no use
		return err
	}
	k, err := r.service(ctx, want)
	if err != nil {
		return err
	}
	crash.At("next-key-made")
	next := keystore.Seals{Store: root.Store, Epoch: root.Epoch + 1, Region: k.Record.Region, CKAID: k.Record.CKAID, Spec: k.Record.Spec}
	key, err := SealKeyIn(ctx, in.Token, next)
	if err != nil {
		return err
	}
	err = s.Next(ctx, next, key)
	if errors.Is(err, keystore.ErrConflict) {
		_, lookErr := s.LookAgain(ctx)
		return errors.Join(lookErr, s.Open(ctx))
	}
	return err
}

// resealAll seals records anew until none of the epoch before is left.
func (r *Ring) resealAll(ctx context.Context, s *sealed.Store, progress func(int)) error {
	began := time.Now()
	pause := time.NewTicker(resealPause)
	defer pause.Stop()
	busy := func(ctx context.Context, rec keystore.Record) (bool, error) {
		if time.Since(began) > resealPatience {
			return false, nil
		}
		return r.isWorkedOn(ctx, rec)
	}
	for {
		left, err := s.Reseal(ctx, busy, func(done int) {
			crash.At("records-sealed")
			progress(done)
		})
		if errors.Is(err, sealed.ErrChanged) { // somebody else may have come to the end
			if _, err = s.LookAgain(ctx); err == nil {
				err = s.Open(ctx)
			}
			if root, _ := s.Root(); err == nil && root.Previous == nil {
				return nil
			}
		}
		if err != nil || left == 0 {
			return err
		}
		_, _ = r.Tidy(ctx) // logs what fails
		select {
		case <-pause.C:
		case <-ctx.Done():
			return fmt.Errorf("sealing the records anew: %w", ctx.Err())
		}
	}
}

// isWorkedOn tells whether a record is of a key that a living process is making or removing: it would find its record changed, and give up.
func (r *Ring) isWorkedOn(ctx context.Context, rec keystore.Record) (bool, error) {
	if rec.Ref.Kind != keystore.KindKey {
		return false, nil
	}
	record, err := keystore.DecodeKey(rec)
	if err != nil || !record.State.Unfinished() {
		return false, err
	}
	if record.Instance == r.cfg.Store.Instance() {
		return r.inProgress.has(rec.Ref), nil
	}
	release, err := r.cfg.Store.TakeOver(ctx, record.Instance)
	switch {
	case err == nil:
		release(false)
		return false, nil
	case errors.Is(err, keystore.ErrUndecided):
		return false, nil
	case errors.Is(err, keystore.ErrAlive):
		return true, nil
	}
	return false, err
}
