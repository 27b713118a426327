package keyring

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/sealed"
)

// AuditKey is the service key that seals the audit log. It is made in the token of the default region when the first seal is, and stays
// there. It is a pair, so that seals are verified without the token; where that makes none, an HMAC key.
const AuditKey = ServicePrefix + "audit"

// auditSpecs are what it is made of: the first that the token can do.
var auditSpecs = []*Spec{
	SignSpecOf(types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify),
	SignSpecOf(types.KeySpecRsa2048, types.KeyUsageTypeSignVerify),
	MACSpecOf(types.KeySpecHmac256),
}

// auditKey says of what and where the service key of the audit log is made when it is not there.
func (r *Ring) auditKey() serviceKey {
	want := serviceKey{AuditKey, r.cfg.Regions, auditSpecs[0]}
	home := r.regions[r.cfg.Regions[0]]
	if home == nil {
		return want
	}
	for _, spec := range auditSpecs {
		if spec.Gap(home.Token) == nil {
			want.spec = spec
			break
		}
	}
	return want
}

// AuditSignature is a signature, or MAC, by the service key of the audit log.
type AuditSignature struct {
	Algorithm string // as the API names it
	Public    []byte // of the pair: DER SubjectPublicKeyInfo; nil of an HMAC key
	CKAID     keystore.HexBytes
	Value     []byte
}

// SignAudit signs a text by the service key of the audit log, which is made when it is not there.
func (r *Ring) SignAudit(ctx context.Context, text []byte) (AuditSignature, error) {
	k, err := r.service(ctx, r.auditKey())
	if err != nil {
		return AuditSignature{}, err
	}
	return k.signAudit(ctx, text)
}

// SignAuditAgain is SignAudit by the key that there is; keystore.ErrNotFound: there is none.
func (r *Ring) SignAuditAgain(ctx context.Context, text []byte) (AuditSignature, error) {
	k, err := r.findService(ctx, r.auditKey())
	if err != nil {
		return AuditSignature{}, err
	}
	return k.signAudit(ctx, text)
}

func (k *Key) signAudit(ctx context.Context, text []byte) (s AuditSignature, err error) {
	s.CKAID = k.Record.CKAID
	switch key := k.Material.(type) {
	case *HMAC:
		s.Algorithm = string(key.Spec.Algorithm)
		s.Value, err = key.MAC(ctx, text)
		return s, err
	case *Pair:
		algorithm := pubkey.PKCS1SHA256
		if key.Curve() {
			algorithm = pubkey.ECDSASHA256
		}
		if names := key.Spec.NamesOf([]pubkey.Algorithm{algorithm}); len(names) == 1 {
			s.Algorithm, s.Public = string(names[0]), k.Record.PublicKey
			s.Value, err = key.Sign(ctx, algorithm, text)
			return s, err
		}
	}
	return s, fmt.Errorf("the service key %s has the spec %s", k.Record.ID, k.Record.Spec)
}

// AuditPublicKey returns the record of the service key of the audit log, and its public key in PEM, "" of an HMAC key;
// keystore.ErrNotFound: there is none. It asks no token, so the seal of the record is not checked.
func AuditPublicKey(ctx context.Context, below keystore.Store, regions []string) (record keystore.Key, text string, err error) {
	store := sealed.Trusting(below)
	for _, region := range regions {
		rec, err := store.Get(ctx, keystore.KeyRef(region, "", AuditKey))
		if errors.Is(err, keystore.ErrNotFound) {
			continue
		}
		if err != nil {
			return record, "", err
		}
		if record, err = keystore.DecodeKey(rec); err != nil || record.State.Unfinished() {
			return record, "", errors.Join(err, keystore.ErrNotFound)
		}
		if len(record.PublicKey) == 0 {
			return record, "", nil
		}
		return record, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: record.PublicKey})), nil
	}
	return record, "", keystore.ErrNotFound
}

// SealedChains returns up to which record each chain of the audit log was sealed, as the store knows it. It asks no token either.
func SealedChains(ctx context.Context, below keystore.Store) (map[string]uint64, error) {
	store, chains := sealed.Trusting(below), map[string]uint64{}
	for after := keystore.CounterSealed; ; {
		recs, err := store.List(ctx, keystore.KindCounter, "", "", after, keystore.MaxPage)
		if err != nil {
			return nil, err
		}
		for _, rec := range recs {
			chain, ok := strings.CutPrefix(rec.Ref.ID, keystore.CounterSealed)
			if !ok {
				return chains, nil
			}
			counter, err := keystore.DecodeCounter(rec)
			if err != nil {
				return nil, err
			}
			chains[chain], after = uint64(counter.N), rec.Ref.ID
		}
		if len(recs) < keystore.MaxPage {
			return chains, nil
		}
	}
}
