package keyring

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// OpenToken opens the token of a region, makes sure that it is the one that the store's keys live in, and notes in the store what it
// calls itself. Its error is a *BindingError if it is another. config says how the token is opened, but for Serial, Known and Prove.
func OpenToken(ctx context.Context, store keystore.Store, region string, config token.Config) (*token.Token, error) {
	bound, version, err := readRegion(ctx, store, region)
	if err != nil {
		return nil, err
	}
	t, err := OpenBound(ctx, store, bound, config)
	if err != nil {
		return nil, err
	}
	if err := note(ctx, store, bound, version, t, slog.New(slog.DiscardHandler)); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// OpenBound is OpenToken without a note.
func OpenBound(ctx context.Context, store keystore.Store, bound keystore.Region, config token.Config) (*token.Token, error) {
	if bound.Binding != nil {
		config.Known = NamesIn(bound)
	} else {
		config.Serial = bound.Serial
	}
	config.Prove = func(ctx context.Context, p token.Prover) error {
		now, _, err := readRegion(ctx, store, bound.Name) // it can have been bound since
		if err != nil {
			return err
		}
		return judge(now, p)
	}
	config.Recall = func(ctx context.Context, i token.Info) token.Learnt {
		return recall(ctx, store, bound.Name, i, config.Logger)
	}
	t, err := token.Open(ctx, config)
	if refused, ok := errors.AsType[*token.OpenError](err); ok && refused.Reason == token.SerialMismatch {
		err = misnamed(bound, refused)
	}
	return t, err
}

// OpenAnyway opens the token that config names, whatever it proves, and returns as verdict why it would not be taken for that of the
// region. Nothing may be made in it.
func OpenAnyway(ctx context.Context, bound keystore.Region, config token.Config) (t *token.Token, verdict, err error) {
	config.Prove = func(_ context.Context, p token.Prover) error {
		verdict = judge(bound, p)
		return nil
	}
	config.Wait = false
	t, err = token.Open(ctx, config)
	return t, verdict, err
}

// BoundTo reads which token a region belongs to; a Region without a serial when it was never used.
func BoundTo(ctx context.Context, store keystore.Store, region string) (keystore.Region, error) {
	bound, _, err := readRegion(ctx, store, region)
	return bound, err
}

// readRegion is BoundTo with the version of the record, 0 when there is none.
func readRegion(ctx context.Context, store keystore.Store, region string) (keystore.Region, uint64, error) {
	rec, err := store.Get(ctx, keystore.RegionRef(region))
	if errors.Is(err, keystore.ErrNotFound) {
		return keystore.Region{Name: region}, 0, nil
	}
	if err != nil {
		return keystore.Region{Name: region}, 0, err
	}
	bound, err := keystore.DecodeRegion(rec)
	return bound, rec.Version, err
}

// NamesIn are the names that a region's token had when it was last used.
func NamesIn(bound keystore.Region) token.Names {
	return token.Names{Label: bound.Label, Serial: bound.Serial, Manufacturer: bound.Manufacturer, Model: bound.Model}
}

// Renamed tells whether a token calls itself otherwise than when it was last used.
func Renamed(bound keystore.Region, now token.Names) bool {
	return NamesIn(bound) != NamesIn(named(bound, now))
}

// named is the region with other names of its token, in the form that the store keeps them in.
func named(bound keystore.Region, n token.Names) keystore.Region {
	for _, name := range []struct {
		kept *string
		now  string
	}{{&bound.Label, n.Label}, {&bound.Serial, n.Serial}, {&bound.Manufacturer, n.Manufacturer}, {&bound.Model, n.Model}} {
		*name.kept = strings.ToValidUTF8(name.now, "\uFFFD")
	}
	return bound
}

// note keeps what the token of a region calls itself: when the region is used for the first time, and when it has proved to be the same
// under other names, as after an update of its firmware. A region that was retired and whose token is there after all may not be missing
// in the configuration again. That a change of names cannot be kept is no reason to refuse the token.
func note(ctx context.Context, store keystore.Store, bound keystore.Region, version uint64, t *token.Token, log *slog.Logger) error {
	names := t.Info().Names()
	renamed := bound.Binding != nil && Renamed(bound, names)
	if renamed {
		log.Warn("the token of a region calls itself otherwise than before, and has proved to be the same", "region", bound.Name,
			"was", NamesIn(bound).String(), "is", names.String())
	}
	if version > 0 && bound.Retired == nil && !renamed {
		return nil
	}
	now := bound
	if version == 0 || renamed {
		now = named(bound, names)
	}
	now.Retired = nil
	_, err := store.Commit(ctx, now.Put(version))
	switch {
	case errors.Is(err, keystore.ErrConflict):
		return sameBinding(ctx, store, now)
	case err != nil && renamed && bound.Retired == nil:
		log.Warn("the new names of the token of a region cannot be kept", "region", bound.Name, "error", err)
		return nil
	}
	return err
}

// sameBinding makes sure, when another process has changed the record of a region meanwhile, that it meant the same token.
func sameBinding(ctx context.Context, store keystore.Store, ours keystore.Region) error {
	theirs, _, err := readRegion(ctx, store, ours.Name)
	switch {
	case err != nil:
		return err
	case ours.Binding == nil && theirs.Serial != ours.Serial:
		return fmt.Errorf("region %s was bound to the token with the serial %s meanwhile, this one has %s", ours.Name, theirs.Serial, ours.Serial)
	case ours.Binding != nil && (theirs.Binding == nil || theirs.Binding.CKAID.String() != ours.Binding.CKAID.String()):
		return fmt.Errorf("region %s was bound to another token meanwhile", ours.Name)
	}
	return nil
}
