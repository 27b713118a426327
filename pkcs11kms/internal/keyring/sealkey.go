package keyring

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// SealKey is the service key that the key of the records' seals is derived by. It is made where and of what the service key of access keys
// would be.
const SealKey = ServicePrefix + "seal"

// SealError says that the records of the store cannot be told from edited ones.
type SealError struct {
	Problem string
	Advice  string // lines
	cause   error
}

// Error says why.
func (e *SealError) Error() string { return e.Problem }

// Hint returns Advice.
func (e *SealError) Hint() string { return e.Advice }

// Unwrap returns the token's answer, or nil.
func (e *SealError) Unwrap() error { return e.cause }

// The commands that seal.
const (
	SealCommand   = "pkcs11kms doctor --seal"
	ResealCommand = "pkcs11kms doctor --reseal"
)

const resealAdvice = "restore the store, or the token, from a backup in which they belong together; or see what the store holds,\n" +
	"and have all of it sealed anew as it is: " + ResealCommand

// Unlock has the token of a region unlock the store, whose seals name that region.
func Unlock(ctx context.Context, t *token.Token, s *sealed.Store) error {
	root, ok := s.Root()
	if !ok {
		return nil
	}
	keys, err := SealKeysIn(ctx, t, root)
	if err != nil {
		return err
	}
	var broken *sealed.Error
	err = s.Unlock(ctx, keys)
	switch {
	case errors.As(err, &broken):
		return &SealError{cause: err, Advice: resealAdvice,
			Problem: fmt.Sprintf("the store is not sealed by the key that it names in the token of %s: %v", root.Region, err)}
	case errors.Is(err, sealed.ErrUnfinished):
		return &SealError{cause: err, Problem: err.Error(), Advice: "run it again: " + ResealCommand}
	}
	return err
}

// SealKeysIn makes the keys of the seals that root tells of: of the epoch before as well, where its seals still count. That is of the same
// region.
func SealKeysIn(ctx context.Context, t *token.Token, root keystore.Seals) (keys sealed.Keys, err error) {
	if keys.Present, err = SealKeyIn(ctx, t, root); err != nil {
		return keys, err
	}
	before, ok := sealed.Before(root)
	if !ok {
		return keys, nil
	}
	if before.Region != root.Region {
		return keys, &SealError{Advice: resealAdvice, Problem: fmt.Sprintf("the store names two regions for its seals, %s and %s", root.Region,
			before.Region)}
	}
	previous, err := SealKeyIn(ctx, t, before)
	keys.Previous = &previous
	return keys, err
}

// isSealKey tells whether a label is that of a service key of the seals that an epoch can have: one of then, or of before.
func isSealKey(label string, of keystore.Seals) bool {
	epoch, ok := EpochOf(SealKey, label)
	return ok && epoch <= of.Epoch
}

// SealKeyIn makes the key of the seals that root tells of, by the token of its region. What root says is not proved before: the
// object that it names must have the label of the service key, so that nobody has a key of his own named there, and its MAC of
// the text made for him.
func SealKeyIn(ctx context.Context, t *token.Token, root keystore.Seals) (sealed.Key, error) {
	describe := t.Describe
	if MACSpecOf(types.KeySpec(root.Spec)) == nil {
		describe = t.DescribePair
	}
	object, err := describe(ctx, root.CKAID)
	switch {
	case errors.Is(err, token.ErrKeyMissing):
		return sealed.Key{}, &SealError{cause: err, Advice: resealAdvice, Problem: fmt.Sprintf("the token of %s has no object of the "+
			"service key of the store's seals, CKA_ID %s", root.Region, root.CKAID)}
	case err != nil:
		return sealed.Key{}, err
	case !isSealKey(object.Label, root):
		return sealed.Key{}, &SealError{Advice: resealAdvice, Problem: fmt.Sprintf("the object with the CKA_ID %s in the token of %s, which "+
			"the store names for its seals, is not the service key for them: its label is %q", root.CKAID, root.Region, object.Label)}
	}
	return deriveSealKey(opened{ctx, t}, root)
}

// deriveSealKey makes the key of the seals.
func deriveSealKey(p prover, root keystore.Seals) (key sealed.Key, err error) {
	text := sealed.KeyText(root)
	if spec := MACSpecOf(types.KeySpec(root.Spec)); spec != nil {
		mac, err := p.MAC(spec.Hash, root.CKAID, text)
		if err == nil && len(mac) != len(key) {
			err = fmt.Errorf("a MAC of %d bytes for the key of the seals", len(mac))
		}
		copy(key[:], mac)
		return key, err
	}
	spec := SignSpecOf(types.KeySpec(root.Spec), types.KeyUsageTypeSignVerify)
	if spec == nil || !spec.Pair.Allows(secretsAlgorithm) {
		return key, fmt.Errorf("the service key of the seals has the spec %q", root.Spec)
	}
	signature, err := p.Sign(spec.Pair, secretsAlgorithm, root.CKAID, text)
	return sha256.Sum256(signature), err
}

// sealRegion is the region whose token unlocks the store; "" when nothing needs to be unlocked.
func (c Config) sealRegion() (string, error) {
	if c.Sealed == nil || !c.Sealed.Locked() {
		return "", nil
	}
	root, _ := c.Sealed.Root()
	if !slices.Contains(c.Regions, root.Region) {
		return "", &SealError{Problem: fmt.Sprintf("the records of the store are sealed by a key in the token of %s, and the configuration "+
			"does not name this region", root.Region),
			Advice: "put the region back; in a state directory it stands in config.yaml. If its HSM is gone for good: " + ResealCommand}
	}
	return root.Region, nil
}

// unlock has the store unlocked by the token that its seals name.
func (r *Ring) unlock(ctx context.Context) error {
	root, _ := r.cfg.Sealed.Root()
	in := r.regions[root.Region]
	if in == nil {
		return fmt.Errorf("the token of %s is not open", root.Region)
	}
	if err := r.refuseRolledBack(ctx, in); err != nil {
		return err
	}
	return Unlock(ctx, in.Token, r.cfg.Sealed)
}

// refuseRolledBack refuses a store that the token knows as a later one, for good: what was put back stays so.
func (r *Ring) refuseRolledBack(ctx context.Context, in *Region) error {
	if r.cfg.Holds == nil {
		return nil
	}
	if known := r.rolledBack.Load(); known != nil {
		return known
	}
	_, err := CheckLastSeals(ctx, in.Token, r.cfg.Sealed, r.cfg.Holds)
	if refused, ok := errors.AsType[*SealError](err); ok && errors.Is(err, ErrRolledBack) {
		r.rolledBack.Store(refused)
		r.cfg.Log.Error("nothing is done with this store", "error", err)
	}
	return err
}

// refuseUnsealed refuses a store without seals where the token has a key for them: who can write to the store must not be able to take
// them away.
func (r *Ring) refuseUnsealed(ctx context.Context, in *Region) error {
	if r.cfg.Sealed == nil || r.cfg.Sealed.Trusted() {
		return nil
	}
	if _, ok := r.cfg.Sealed.Root(); ok {
		return nil
	}
	there, err := hasSealKey(ctx, in.Token)
	if err != nil || !there {
		return err
	}
	if sealedNow, err := r.cfg.Sealed.LookAgain(ctx); err != nil || sealedNow { // by another process, just now
		return err
	}
	if empty, err := hasNothing(ctx, r.cfg.Sealed.Below()); err != nil || empty {
		return err
	}
	return &SealError{Problem: fmt.Sprintf("the token of %s has a key for the seals of records, and the records of this store have none",
		in.Name), Advice: "if the seals were taken away: restore the store from a backup\n" +
		"if it never had any, as when another state directory uses the same token: see what it holds, and have it sealed: " + SealCommand}
}

// hasSealKey tells whether a token has a service key of the seals, of whatever epoch.
func hasSealKey(ctx context.Context, t *token.Token) (bool, error) {
	if there, err := t.Labelled(ctx, SealKey); err != nil || there {
		return there, err
	}
	objects, err := t.Objects(ctx) // the first may have been retired
	return slices.ContainsFunc(objects, func(o token.Object) bool {
		_, ok := EpochOf(SealKey, o.Label)
		return ok
	}), err
}
