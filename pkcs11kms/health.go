package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
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
	ReasonAuditFailed   = "audit-failed"    // the audit log cannot be written, so that nothing is answered
	ReasonAuditFull     = "audit-full"      // the disk of the audit log is full, so that nothing is done
)

// HealthReasons are all of them.
var HealthReasons = []string{ReasonStoreFailed, ReasonStoreBusy, ReasonStoreFull, ReasonStoreReadOnly, ReasonTokenLost, ReasonTokenHangs,
	ReasonTokenFailed, ReasonKeyMissing, ReasonAuditFailed, ReasonAuditFull}

// HealthProblem is one thing that keeps requests from being served.
type HealthProblem struct {
	Subject string // "store", "audit", or the name of a region
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
		if subject != subjectStore && subject != subjectAudit {
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

const (
	subjectStore = "store"
	subjectAudit = "audit"
)

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
	} else if err := b.core.Cache.WriteFailure(); err != nil {
		problems = append(problems, HealthProblem{subjectStore, storeReason(err), err})
	}
	if log, ok := b.cfg.Audit.(audit.Watched); ok {
		if err := log.Health(); err != nil {
			problems = append(problems, HealthProblem{subjectAudit, auditReason(err), err})
		}
	}
	tokens := b.core.Keys.Health(ctx)
	for _, name := range slices.Sorted(maps.Keys(tokens)) {
		problems = append(problems, HealthProblem{name, tokenReason(tokens[name]), tokens[name]})
	}
	if len(problems) == 0 {
		return nil
	}
	return &HealthError{problems}
}

func (b *Bridge) readsStore(ctx context.Context) error {
	if _, err := b.core.Store.Get(ctx, keystore.RegionRef(b.cfg.DefaultRegion)); err != nil {
		return err
	}
	return b.core.Cache.Confirm(ctx)
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

func auditReason(err error) string {
	if errors.Is(err, audit.ErrFull) {
		return ReasonAuditFull
	}
	return ReasonAuditFailed
}

// Warning is what an operator must know before requests cannot be served any more, such as that a disk is filling up. Empty: nothing.
func (b *Bridge) Warning() string {
	if log, ok := b.cfg.Audit.(audit.Watched); ok {
		return log.Warning()
	}
	return ""
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
