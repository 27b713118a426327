package pkcs11kms

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/time/rate"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/apierr"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

// Quotas bound what one account may have and do. A zero field is the default of AWS KMS.
type Quotas struct {
	Keys          int // keys of an account in a region, in whatever state; default 100,000
	AliasesPerKey int // default 50, at most MaxAliasesPerKey
	TagsPerKey    int // default 50
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
	setDefault(&q.PolicyBytes, 32_768)
	if q.Keys < 0 || q.AliasesPerKey < 0 || q.TagsPerKey < 0 || q.PolicyBytes < 0 {
		return q, errors.New("a quota is negative")
	}
	if q.AliasesPerKey > MaxAliasesPerKey {
		return q, fmt.Errorf("the quota of %d aliases per key is over %d", q.AliasesPerKey, MaxAliasesPerKey)
	}
	return q, nil
}

// rateClass is a group of operations that share a rate (AWS KMS developer guide, "Request quotas").
type rateClass struct {
	perSecond  float64
	operations []string
}

// each is a class of its own for every one of the operations.
func each(perSecond float64, operations ...string) (classes []rateClass) {
	for _, op := range operations {
		classes = append(classes, rateClass{perSecond, []string{op}})
	}
	return classes
}

// withCurve is added to the name of an operation with an elliptic curve key: those with an RSA key have a class of their own.
const withCurve = " ECC"

// rateClasses are the service's default rates. The first class has another value in each region of AWS; this is the
// middle one.
var rateClasses = concat(
	[]rateClass{{10_000, []string{"Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateMac",
		"GenerateRandom", "ReEncrypt", "VerifyMac"}},
		{500, []string{"Sign", "Verify"}}, {300, []string{"Sign" + withCurve, "Verify" + withCurve, "DeriveSharedSecret"}}},
	each(2000, "DescribeKey", "GetPublicKey", "ListResourceTags"),
	each(1000, "GetKeyPolicy", "GetKeyRotationStatus"),
	each(500, "ListAliases", "ListKeys"),
	each(100, "ListGrants", "ListKeyPolicies", "ListKeyRotations", "ListRetirableGrants"),
	each(30, "RetireGrant", "RevokeGrant"),
	each(15, "DeleteAlias", "EnableKeyRotation", "PutKeyPolicy", "ScheduleKeyDeletion"),
	each(10, "TagResource"),
	each(5, "CancelKeyDeletion", "CreateAlias", "CreateKey", "DeleteImportedKeyMaterial", "DisableKey", "DisableKeyRotation",
		"EnableKey", "ImportKeyMaterial", "RotateKeyOnDemand", "UntagResource", "UpdateAlias", "UpdateKeyDescription"),
	each(0.25, "GetParametersForImport"),
)

func concat(lists ...[]rateClass) (all []rateClass) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// classOf is the place of an operation's class in rateClasses.
var classOf = func() map[string]int {
	classes := map[string]int{}
	for i, class := range rateClasses {
		for _, op := range class.operations {
			classes[op] = i
		}
	}
	return classes
}()

// throttle holds the request rates of the accounts and regions. Safe for concurrent use.
type throttle struct {
	limiters sync.Map // throttleKey -> *rate.Limiter
}

type throttleKey struct {
	account, region string
	class           int
}

// allow takes one request from the caller's rate, or returns ThrottlingException. k is nil for operations that name no key.
func (c *Client) allow(op *operation, k *key) error {
	if c.bridge.cfg.Quotas.NoRates {
		return nil
	}
	class, ok := classOf[op.name]
	if ofCurve, other := classOf[op.name+withCurve]; other && k != nil && k.curve() {
		class = ofCurve
	}
	if !ok {
		return nil // shares the rates of nothing, like the operations that only refuse
	}
	name := throttleKey{c.caller.account, c.region.name, class}
	limiter, ok := c.bridge.throttle.limiters.Load(name)
	if !ok {
		perSecond := rateClasses[class].perSecond
		limiter, _ = c.bridge.throttle.limiters.LoadOrStore(name, rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond))))
	}
	if !limiter.(*rate.Limiter).AllowN(c.bridge.cfg.Now(), 1) {
		return apierr.Throttled()
	}
	return nil
}

// countKey returns the change of the counter of an account's keys, or LimitExceededException. Service keys are not counted:
// no change.
func (b *Bridge) countKey(ctx context.Context, record keystore.Key, n int) ([]keystore.Change, error) {
	if record.Account == "" {
		return nil, nil
	}
	counter, version, err := records.ReadCounter(ctx, b.store, record.Region, record.Account, keystore.CounterKeys)
	if err != nil {
		return nil, err
	}
	counter.N += n
	if limit := b.cfg.Quotas.Keys; n > 0 && counter.N > limit {
		return nil, apierr.LimitExceeded(fmt.Sprintf("The account has reached its limit of %d keys in the region.", limit))
	}
	return []keystore.Change{counter.Put(version)}, nil
}
