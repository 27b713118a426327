package pkcs11kms

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// conditions is the context of one decision: the values of the condition keys that this service knows (AWS KMS developer
// guide, "Condition keys"; IAM user guide, "Global condition context keys"). Values are worked out when a policy asks.
type conditions struct {
	client *Client
	ctx    context.Context
	who    iam.Identity
	req    *request
	key    *key         // nil: the request is about no key, or there is none
	ref    keystore.Ref // of the key, or of the place where it would be; zero: the request is about none
	alias  string       // by which the caller named the key

	cached  bool     // nothing may be asked of the store
	err     error    // why a value could not be told: no decision counts then
	aliases []string // of the key, once they were asked for
}

// errAskStore says that the decision cannot be made with what is cached.
var errAskStore = errors.New("the store must be asked")

// Values implements policy.Context.
func (x *conditions) Values(name string) ([]string, bool) {
	if given, ok := x.req.given[name]; ok {
		return given, true
	}
	prefix, rest, _ := strings.Cut(name, ":")
	switch prefix {
	case "kms":
		return x.service(rest)
	case "aws":
		return x.global(rest)
	}
	return nil, false
}

func one(value string) ([]string, bool) { return []string{value}, true }

// some is the value of a condition key that is absent when it is empty.
func some(value string) ([]string, bool) {
	if value == "" {
		return nil, false
	}
	return one(value)
}

// service has the condition keys of AWS KMS.
func (x *conditions) service(name string) ([]string, bool) {
	switch name {
	case "calleraccount":
		return one(x.who.Principal().Account)
	case "macalgorithm":
		return some(string(x.req.algorithm))
	case "signingalgorithm":
		return some(string(x.req.signing))
	case "messagetype":
		return some(string(x.req.messageType))
	case "requestalias":
		return some(x.alias)
	case "resourcealiases":
		return x.resourceAliases()
	}
	if x.key == nil {
		return nil, false
	}
	switch name {
	case "keyspec", "customermasterkeyspec":
		return one(x.key.Record.Spec)
	case "keyusage", "customermasterkeyusage":
		return one(x.key.Record.Usage)
	case "keyorigin":
		return one(x.key.Record.Origin)
	case "multiregion":
		return one("false")
	}
	return nil, false
}

// resourceAliases reads the aliases of the key. It reads those of a key that is not there as well, see resolve.go.
func (x *conditions) resourceAliases() ([]string, bool) {
	if x.ref.ID == "" || x.aliases != nil {
		return x.aliases, len(x.aliases) > 0
	}
	if x.cached {
		x.err = errAskStore
		return nil, false
	}
	c := x.client
	value := keystore.TargetValue(x.ref.Region, x.ref.Account, x.ref.ID)
	recs, err := c.bridge.core.Store.Lookup(x.ctx, keystore.IndexAliasTarget, value, keystore.Ref{}, MaxAliasesPerKey)
	if err != nil {
		x.err = err
	}
	x.aliases = make([]string, len(recs))
	for i, rec := range recs {
		x.aliases[i] = rec.Ref.ID
	}
	return x.aliases, len(x.aliases) > 0
}

// global has the condition keys of all services.
func (x *conditions) global(name string) ([]string, bool) {
	if tag, ok := strings.CutPrefix(name, "resourcetag/"); ok && x.key != nil {
		return iam.TagValues(x.key.Record.Tags, tag)
	}
	switch name {
	case "requestedregion":
		return one(x.client.region.Name)
	case "resourceaccount":
		return one(cmp.Or(x.ref.Account, x.client.caller.Account()))
	}
	return x.who.Condition(name, x.client.bridge.cfg.Now())
}

// givenTags are the condition keys of an input with tags.
func givenTags(tags []types.Tag) map[string][]string {
	records := make([]keystore.Tag, len(tags))
	for i, tag := range tags {
		records[i] = keystore.Tag{Key: *tag.TagKey, Value: *tag.TagValue}
	}
	return iam.RequestTags(records)
}
