package pkcs11kms

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/keystore"
)

// conditions is the context of one decision: the values of the condition keys that this service knows (AWS KMS developer
// guide, "Condition keys"; IAM user guide, "Global condition context keys"). Values are worked out when a policy asks.
type conditions struct {
	client *Client
	ctx    context.Context
	who    *identity
	req    *request
	key    *key   // nil: the request is about no key, or there is none
	keyID  string // of the key, or of the place where it would be; empty: the request is about none
	alias  string // by which the caller named the key

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
		return one(x.who.principal.Account)
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
	if x.keyID == "" || x.aliases != nil {
		return x.aliases, len(x.aliases) > 0
	}
	if x.cached {
		x.err = errAskStore
		return nil, false
	}
	c := x.client
	value := keystore.TargetValue(c.region.Name, c.caller.account, x.keyID)
	recs, err := c.bridge.store.Lookup(x.ctx, keystore.IndexAliasTarget, value, keystore.Ref{}, MaxAliasesPerKey)
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
	if tag, ok := strings.CutPrefix(name, "principaltag/"); ok {
		return tagValues(x.who.tags, tag)
	}
	if tag, ok := strings.CutPrefix(name, "resourcetag/"); ok && x.key != nil {
		return tagValues(x.key.Record.Tags, tag)
	}
	switch name {
	case "currenttime":
		return one(x.now().Format(time.RFC3339))
	case "epochtime":
		return one(strconv.FormatInt(x.now().Unix(), 10))
	case "requestedregion":
		return one(x.client.region.Name)
	case "resourceaccount":
		return one(x.client.caller.account)
	case "viaawsservice", "principalisawsservice":
		return one("false") // nobody but users, roles and root calls this service
	}
	if values, ok := x.principal(name); ok {
		return values, true
	}
	return x.connection(name)
}

func (x *conditions) now() time.Time { return x.client.bridge.cfg.Now().UTC() }

func (x *conditions) principal(name string) ([]string, bool) {
	who := x.who
	switch name {
	case "principalarn":
		return one(who.principal.ARN)
	case "principalaccount":
		return one(who.principal.Account)
	case "principaltype":
		return one(principalTypes[who.kind])
	case "userid":
		return one(who.principal.ID)
	case "username":
		if who.kind == keystore.PrincipalUser {
			return one(who.name)
		}
	}
	return nil, false
}

// principalTypes are the values of aws:PrincipalType. AWS calls the sessions of a role so; here its access keys are used
// directly.
var principalTypes = map[keystore.PrincipalType]string{"": "Account", keystore.PrincipalUser: "User", keystore.PrincipalRole: "AssumedRole"}

func (x *conditions) connection(name string) ([]string, bool) {
	conn := x.client.caller.conn
	if !x.client.caller.connected {
		return nil, false
	}
	switch name {
	case "sourceip":
		if conn.SourceIP.IsValid() {
			return one(conn.SourceIP.WithZone("").String())
		}
	case "securetransport":
		return one(strconv.FormatBool(conn.TLS))
	case "useragent":
		return userAgent(conn.UserAgent)
	}
	return nil, false
}

// maxUserAgent is more than clients send. Comparing a longer one with the patterns of a policy could take long, so it
// counts as one that cannot be judged: as two.
const maxUserAgent = 1024

func userAgent(name string) ([]string, bool) {
	if len(name) > maxUserAgent {
		return []string{name[:maxUserAgent], name[:maxUserAgent]}, true
	}
	return some(name)
}

// Tag keys that differ in case alone are several tags and one condition key, since condition keys know no case: it has
// several values then, which a condition on one value cannot judge. Both sides are folded by strings.ToLower, as the policy
// is.

// tagValues returns the values of the tags whose key is folded to name.
func tagValues(tags []keystore.Tag, name string) (values []string, ok bool) {
	for _, tag := range tags {
		if strings.ToLower(tag.Key) == name {
			values = append(values, tag.Value)
		}
	}
	return values, len(values) > 0
}

// givenTags are the condition keys of an input with tags.
func givenTags(tags []types.Tag) map[string][]string {
	given := map[string][]string{}
	for _, tag := range tags {
		name := "aws:requesttag/" + strings.ToLower(*tag.TagKey)
		given[name] = append(given[name], *tag.TagValue)
		given["aws:tagkeys"] = append(given["aws:tagkeys"], *tag.TagKey)
	}
	return given
}
