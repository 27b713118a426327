package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// The token that unlocks a store also keeps, in a private data object, the last seal of the audit log: see audit.LastSeal. It is written
// once the log and the store have what it tells, so that no crash makes it tell more than they do. What it tells of an epoch before counts
// no more: a restore begins a new one.

// lastSealLabel is the label of the object of one store; several can use one token.
func lastSealLabel(root keystore.Seals) string { return "pkcs11kms/audit-seal/" + root.Store.String() }

// ErrRolledBack says that the store, or the log, is older than the token knows it.
var ErrRolledBack = errors.New("this state directory was put back to an earlier time")

// ErrNoData says that the token keeps no last seal.
var ErrNoData = token.ErrNoData

const rolledBackAdvice = "bring it back as it was: kms.db and audit/ belong together\n" +
	"if it is to go on from there, or from a backup: move kms.db (and -wal, -shm) away, and restore the store: pkcs11kms restore FILE\n" +
	"if another directory goes on with a copy of this store: that one alone may use this token"

// LastSeals returns what the token keeps of the last seals of a store. What cannot be read is none.
func LastSeals(ctx context.Context, t *token.Token, root keystore.Seals) (kept []audit.LastSeal, err error) {
	values, err := t.Data(ctx, lastSealLabel(root))
	if err != nil {
		return nil, fmt.Errorf("asking the token of %s for the last seal of the audit log: %w", root.Region, err)
	}
	for _, value := range values {
		if one, err := audit.ParseLastSeal(value); err == nil && one.Store == root.Store.String() {
			kept = append(kept, one)
		}
	}
	return kept, nil
}

// CheckLastSeals refuses a store that is older than what the token keeps, or whose log is, as holds tells; it returns what is kept.
func CheckLastSeals(ctx context.Context, t *token.Token, s *sealed.Store, holds func(audit.Head) error) (kept []audit.LastSeal, err error) {
	root, there := s.Root()
	if !there || root.Unfinished { // which unlocks nothing
		return nil, nil
	}
	if kept, err = LastSeals(ctx, t, root); err != nil || len(kept) == 0 {
		return nil, err
	}
	if latest(kept) > root.Epoch { // who has kept that may have begun the epoch just now
		now, err := sealed.New(ctx, s.Below(), sealed.Options{})
		if err != nil {
			return nil, err
		}
		if is, _ := now.Root(); is.Epoch > root.Epoch {
			return nil, sealed.ErrChanged
		}
	}
	keys, err := SealKeysIn(ctx, t, root)
	if err != nil {
		return nil, err
	}
	for _, one := range kept {
		why, err := olderThan(ctx, one, s.Below(), root, keys, holds)
		if err != nil {
			return nil, fmt.Errorf("comparing the store with the last seal that its token keeps: %w", err)
		}
		if why != "" {
			return nil, &SealError{cause: ErrRolledBack, Advice: rolledBackAdvice, Problem: fmt.Sprintf("%v: the token of %s keeps the last "+
				"seal of its audit log, of %s, and %s", ErrRolledBack, root.Region, one.Time.Format(time.RFC3339), why)}
		}
	}
	return kept, nil
}

// latest is the latest epoch of what is kept; 0: nothing is.
func latest(kept []audit.LastSeal) (epoch uint32) {
	for _, one := range kept {
		epoch = max(epoch, one.Epoch)
	}
	return epoch
}

// olderThan returns how store and log show that they are of before what is kept was; "": they do not.
func olderThan(
	ctx context.Context, kept audit.LastSeal, below keystore.Store, root keystore.Seals, keys sealed.Keys, holds func(audit.Head) error,
) (why string, err error) {
	switch {
	case kept.Epoch < root.Epoch:
		return "", nil // of before a restore
	case kept.Epoch > root.Epoch:
		return fmt.Sprintf("the store is sealed in the epoch %d, and was in the epoch %d", root.Epoch, kept.Epoch), nil
	case kept.Head.Chain == "":
		return "", nil
	}
	err = holds(kept.Head)
	if errors.Is(err, audit.ErrNotHeld) {
		return err.Error(), nil
	}
	if err != nil {
		return "", err
	}
	rec, err := below.Get(ctx, keystore.CounterRef("", "", keystore.CounterSealed+kept.Head.Chain))
	if errors.Is(err, keystore.ErrNotFound) {
		return fmt.Sprintf("the store knows no seal of chain %s, which was sealed up to record %d", kept.Head.Chain, kept.Head.Seq), nil
	}
	if err == nil {
		err = sealed.Check(root, keys, rec)
	}
	if err != nil {
		return "", err
	}
	rec.Seal = nil
	counter, err := keystore.DecodeCounter(rec)
	if err == nil && uint64(counter.N) < kept.Head.Seq {
		why = fmt.Sprintf("the store knows chain %s as sealed up to record %d, and it was up to record %d", kept.Head.Chain, counter.N,
			kept.Head.Seq)
	}
	return why, err
}

// sealsToken is the token that unlocks the store, which keeps the last seal; nil while it is not open, or where there are no seals.
func (r *Ring) sealsToken() (root keystore.Seals, t *token.Token) {
	if r.cfg.Sealed == nil || r.cfg.Sealed.Locked() {
		return root, nil
	}
	root, there := r.cfg.Sealed.Root()
	if in := r.regions[root.Region]; there && in != nil {
		t = in.Token
	}
	return root, t
}

// lastSealInterval is how old what the token keeps becomes before it is written anew: flash memory wears out.
const lastSealInterval = time.Hour

// KeepLastSeal has the token keep that the log was sealed up to a record, which the store knows, if what it keeps is older than an hour or
// this is the end. ErrNoData: it takes no such objects.
func (r *Ring) KeepLastSeal(ctx context.Context, head audit.Head, end bool) error {
	root, t := r.sealsToken()
	if t == nil {
		return nil
	}
	kept, err := LastSeals(ctx, t, root)
	if err != nil {
		return err
	}
	now := r.cfg.Now()
	for _, one := range kept {
		switch age := now.Sub(one.Time); {
		case one.Epoch > root.Epoch:
			return fmt.Errorf("the token keeps the last seal of the epoch %d, of %s, and this store is of the epoch %d: another copy of it was "+
				"restored, and goes on", one.Epoch, one.Time.Format(time.RFC3339), root.Epoch)
		case one.Epoch < root.Epoch:
		case one.Head == head, !end && age >= 0 && age < lastSealInterval:
			return nil
		}
	}
	crash.At("last-seal-begins")
	err = r.replaceLastSeal(ctx, t, root, head)
	crash.At("last-seal-kept")
	return err
}

func (r *Ring) replaceLastSeal(ctx context.Context, t *token.Token, root keystore.Seals, head audit.Head) error {
	head.File = ""
	text := audit.LastSeal{Time: r.cfg.Now(), Store: root.Store.String(), Epoch: root.Epoch, Head: head}.Text()
	return t.ReplaceData(ctx, lastSealLabel(root), text)
}
