package pkcs11kms

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Stats are counts for monitoring.
type Stats struct {
	// Sessions of each region's token.
	Sessions map[string]SessionStats
	// TokenErrors counts the failures of tokens since Open by class: busy, gone, missing, hung, other.
	TokenErrors map[string]uint64
}

// SessionStats counts the sessions of one token.
type SessionStats struct {
	Size    int // the most that may be in use at once
	Open    int
	InUse   int
	Waiting int // calls that wait for a session
	Lost    int // in a call that hangs
}

// Stats returns the counts of now. It asks nothing of store and tokens.
func (b *Bridge) Stats() Stats {
	s := Stats{Sessions: map[string]SessionStats{}, TokenErrors: map[string]uint64{}}
	for _, name := range b.Regions() {
		s.Sessions[name] = SessionStats(b.core.Keys.Region(name).Token.Stats())
	}
	for class := range tokenErrorClasses {
		s.TokenErrors[tokenErrorClasses[class]] = b.tokenErrors[class].Load()
	}
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

// CountKeys counts the KMS keys of a region's account by reading their records: for monitoring, not for a request path.
func (b *Bridge) CountKeys(ctx context.Context, regionName string) (int, error) {
	count, after := 0, ""
	for {
		recs, err := b.core.Store.List(ctx, keystore.KindKey, regionName, b.cfg.AccountID, after, keystore.MaxPage)
		if err != nil {
			return 0, err
		}
		count += len(recs)
		if len(recs) < keystore.MaxPage {
			return count, nil
		}
		after = recs[len(recs)-1].Ref.ID
	}
}
