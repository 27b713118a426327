package core

import (
	"context"
	"errors"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// Errors of RotateAudit.
var (
	ErrNotSealed    = errors.New("the audit log is not sealed: it is no log in files")
	ErrNoServiceKey = errors.New("there is no such key yet")
)

// RotateAudit has the service key of the audit log followed by another one, which it makes, and has the log tell of that by both. One
// that was begun, and not finished, is finished. It returns the number of the new key.
func (c *Core) RotateAudit(ctx context.Context) (epoch uint32, err error) {
	log, ok := c.audit.(sealable)
	if !ok {
		return 0, ErrNotSealed
	}
	keys, err := c.Keys.Epochs(ctx, keyring.AuditKey)
	if err != nil {
		return 0, err
	}
	if len(keys) == 0 {
		return 0, ErrNoServiceKey
	}
	last := keys[len(keys)-1]
	if over, err := (&sealer{c: c}).Handover(ctx); err != nil || over != nil { // which somebody else has begun
		if err == nil {
			err = log.HandOver(ctx, &sealer{c: c})
		}
		return last.Epoch, err
	}
	// One that signs no more could not say which follows it.
	if _, err := c.Keys.SignAuditBy(ctx, last, []byte("pkcs11kms: does this key sign?")); err != nil {
		return 0, err
	}
	if err := c.Keys.NextAuditKey(ctx, last.Epoch+1); err != nil {
		return 0, err
	}
	return last.Epoch + 1, log.HandOver(ctx, &sealer{c: c})
}

// Handover implements audit.Sealer: the newest key is to be told of once.
func (s *sealer) Handover(ctx context.Context) (*audit.Handover, error) {
	keys, err := s.c.Keys.Epochs(ctx, keyring.AuditKey)
	if err != nil || len(keys) < 2 {
		return nil, err
	}
	old, next := keys[len(keys)-2], keys[len(keys)-1]
	told, err := s.c.Keys.AuditTold(ctx)
	if err != nil || told >= next.Epoch {
		return nil, err
	}
	return &audit.Handover{Epoch: next.Epoch, From: s.key(old), To: s.key(next),
		Check: func(ctx context.Context, text []byte, signature audit.Signature) error {
			return s.c.checkSeal(ctx, []keyring.EpochRecord{old}, text, signature)
		},
		Done: func(ctx context.Context) error { return s.c.Keys.TellAudit(ctx, next.Epoch) },
	}, nil
}

func (s *sealer) key(k keyring.EpochRecord) audit.HandoverKey {
	return audit.HandoverKey{ID: sealKeyID(k.Record.PublicKey, k.Record.CKAID), Public: k.Record.PublicKey,
		Sign: func(ctx context.Context, text []byte) (audit.Signature, error) {
			signed, err := s.c.Keys.SignAuditBy(ctx, k, text)
			return signatureOf(signed), err
		}}
}
