package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// AuditSeals is what the store of a state directory knows of the seals of the audit log.
type AuditSeals struct {
	Key    bool              // there is a key that makes them
	Newest uint32            // the number of the key that makes them now; earlier ones have made those of before
	Keys   map[uint32]string // the public keys by the numbers of the keys, in PEM; empty of an HMAC key
	Sealed map[string]uint64 // by chain, up to which record it was sealed when that was kept last
}

// AuditSeals reads it. No token is asked.
func (cfg Config) AuditSeals(ctx context.Context) (s AuditSeals, err error) {
	store, err := cfg.OpenStore(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if s.Sealed, err = keyring.SealedChains(ctx, store); err != nil {
		return s, err
	}
	s.Keys, err = keyring.AuditPublicKeys(ctx, store, slices.Sorted(maps.Keys(cfg.Regions)))
	for epoch := range s.Keys {
		s.Key, s.Newest = true, max(s.Newest, epoch)
	}
	return s, err
}

// PublicKey is that of the key that makes seals now, in PEM; empty of an HMAC key.
func (s AuditSeals) PublicKey() string { return s.Keys[s.Newest] }

// forgetChains takes from a store that was restored what it knows of chains that are not in the audit log here: it was another machine's,
// and nobody would miss them but in vain. It tells which. A store that cannot be opened yet, since it is of an older version, is left as it
// is.
func (cfg Config) forgetChains(ctx context.Context) (done []string) {
	store, err := cfg.OpenStore(ctx)
	if err != nil {
		return nil
	}
	defer store.Close()
	sealed, err := keyring.SealedChains(ctx, store)
	if err != nil {
		return nil
	}
	heads, err := audit.Heads(cfg.AuditDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, head := range heads {
		delete(sealed, head.Chain)
	}
	for _, chain := range slices.Sorted(maps.Keys(sealed)) {
		ref := keystore.CounterRef("", "", keystore.CounterSealed+chain)
		rec, err := store.Get(ctx, ref)
		if err == nil {
			_, err = store.Commit(ctx, keystore.Change{Op: keystore.Delete, Ref: ref, Expect: rec.Version})
		}
		if err == nil {
			done = append(done, fmt.Sprintf("left out that the chain %s of the audit log was sealed up to record %d: it is not in the log of "+
				"this directory", chain, sealed[chain]))
		}
	}
	return done
}

// AuditMACs opens the tokens of a state directory to verify the seals of its audit log where their key is an HMAC key: check is for
// audit.Known, and close closes what was opened. Nothing is recorded of it.
func (cfg Config) AuditMACs(ctx context.Context) (check func(text []byte, s audit.Signature) error, closeAll func() error, err error) {
	cfg.Audit, cfg.ShortLived = audit.Discard, true
	b, err := Open(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	return sealCheck(ctx, b), b.Close, nil
}

func sealCheck(ctx context.Context, b *pkcs11kms.Bridge) func(text []byte, s audit.Signature) error {
	return func(text []byte, s audit.Signature) error { return b.Core().CheckSeal(ctx, text, s) }
}
