package keyring

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Key material is imported in envelopes for RSA pairs of the region's token: service keys, of which there is one a day for each length
// and way of opening that somebody asks for, so that nobody can fill the token by asking. One of a day serves the import tokens of that
// day, which are good for 24 hours, and is destroyed when the last of them is over, as keys are that are scheduled for deletion.

// wrappingPrefix begins the ids of such pairs: wrapping/unwrap/RSA_4096/2026-12-01.
const wrappingPrefix = ServicePrefix + "wrapping/"

// Usages of wrapping pairs in their records, which no key of the API has.
const (
	usageUnwrap  types.KeyUsageType = "UNWRAP_KEY_MATERIAL"
	usageDecrypt types.KeyUsageType = "DECRYPT_KEY_MATERIAL"
)

// WrappingPair tells whether a record is of a pair for envelopes, and how that opens them.
func WrappingPair(record keystore.Key) (o token.Opening, ok bool) {
	if record.Account != "" || !strings.HasPrefix(record.ID, wrappingPrefix) {
		return 0, false
	}
	switch types.KeyUsageType(record.Usage) {
	case usageUnwrap:
		return token.Unwraps, true
	case usageDecrypt:
		return token.Decrypts, true
	}
	return 0, false
}

const day = 24 * time.Hour

// wrappingMargin is how long a pair stays when nothing needs it any more: clocks of several machines differ.
const wrappingMargin = time.Hour

// wrappingOf is the service key for the envelopes of a day.
func wrappingOf(in *Region, pair pubkey.Spec, o token.Opening, now time.Time) serviceKey {
	spec := &Spec{Pair: pair, Usage: usageUnwrap, Wraps: true}
	if o == token.Decrypts {
		spec.Usage = usageDecrypt
	}
	for _, known := range SignSpecs {
		if known.Pair == pair {
			spec.Name = known.Name
		}
	}
	way, _, _ := strings.Cut(strings.ToLower(string(spec.Usage)), "_")
	spec.Until = now.UTC().Truncate(day).Add(2*day + wrappingMargin)
	return serviceKey{wrappingPrefix + way + "/" + string(spec.Name) + "/" + now.UTC().Format(time.DateOnly), []string{in.Name}, spec}
}

// wrappingPair returns the pair for the envelopes of today, which is made when there is none.
func (r *Ring) wrappingPair(ctx context.Context, in *Region, pair pubkey.Spec, o token.Opening) (*Key, error) {
	want := wrappingOf(in, pair, o, r.Later())
	k, err := r.findService(ctx, want)
	if errors.Is(err, keystore.ErrNotFound) {
		r.destroyOldWrapping(ctx, in)
		k, err = r.service(ctx, want)
	}
	if err != nil {
		return nil, err
	}
	if _, ok := WrappingPair(k.Record); !ok {
		return nil, fmt.Errorf("the service key %s has the usage %s", k.Record.ID, k.Record.Usage)
	}
	return k, nil
}

// mostWrapping bounds the pairs that are looked at when one is made: six a day, of three days, and some that could not be destroyed.
const mostWrapping = 100

// destroyOldWrapping destroys the pairs whose time is over, also in processes that are too short for DestroyDue.
func (r *Ring) destroyOldWrapping(ctx context.Context, in *Region) {
	recs, err := r.cfg.Store.List(ctx, keystore.KindKey, in.Name, "", wrappingPrefix, mostWrapping)
	if err != nil {
		return // it is tried again with the next one
	}
	for _, rec := range recs {
		record, err := keystore.DecodeKey(rec)
		if err != nil || record.State != keystore.PendingDeletion || record.DeletionDate.After(r.cfg.Now()) {
			continue
		}
		if _, ok := WrappingPair(record); !ok {
			continue
		}
		if err := r.destroyKey(ctx, record, rec.Version); err != nil {
			r.cfg.Log.Warn("a pair for envelopes whose time is over is not destroyed", "key", record.ID, "error", err)
		}
	}
}

// rsaOf is the public key of a wrapping pair.
func rsaOf(record keystore.Key) (*rsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(record.PublicKey)
	public, ok := parsed.(*rsa.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("the service key %s has no RSA public key on record", record.ID)
	}
	return public, nil
}
