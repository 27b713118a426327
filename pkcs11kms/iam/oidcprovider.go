package iam

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/form"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// An OIDC provider is an issuer of tokens that an account takes: with such a token a role can be assumed that trusts the provider. Its keys
// are given by whoever makes it, or later; nothing is fetched.

const maxProviders = 100 // of an account

// OpenIDConnectProvider is an OIDC provider as AWS IAM returns it.
type OpenIDConnectProvider struct {
	ARN string // arn:aws:iam::ACCOUNT:oidc-provider/HOST/PATH
	URL string // without https://
	ProviderOptions
	Created time.Time // UTC, whole seconds
}

// ProviderOptions is what an OIDC provider may have from the beginning.
type ProviderOptions struct {
	ClientIDs   []string       // audiences that its tokens may be for: at most 100, of 1 to 255 characters
	Thumbprints []string       // of certificates, 40 characters each, at most 5: they are kept and decide nothing
	Tags        []keystore.Tag // ordered by key; at most 50
	// Keys is the JWK Set of the issuer, at most 64 KiB. Without one no token of it verifies. Of keys that are of no use nothing is kept.
	Keys string
}

var providerARNPattern = regexp.MustCompile(`^arn:[a-z-]+:iam::[0-9]{12}:oidc-provider/.+$`)

func (o ProviderOptions) check(v *form.Violations) {
	v.Length("clientIDList", len(o.ClientIDs), 0, keystore.MaxProviderClients)
	for i, id := range o.ClientIDs {
		v.Text(fmt.Sprintf("clientIDList.%d.member", i+1), id, 1, keystore.MaxClientID, nil)
	}
	checkThumbprints(v, o.Thumbprints)
	checkTags(v, o.Tags)
}

func checkThumbprints(v *form.Violations, list []string) {
	v.Length("thumbprintList", len(list), 0, keystore.MaxThumbprints)
	for i, thumbprint := range list {
		v.Text(fmt.Sprintf("thumbprintList.%d.member", i+1), thumbprint, 40, 40, nil)
	}
}

// checkProviderURL returns the URL of a provider without its scheme.
func checkProviderURL(url string, options ProviderOptions) (string, error) {
	var v form.Violations
	v.Text("url", url, 1, keystore.MaxProviderURL, nil)
	options.check(&v)
	if err := invalid(v); err != nil {
		return "", err
	}
	bare, ok := strings.CutPrefix(url, "https://")
	if !ok || !keystore.IsProviderURL(bare) {
		return "", failure(validationError, "Invalid Open ID Connect Provider URL")
	}
	return bare, nil
}

func checkProviderARN(arn string) error {
	var v form.Violations
	v.Text("openIDConnectProviderArn", arn, 20, 2048, nil)
	if err := invalid(v); err != nil {
		return err
	}
	if !providerARNPattern.MatchString(arn) {
		return failure(validationError, "ARN %s is not valid.", arn)
	}
	return nil
}

// keysToKeep is the JWK Set that is kept of one that was given: the public keys of it that can be used.
func keysToKeep(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	if len(text) > keystore.MaxProviderKeys {
		return "", failure(limitExceeded, "A JWK Set exceeds the maximum size of %d bytes.", keystore.MaxProviderKeys)
	}
	set, err := jwt.ParseKeySet([]byte(text))
	if err != nil {
		return "", failure(invalidInput, "The keys cannot be used: %v", err)
	}
	kept, err := json.Marshal(set)
	if err == nil && len(kept) > keystore.MaxProviderKeys {
		err = failure(limitExceeded, "A JWK Set exceeds the maximum size of %d bytes.", keystore.MaxProviderKeys)
	}
	return string(kept), err
}

func (d *Directory) providerARN(account, url string) string {
	return d.arn(account, "oidc-provider/"+url)
}

// provider reads an account's provider of a URL, which is given without its scheme, past the cache; keystore.ErrNotFound if there is none.
func (d *Directory) provider(ctx context.Context, account, url string) (keystore.OIDCProvider, uint64, error) {
	if !keystore.IsProviderURL(url) {
		return keystore.OIDCProvider{}, 0, keystore.ErrNotFound
	}
	rec, err := d.cfg.Store.Get(ctx, keystore.OIDCProviderRef(account, url))
	if err != nil {
		return keystore.OIDCProvider{}, 0, err
	}
	record, err := keystore.DecodeOIDCProvider(rec)
	return record, rec.Version, err
}

// aboutProvider returns what finds the caller's account's provider of an ARN.
func (c *Client) aboutProvider(arn, missing string) func(context.Context) (subject, error, error) {
	return func(ctx context.Context) (subject, error, error) {
		s := subject{arn: arn}
		_, url, _ := strings.Cut(arn, ":oidc-provider/")
		if c.dir.providerARN(c.caller.account, url) != arn {
			return s, failure(noSuchEntity, missing, arn), nil
		}
		record, version, err := c.dir.provider(ctx, c.caller.account, url)
		if errors.Is(err, keystore.ErrNotFound) {
			return s, failure(noSuchEntity, missing, arn), nil
		}
		s.provider, s.providerVersion = record, version
		return s, nil, err
	}
}

func (c *Client) describeProvider(p keystore.OIDCProvider) OpenIDConnectProvider {
	return OpenIDConnectProvider{ARN: c.dir.providerARN(p.Account, p.URL), URL: p.URL, Created: p.Created,
		ProviderOptions: ProviderOptions{ClientIDs: p.ClientIDs, Thumbprints: p.Thumbprints, Tags: p.Tags, Keys: p.Keys}}
}

// CreateOpenIDConnectProvider makes an OIDC provider of an issuer's URL: https://, a host in lower case without a port, and a path that
// does not end with a slash; tokens must have just that in iss. EntityAlreadyExists when the account has it; LimitExceeded beyond 100.
// (CreateOpenIDConnectProvider)
func (c *Client) CreateOpenIDConnectProvider(ctx context.Context, url string, options ProviderOptions) (
	made OpenIDConnectProvider, err error) {
	bare, wrong := checkProviderURL(url, options)
	keys, unusable := keysToKeep(options.Keys)
	req := request{
		input: input{"url": url, "clientIDList": options.ClientIDs, "thumbprintList": options.Thumbprints, "tags": options.Tags},
		form:  cmp.Or(wrong, unusable), given: RequestTags(options.Tags),
		find: func(ctx context.Context) (s subject, missing, err error) {
			s = subject{arn: c.dir.providerARN(c.caller.account, bare)}
			if _, _, err = c.dir.provider(ctx, c.caller.account, bare); err == nil {
				return s, failure(entityAlreadyExists, "Provider with url %s already exists.", url), nil
			}
			if errors.Is(err, keystore.ErrNotFound) {
				err = nil
			}
			return s, nil, err
		},
	}
	err = c.perform(ctx, ops.CreateOpenIDConnectProvider, req, func(ctx context.Context, x *call, _ subject) error {
		tags, err := withPolicyTags(nil, options.Tags)
		if err != nil {
			return err
		}
		record := keystore.OIDCProvider{Account: c.caller.account, URL: bare, Created: x.Now().UTC().Truncate(time.Second),
			ClientIDs: ordered(options.ClientIDs), Thumbprints: options.Thumbprints, Tags: tags, Keys: keys}
		made = c.describeProvider(record)
		x.output = map[string]any{"openIDConnectProviderArn": made.ARN}
		counter, err := x.count(ctx, keystore.CounterProviders, 1, "OpenIdConnectProvidersPerAccount", maxProviders)
		if err != nil {
			return err
		}
		return x.commit(ctx, counter, record.Put(0))
	})
	return answered(made, err)
}

// ordered is a list as records keep it: ordered, and nothing twice.
func ordered(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

const providerNotFound = "OpenIDConnect Provider not found for arn %s"

// GetOpenIDConnectProvider returns an OIDC provider, or NoSuchEntity. (GetOpenIDConnectProvider)
func (c *Client) GetOpenIDConnectProvider(ctx context.Context, arn string) (found OpenIDConnectProvider, err error) {
	req := request{input: input{"openIDConnectProviderArn": arn}, form: checkProviderARN(arn), find: c.aboutProvider(arn, providerNotFound)}
	err = c.perform(ctx, ops.GetOpenIDConnectProvider, req, func(_ context.Context, _ *call, s subject) error {
		found = c.describeProvider(s.provider)
		return nil
	})
	return answered(found, err)
}

// ListOpenIDConnectProviders returns the ARNs of the account's OIDC providers, ordered. (ListOpenIDConnectProviders)
func (c *Client) ListOpenIDConnectProviders(ctx context.Context) (arns []string, err error) {
	err = c.perform(ctx, ops.ListOpenIDConnectProviders, request{input: input{}}, func(ctx context.Context, _ *call, _ subject) error {
		recs, err := c.dir.cfg.Store.List(ctx, keystore.KindOIDCProvider, "", c.caller.account, "", keystore.MaxPage)
		for _, rec := range recs {
			arns = append(arns, c.dir.providerARN(c.caller.account, rec.Ref.ID))
		}
		return err
	})
	return answered(arns, err)
}

// DeleteOpenIDConnectProvider removes an OIDC provider. Roles that trust it stay, and so do sessions that have begun.
// (DeleteOpenIDConnectProvider)
func (c *Client) DeleteOpenIDConnectProvider(ctx context.Context, arn string) error {
	req := request{input: input{"openIDConnectProviderArn": arn}, form: checkProviderARN(arn),
		find: c.aboutProvider(arn, "OpenId connect Provider %s cannot be found.")}
	return c.perform(ctx, ops.DeleteOpenIDConnectProvider, req, func(ctx context.Context, x *call, s subject) error {
		counter, err := x.count(ctx, keystore.CounterProviders, -1, "", 0)
		if err != nil {
			return err
		}
		return x.commit(ctx, counter, keystore.Change{Op: keystore.Delete, Ref: s.provider.Ref(), Expect: s.providerVersion})
	})
}

// changeProvider makes a call that changes an OIDC provider.
func (c *Client) changeProvider(ctx context.Context, op *ops.Operation, arn string, in input, wrong error,
	change func(*keystore.OIDCProvider) error) error {
	in["openIDConnectProviderArn"] = arn
	req := request{input: in, form: cmp.Or(checkProviderARN(arn), wrong), find: c.aboutProvider(arn, providerNotFound)}
	return c.perform(ctx, op, req, func(ctx context.Context, x *call, s subject) error {
		if err := change(&s.provider); err != nil {
			return err
		}
		return x.commit(ctx, s.provider.Put(s.providerVersion))
	})
}

func checkClientID(id string) error {
	var v form.Violations
	v.Text("clientID", id, 1, keystore.MaxClientID, nil)
	return invalid(v)
}

// AddClientID has tokens of an OIDC provider taken that are for one more audience. One that it has is no error.
// (AddClientIDToOpenIDConnectProvider)
func (c *Client) AddClientID(ctx context.Context, arn, id string) error {
	return c.changeProvider(ctx, ops.AddClientIDToOpenIDConnectProvider, arn, input{"clientID": id}, checkClientID(id),
		func(record *keystore.OIDCProvider) error {
			record.ClientIDs = ordered(append(slices.Clone(record.ClientIDs), id))
			if len(record.ClientIDs) > keystore.MaxProviderClients {
				return quotaExceeded("ClientIdsPerOpenIdConnectProvider", keystore.MaxProviderClients)
			}
			return nil
		})
}

// RemoveClientID has tokens for an audience refused. One that the provider does not have is no error.
// (RemoveClientIDFromOpenIDConnectProvider)
func (c *Client) RemoveClientID(ctx context.Context, arn, id string) error {
	return c.changeProvider(ctx, ops.RemoveClientIDFromOpenIDConnectProvider, arn, input{"clientID": id}, checkClientID(id),
		func(record *keystore.OIDCProvider) error {
			record.ClientIDs = slices.DeleteFunc(slices.Clone(record.ClientIDs), func(other string) bool { return other == id })
			return nil
		})
}

// UpdateProviderThumbprints keeps other thumbprints, which decide nothing. (UpdateOpenIDConnectProviderThumbprint)
func (c *Client) UpdateProviderThumbprints(ctx context.Context, arn string, thumbprints []string) error {
	var v form.Violations
	checkThumbprints(&v, thumbprints)
	return c.changeProvider(ctx, ops.UpdateOpenIDConnectProviderThumbprint, arn, input{"thumbprintList": thumbprints}, invalid(v),
		func(record *keystore.OIDCProvider) error {
			record.Thumbprints = thumbprints
			return nil
		})
}

// UpdateProviderKeys gives an OIDC provider another JWK Set, of which a key must be usable: tokens by keys that are not in it are refused
// from then on. It is decided by pkcs11kms:UpdateOpenIDConnectProviderKeys.
func (c *Client) UpdateProviderKeys(ctx context.Context, arn, jwks string) error {
	keys, wrong := keysToKeep(jwks)
	if wrong == nil && keys == "" {
		wrong = failure(invalidInput, "The keys cannot be used: there are none")
	}
	return c.changeProvider(ctx, ops.UpdateOpenIDConnectProviderKeys, arn, input{}, wrong, func(record *keystore.OIDCProvider) error {
		record.Keys = keys
		return nil
	})
}
