package pkcs11kms

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Stats are counts for monitoring.
type Stats struct {
	// Sessions of each region's token.
	Sessions map[string]SessionStats
	// Tokens are the states of each region's token.
	Tokens map[string]TokenState
	// MACTimes are how long a MAC has taken each region's token lately, by a few of them; 0 while none was made.
	MACTimes map[string]time.Duration
	// TokenErrors counts the failures of tokens since Open by class: busy, gone, missing, hung, other.
	TokenErrors map[string]uint64
	// Audit is what the audit log has done; nil where it tells nothing of itself.
	Audit *audit.Stats
	Cache CacheStats
}

// CacheStats counts the records that are kept decoded, at most 65,536 of them.
type CacheStats struct {
	Records   int
	Displaced uint64 // since Open: records that have made room for others
}

// SessionStats counts the sessions of one token.
type SessionStats struct {
	Size    int // the most that may be in use at once
	Open    int
	InUse   int
	Waiting int // calls that wait for a session
	Lost    int // in a call that hangs
	Copies  int // keys that are used by a session copy
}

// TokenState tells whether the token of a region is there.
type TokenState struct {
	Up bool
	// Since is when it was lost or came back; zero if it was never lost.
	Since time.Time
	// Err is why it is lost and what keeps it from coming back; nil while it is up.
	Err error
	// Waiting names the C_ function, or what else, that has not come back since WaitingSince; empty if nothing hangs.
	Waiting      string
	WaitingSince time.Time
	// Hangs says that nothing is answered before what Waiting names comes back.
	Hangs bool
	// Losses counts the times that it was lost, Reinitialized how often its PKCS#11 module was initialised anew to bring it back.
	Losses, Reinitialized uint64
}

// RotateAudit closes the audit log's file, which is compressed, and goes on in a new one, where the log has files.
func (b *Bridge) RotateAudit() {
	if log, ok := b.cfg.Audit.(interface{ Rotate() }); ok {
		log.Rotate()
	}
}

// RetryTokens makes every token that is lost try at once to come back, also one whose PIN was refused, unless it would be by the same PIN
// file: for a person who has mended something.
func (b *Bridge) RetryTokens() {
	for _, name := range b.Regions() {
		b.core.Keys.Region(name).Token.Retry()
	}
}

// Stats returns the counts of now. It asks nothing of store and tokens.
func (b *Bridge) Stats() Stats {
	s := Stats{Sessions: map[string]SessionStats{}, Tokens: map[string]TokenState{}, MACTimes: map[string]time.Duration{},
		TokenErrors: map[string]uint64{}}
	if log, ok := b.cfg.Audit.(audit.Watched); ok {
		told := log.Stats()
		s.Audit = &told
	}
	for _, name := range b.Regions() {
		t := b.core.Keys.Region(name).Token
		s.Sessions[name], s.Tokens[name], s.MACTimes[name] = SessionStats(t.Stats()), TokenState(t.State()), t.MACTime()
	}
	for class := range tokenErrorClasses {
		s.TokenErrors[tokenErrorClasses[class]] = b.tokenErrors[class].Load()
	}
	s.Cache.Records, s.Cache.Displaced = b.core.Cache.Stats()
	return s
}

// tokenErrorClasses names the failures of a token that are told apart; tokenErrors counts them in this order.
var tokenErrorClasses = [...]string{"busy", "gone", "missing", "hung", "other"}

type tokenErrorCounts [len(tokenErrorClasses)]atomic.Uint64

// count counts an error when it is a token's.
func (c *tokenErrorCounts) count(err error) {
	var hung *token.HungError
	var other *token.Error
	switch {
	case errors.Is(err, token.ErrBusy):
		c[0].Add(1)
	case errors.Is(err, token.ErrGone):
		c[1].Add(1)
	case errors.Is(err, token.ErrKeyMissing):
		c[2].Add(1)
	case errors.As(err, &hung):
		c[3].Add(1)
	case errors.As(err, &other), errors.Is(err, token.ErrMalformed):
		c[4].Add(1)
	}
}

// CountKeys counts the KMS keys of a region, of all accounts, by reading their records: for monitoring, not for a request path.
func (b *Bridge) CountKeys(ctx context.Context, regionName string) (count int, err error) {
	accounts, err := records.Accounts(ctx, b.core.Store, b.cfg.AccountID)
	for _, account := range accounts {
		if err == nil {
			err = records.EachOf(ctx, b.core.Store, keystore.KindKey, regionName, account.ID, func(keystore.Record) error {
				count++
				return nil
			})
		}
	}
	return count, err
}
