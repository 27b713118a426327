package keyring

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Health has every token make a MAC by the service key or, where there is none, a MAC or signature by another enabled key of the
// region. It returns what kept the tokens from it, by region. All are asked at once, so that one that hangs leaves time for the
// others, each on a session that is kept for this; one that is busy is well.
func (r *Ring) Health(ctx context.Context) map[string]error {
	failed := map[string]error{}
	var mu sync.Mutex // guards failed
	var asked sync.WaitGroup
	for name, region := range r.regions {
		asked.Go(func() {
			err := r.tokenHealth(ctx, region)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[name] = err
			}
		})
	}
	asked.Wait()
	return failed
}

// tokenHealth tries the keys of a region until one works: the key of a caller may be damaged while the token is well.
func (r *Ring) tokenHealth(ctx context.Context, region *Region) error {
	keys, err := r.healthKeys(ctx, region)
	if err != nil || len(keys) == 0 { // that the store fails is said by whoever asks the store
		return ignoreBusy(region.Token.Healthy(ctx))
	}
	for _, k := range keys {
		err = ignoreBusy(k.healthy(ctx))
		if err == nil || ctx.Err() != nil || errors.Is(err, token.ErrGone) {
			return err
		}
	}
	return err
}

func ignoreBusy(err error) error {
	if errors.Is(err, token.ErrBusy) {
		return nil
	}
	return err
}

// healthCandidates bounds how many keys of callers one check looks at, and triedKeys how many it uses.
const (
	healthCandidates = 100
	triedKeys        = 3
)

// healthKeys returns the service key, without which nobody can be authenticated; or else some keys of callers that are
// enabled, those of MACs first.
func (r *Ring) healthKeys(ctx context.Context, region *Region) ([]Material, error) {
	service, err := r.serviceIn(ctx, region.Name, SecretsKey)
	if errors.Is(err, keystore.ErrNotFound) { // which may have been followed by another one
		var newest *Key
		if newest, _, err = r.newest(ctx, SecretsKey); err == nil && newest.Record.Region != region.Name {
			err = keystore.ErrNotFound
		}
		service = newest
	}
	if !errors.Is(err, keystore.ErrNotFound) {
		if err != nil {
			return nil, err
		}
		return []Material{service.Material}, nil
	}
	serviceKeys := keystore.KeyRef(region.Name, "", lastID) // which come before those of the accounts
	recs, err := r.cfg.Store.Lookup(ctx, keystore.IndexCKAID, "", serviceKeys, healthCandidates)
	if err != nil {
		return nil, err
	}
	recs = slices.DeleteFunc(recs, func(rec keystore.Record) bool { return rec.Ref.Region != region.Name })
	var macs, others []Material
	for _, rec := range recs {
		k, err := r.Decode(rec)
		if err != nil || k.Record.State != keystore.Enabled || k.Material == nil {
			continue
		}
		if _, ok := k.Material.(*HMAC); ok {
			macs = append(macs, k.Material)
		} else {
			others = append(others, k.Material)
		}
	}
	keys := slices.Concat(macs, others)
	return keys[:min(len(keys), triedKeys)], nil
}
