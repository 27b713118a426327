package pkcs11kms

import (
	"errors"
	"fmt"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// Quotas bound what one account may have and do. A zero field is the default of AWS KMS.
type Quotas struct {
	Keys          int // keys of an account in a region, in whatever state; default 100,000
	AliasesPerKey int // default 50, at most MaxAliasesPerKey
	TagsPerKey    int // default 50
	GrantsPerKey  int // default 50,000
	PolicyBytes   int // default 32,768
	// NoRates switches the request rates off. They hold within one process.
	NoRates bool
}

// MaxAliasesPerKey bounds Quotas.AliasesPerKey: a key and its aliases are deleted in one commit.
const MaxAliasesPerKey = keystore.MaxChanges - 2

func (q Quotas) complete() (Quotas, error) {
	setDefault(&q.Keys, 100_000)
	setDefault(&q.AliasesPerKey, 50)
	setDefault(&q.TagsPerKey, 50)
	setDefault(&q.GrantsPerKey, 50_000)
	setDefault(&q.PolicyBytes, 32_768)
	if q.Keys < 0 || q.AliasesPerKey < 0 || q.TagsPerKey < 0 || q.GrantsPerKey < 0 || q.PolicyBytes < 0 {
		return q, errors.New("a quota is negative")
	}
	if q.AliasesPerKey > MaxAliasesPerKey {
		return q, fmt.Errorf("the quota of %d aliases per key is over %d", q.AliasesPerKey, MaxAliasesPerKey)
	}
	return q, nil
}

// throttle takes one request from the caller's rate, or returns ThrottlingException. k is nil for operations that name no key.
func (c *Client) throttle(op *ops.Operation, k *key) error {
	class := op.Rate
	if op.Curve != nil && k != nil && k.curve() {
		class = op.Curve
	}
	if class == nil || c.bridge.cfg.Quotas.NoRates {
		return nil
	}
	if !c.bridge.rates.Take(c.caller.Account(), c.region.Name, class, c.bridge.cfg.Now()) {
		if op.Service != kmsService {
			return apierr.RateExceeded()
		}
		return apierr.Throttled()
	}
	return nil
}
