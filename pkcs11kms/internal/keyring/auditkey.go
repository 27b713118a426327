package keyring

import (
	"context"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/crash"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
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

// SignAudit signs a text by the present service key of the audit log, which is made when it is not there.
func (r *Ring) SignAudit(ctx context.Context, text []byte) (AuditSignature, error) {
	for {
		k, epoch, err := r.newestOrFirst(ctx, r.auditKey())
		if err != nil {
			return AuditSignature{}, err
		}
		signature, err := k.signAudit(ctx, text)
		if err != nil {
			return AuditSignature{}, err
		}
		// One that was followed meanwhile has signed for nothing.
		if _, now, err := r.newest(ctx, AuditKey); err != nil || now == epoch {
			return signature, err
		}
	}
}

// SignAuditBy is SignAudit by a key that there is.
func (r *Ring) SignAuditBy(ctx context.Context, by EpochRecord, text []byte) (AuditSignature, error) {
	k, err := r.keyOf(by)
	if err != nil {
		return AuditSignature{}, err
	}
	return k.signAudit(ctx, text)
}

// NextAuditKey makes the service key of the audit log that follows all that there are. From then on SignAudit signs by it.
func (r *Ring) NextAuditKey(ctx context.Context, epoch uint32) error {
	want := r.auditKey()
	want.name = EpochName(AuditKey, epoch)
	_, err := r.service(ctx, want)
	crash.At("next-key-made")
	return err
}

// AuditTold is the number of the newest key that the audit log tells of; 0 where no key was followed yet.
func (r *Ring) AuditTold(ctx context.Context) (epoch uint32, err error) {
	counter, _, err := records.ReadCounter(ctx, r.cfg.Store, "", "", keystore.CounterHandover)
	return uint32(counter.N), err
}

// TellAudit keeps that the audit log tells of a key.
func (r *Ring) TellAudit(ctx context.Context, epoch uint32) error {
	crash.At("audit-handed-over")
	return records.RetryConflicts(ctx, func() error {
		counter, version, err := records.ReadCounter(ctx, r.cfg.Store, "", "", keystore.CounterHandover)
		if err != nil || counter.N >= int(epoch) {
			return err
		}
		counter.N = int(epoch)
		_, err = r.cache.Commit(ctx, counter.Put(version))
		return err
	})
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

// AuditPublicKeys returns the public keys of the service keys of the audit log in PEM, by their epochs; "" of an HMAC key. It asks no
// token, so the seals of their records are not checked.
func AuditPublicKeys(ctx context.Context, below keystore.Store, regions []string) (map[uint32]string, error) {
	all, err := EpochRecords(ctx, sealed.Trusting(below), regions, AuditKey)
	keys := map[uint32]string{}
	for _, e := range all {
		keys[e.Epoch] = ""
		if len(e.Record.PublicKey) > 0 {
			keys[e.Epoch] = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: e.Record.PublicKey}))
		}
	}
	return keys, err
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
