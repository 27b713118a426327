package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// The values of HealthProblem.Reason.
const (
	ReasonStoreFailed   = "store-failed"    // the store does not answer, or with an error
	ReasonStoreBusy     = "store-busy"      // nothing can be changed: somebody holds the store's write lock
	ReasonStoreFull     = "store-full"      // nothing can be changed: the disk or a quota is full
	ReasonStoreReadOnly = "store-read-only" // nothing can be changed: the file system is mounted read-only
	ReasonTokenLost     = "token-lost"      // the device is gone, or its objects cannot be reached
	ReasonTokenHangs    = "token-hangs"     // the device does not answer, neither the check nor anybody else
	ReasonTokenFailed   = "token-failed"    // the device answers, and does not make a MAC or signature
	ReasonKeyMissing    = "key-missing"     // the key of the check is not in the token
)

// HealthReasons are all of them.
var HealthReasons = []string{ReasonStoreFailed, ReasonStoreBusy, ReasonStoreFull, ReasonStoreReadOnly, ReasonTokenLost, ReasonTokenHangs,
	ReasonTokenFailed, ReasonKeyMissing}

// HealthProblem is one thing that keeps requests from being served.
type HealthProblem struct {
	Subject string // "store", or the name of a region
	Reason  string // one of HealthReasons
	Err     error
}

// HealthError is what Bridge.Health returns when requests cannot be served.
type HealthError struct{ Problems []HealthProblem }

// Error has a line for each problem.
func (e *HealthError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		subject := p.Subject
		if subject != subjectStore {
			subject = "token of region " + subject
		}
		lines[i] = fmt.Sprintf("%s: %s: %v", subject, p.Reason, p.Err)
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the causes.
func (e *HealthError) Unwrap() []error {
	causes := make([]error, len(e.Problems))
	for i, p := range e.Problems {
		causes[i] = p.Err
	}
	return causes
}

const subjectStore = "store"

// Health does what requests do: it reads from the store, confirms the cache, and has every token make a MAC by the service
// key or, where there is none, a MAC or signature by another enabled key of the region. It returns nil or a *HealthError.
//
// The token is asked on a session kept for this. One that is busy is well: that the sessions are all in use, or that others
// are answered before the check, is no error. Nothing is written; but after a Commit has failed, the store counts as one
// that cannot be changed until a write succeeds, which is tried each second.
func (b *Bridge) Health(ctx context.Context) error {
	var problems []HealthProblem
	if err := b.readsStore(ctx); err != nil {
		problems = append(problems, HealthProblem{subjectStore, storeReason(err), err})
	} else if err := b.cache.WriteFailure(); err != nil {
		problems = append(problems, HealthProblem{subjectStore, storeReason(err), err})
	}
	problems = append(problems, b.tokensHealth(ctx)...)
	if len(problems) == 0 {
		return nil
	}
	return &HealthError{problems}
}

func (b *Bridge) readsStore(ctx context.Context) error {
	if _, err := b.store.Get(ctx, keystore.RegionRef(b.cfg.DefaultRegion)); err != nil {
		return err
	}
	return b.cache.Confirm(ctx)
}

// tokensHealth asks all tokens at once, so that one that hangs leaves time for the others.
func (b *Bridge) tokensHealth(ctx context.Context) (problems []HealthProblem) {
	errs := make(map[string]error)
	var mu sync.Mutex // guards errs
	var asked sync.WaitGroup
	for name, r := range b.regions {
		asked.Go(func() {
			err := b.tokenHealth(ctx, r)
			mu.Lock()
			defer mu.Unlock()
			errs[name] = err
		})
	}
	asked.Wait()
	for _, name := range slices.Sorted(maps.Keys(errs)) {
		if err := errs[name]; err != nil {
			problems = append(problems, HealthProblem{name, tokenReason(err), err})
		}
	}
	return problems
}

// tokenHealth tries the keys of a region until one works: the key of a caller may be damaged while the token is well.
func (b *Bridge) tokenHealth(ctx context.Context, r *region) error {
	keys, err := b.healthKeys(ctx, r)
	if err != nil || len(keys) == 0 { // that the store fails is said already
		return ignoreBusy(r.token.Healthy(ctx))
	}
	for _, k := range keys {
		err = ignoreBusy(k.tryHealth(ctx))
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
func (b *Bridge) healthKeys(ctx context.Context, r *region) ([]*key, error) {
	service, err := b.key(ctx, keystore.KeyRef(r.name, "", secretsKey), false)
	if !errors.Is(err, keystore.ErrNotFound) {
		return []*key{service}, err
	}
	recs, err := b.store.List(ctx, keystore.KindKey, r.name, b.cfg.AccountID, "", healthCandidates)
	if err != nil {
		return nil, err
	}
	var keys []*key
	for _, rec := range recs {
		k, err := b.decodeKey(rec)
		if err == nil && k.record.State == keystore.Enabled && (k.object != nil || k.pair != nil) {
			keys = append(keys, k)
		}
	}
	slices.SortStableFunc(keys, func(a, b *key) int {
		switch {
		case (a.object != nil) == (b.object != nil):
			return 0
		case a.object != nil:
			return -1
		}
		return 1
	})
	return keys[:min(len(keys), triedKeys)], nil
}

func (k *key) tryHealth(ctx context.Context) error {
	if k.object != nil {
		return k.token.HealthyMAC(ctx, k.object)
	}
	return k.token.HealthySignature(ctx, k.pair, k.signing.Pair.Algorithms()[0])
}

func storeReason(err error) string {
	switch {
	case errors.Is(err, keystore.ErrBusy):
		return ReasonStoreBusy
	case errors.Is(err, keystore.ErrFull):
		return ReasonStoreFull
	case errors.Is(err, keystore.ErrReadOnly):
		return ReasonStoreReadOnly
	}
	return ReasonStoreFailed
}

func tokenReason(err error) string {
	_, hung := errors.AsType[*token.HungError](err)
	switch {
	case hung:
		return ReasonTokenHangs
	case errors.Is(err, token.ErrGone):
		return ReasonTokenLost
	case errors.Is(err, token.ErrKeyMissing):
		return ReasonKeyMissing
	}
	return ReasonTokenFailed
}
