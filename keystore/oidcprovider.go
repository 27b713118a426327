package keystore

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// OIDCProvider is an issuer of OpenID Connect tokens that an account takes: with those of its tokens roles can be assumed that trust it.
type OIDCProvider struct {
	Account string `json:"-"` // 12 digits
	URL     string `json:"-"` // the issuer without https://, see IsProviderURL; the id of the record, so that an account has it once

	Created     time.Time `json:"created"`               // UTC, whole seconds
	ClientIDs   []string  `json:"clients,omitempty"`     // audiences that tokens may be for, ordered; at most MaxProviderClients
	Thumbprints []string  `json:"thumbprints,omitempty"` // as they were given: they decide nothing
	Tags        []Tag     `json:"tags,omitempty"`
	Keys        string    `json:"keys,omitempty"` // the JWK Set of the issuer, as it was given; empty: no token of it verifies
}

// The bounds of a provider: characters of its URL, client ids and the characters of one, thumbprints, and the bytes of its keys.
const (
	MaxProviderURL     = 255
	MaxProviderClients = 100
	MaxClientID        = 255
	MaxThumbprints     = 5
	MaxProviderKeys    = 64 << 10
)

// CounterProviders counts the OIDC providers of an account; of no region.
const CounterProviders = "oidc-providers"

// providerURL is what condition keys of a trust policy can name: a host of two labels or more, in lower case and without a port, and a path
// that does not end with a slash.
var providerURL = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)+(/[\w.~-]+)*$`)

// IsProviderURL tells whether an account can have a provider of this URL, which is given without https://.
func IsProviderURL(url string) bool {
	return len(url) <= MaxProviderURL && providerURL.MatchString(url)
}

// OIDCProviderRef names the record of a provider by its URL without https://.
func OIDCProviderRef(account, url string) Ref {
	return Ref{Kind: KindOIDCProvider, Account: account, ID: url}
}

// Ref names the record.
func (p OIDCProvider) Ref() Ref { return OIDCProviderRef(p.Account, p.URL) }

// Put returns the change that writes the record, given the version it must have now (0: it must be new).
func (p OIDCProvider) Put(expect uint64) Change {
	return Change{Op: Put, Ref: p.Ref(), Expect: expect, Value: encode(p)}
}

// DecodeOIDCProvider reads the provider of a record.
func DecodeOIDCProvider(r Record) (OIDCProvider, error) {
	p := OIDCProvider{Account: r.Ref.Account, URL: r.Ref.ID}
	if r.Ref.Kind != KindOIDCProvider || r.Ref.Region != "" {
		return OIDCProvider{}, fmt.Errorf("record %s/%s is not an OIDC provider", r.Ref.Kind, r.Ref.ID)
	}
	return decodeChecked(r, p, "OIDC provider record")
}

// check refuses what would give the record another meaning than it has.
func (p OIDCProvider) check() error {
	switch {
	case !IsAccountID(p.Account) || !IsProviderURL(p.URL):
		return errors.New("account or URL have not the form of one")
	case len(p.ClientIDs) > MaxProviderClients || len(p.Thumbprints) > MaxThumbprints || len(p.Keys) > MaxProviderKeys:
		return errors.New("it has more than a provider may have")
	case slices.Contains(p.ClientIDs, ""), !slices.IsSortedFunc(p.ClientIDs, strings.Compare),
		len(slices.Compact(slices.Clone(p.ClientIDs))) != len(p.ClientIDs):
		return errors.New("client ids are not in order")
	}
	return nil
}
