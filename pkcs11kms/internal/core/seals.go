package core

import (
	"context"
	"crypto/hmac"
	"errors"
	"slices"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

// sealable is an audit writer that can be sealed: an *audit.Log.
type sealable interface {
	SealBy(audit.Sealer) (stop func(context.Context))
	HandOver(context.Context, audit.Sealer) error
	Holds(audit.Head) error
	TokenSeal() bool
}

// sealer seals the audit log by the service key for that, and keeps in the store how far it is, and the last seal in the token. It is for
// one goroutine at a time.
type sealer struct {
	c     *Core
	token bool // which is to keep the last seal, and has not refused that
}

// Sign implements audit.Sealer.
func (s *sealer) Sign(ctx context.Context, text []byte) (audit.Signature, error) {
	signed, err := s.c.Keys.SignAudit(ctx, text) // which bounds itself
	return signatureOf(signed), err
}

// Check implements audit.Sealer, by the present key.
func (s *sealer) Check(ctx context.Context, text []byte, signature audit.Signature) error {
	keys, err := s.c.Keys.Epochs(ctx, keyring.AuditKey)
	if err != nil {
		return err
	}
	return s.c.checkSeal(ctx, keys[max(0, len(keys)-1):], text, signature)
}

// maxKept is how many counters one commit raises.
const maxKept = keystore.MaxChanges / 2

// Keep implements audit.Sealer. The counters only rise: among processes the one that has sealed more wins.
func (s *sealer) Keep(ctx context.Context, sealed []audit.Head) error {
	ctx, cancel := context.WithTimeout(ctx, s.c.CallTimeout)
	defer cancel()
	for some := range slices.Chunk(sealed, maxKept) {
		err := records.RetryConflicts(ctx, func() error { return s.raise(ctx, some) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *sealer) raise(ctx context.Context, sealed []audit.Head) error {
	var changes []keystore.Change
	for _, head := range sealed {
		counter, version, err := records.ReadCounter(ctx, s.c.Store, "", "", keystore.CounterSealed+head.Chain)
		if err != nil {
			return err
		}
		if n := int(head.Seq); n > counter.N {
			counter.N = n
			changes = append(changes, counter.Put(version))
		}
	}
	if len(changes) == 0 {
		return nil
	}
	_, err := s.c.Cache.Commit(ctx, changes...)
	return err
}

// KeepOutside implements audit.Sealer.
func (s *sealer) KeepOutside(ctx context.Context, sealed audit.Head, end bool) error {
	if !s.token {
		return nil
	}
	err := s.c.Keys.KeepLastSeal(ctx, sealed, end)
	if errors.Is(err, keyring.ErrNoData) {
		s.token = false
		s.c.Log.Info("the token keeps no data objects, and so not the last seal of the audit log: that log and store were put back together to "+
			"an earlier time is not found by it", "answer", err)
		return nil
	}
	return err
}

// Checkpoint implements audit.Sealer.
func (s *sealer) Checkpoint(ctx context.Context) (*audit.Checkpoint, error) {
	if _, there := s.c.Store.Root(); !there {
		return nil, nil
	}
	made, err := s.c.Store.Checkpoint(ctx)
	if errors.Is(err, sealed.ErrNoSnapshot) {
		return nil, nil
	}
	return made, err
}

// sealKeyID names a key: a pair by its public key, an HMAC key, of which only the token knows more, by its CKA_ID.
func sealKeyID(public, ckaID keystore.HexBytes) string {
	if public != nil {
		return audit.SealKeyID(public)
	}
	return ckaID.String()
}

func signatureOf(s keyring.AuditSignature) audit.Signature {
	return audit.Signature{Algorithm: s.Algorithm, Key: sealKeyID(s.Public, s.CKAID), Value: s.Value}
}

// CheckSeal tells whether a signature of a seal's text is by one of the service keys of the audit log, or a MAC where that is an HMAC key,
// of which only the token can tell.
func (c *Core) CheckSeal(ctx context.Context, text []byte, s audit.Signature) error {
	keys, err := c.Keys.Epochs(ctx, keyring.AuditKey)
	if err != nil {
		return err
	}
	return c.checkSeal(ctx, keys, text, s)
}

func (c *Core) checkSeal(ctx context.Context, keys []keyring.EpochRecord, text []byte, s audit.Signature) error {
	i := slices.IndexFunc(keys, func(k keyring.EpochRecord) bool { return sealKeyID(k.Record.PublicKey, k.Record.CKAID) == s.Key })
	if i < 0 {
		return audit.ErrNoSuchKey
	}
	if public := keys[i].Record.PublicKey; public != nil {
		keys, err := audit.SealKeyOf(public)
		if err != nil {
			return err
		}
		return keys.Check(text, s)
	}
	made, err := c.Keys.SignAuditBy(ctx, keys[i], text)
	if err != nil {
		return err
	}
	if want := signatureOf(made); want.Algorithm != s.Algorithm || !hmac.Equal(want.Value, s.Value) {
		return audit.ErrWrongSignature
	}
	return nil
}
