package core

import (
	"context"
	"crypto/hmac"
	"slices"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// sealable is an audit writer that can be sealed: an *audit.Log.
type sealable interface {
	SealBy(audit.Sealer) (stop func(context.Context))
}

// sealer seals the audit log by the service key for that, and keeps in the store how far it is.
type sealer struct{ c *Core }

// Sign implements audit.Sealer.
func (s sealer) Sign(ctx context.Context, text []byte) (audit.Signature, error) {
	signed, err := s.c.Keys.SignAudit(ctx, text) // which bounds itself
	return signatureOf(signed), err
}

// Check implements audit.Sealer.
func (s sealer) Check(ctx context.Context, text []byte, signature audit.Signature) error {
	return s.c.CheckSeal(ctx, text, signature)
}

// maxKept is how many counters one commit raises.
const maxKept = keystore.MaxChanges / 2

// Keep implements audit.Sealer. The counters only rise: among processes the one that has sealed more wins.
func (s sealer) Keep(ctx context.Context, sealed []audit.Head) error {
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

func (s sealer) raise(ctx context.Context, sealed []audit.Head) error {
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

// signatureOf names the key that has signed: a pair by its public key, an HMAC key, of which only the token knows more, by its CKA_ID.
func signatureOf(s keyring.AuditSignature) audit.Signature {
	key := s.CKAID.String()
	if s.Public != nil {
		key = audit.SealKeyID(s.Public)
	}
	return audit.Signature{Algorithm: s.Algorithm, Key: key, Value: s.Value}
}

// CheckSeal tells whether a signature of a seal's text is the service key's, or a MAC where that is an HMAC key, of which only the token
// can tell.
func (c *Core) CheckSeal(ctx context.Context, text []byte, s audit.Signature) error {
	made, err := c.Keys.SignAuditAgain(ctx, text)
	if err != nil {
		return err
	}
	want := signatureOf(made)
	if made.Public != nil {
		keys, err := audit.SealKeyOf(made.Public)
		if err != nil {
			return err
		}
		return keys.Check(text, s)
	}
	if want.Algorithm != s.Algorithm || want.Key != s.Key || !hmac.Equal(want.Value, s.Value) {
		return audit.ErrWrongSignature
	}
	return nil
}
