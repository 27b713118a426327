package keystore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func TestOIDCProviderIsWrittenAsEver(t *testing.T) {
	provider := keystore.OIDCProvider{Account: "111122223333", URL: "oidc.example.org/id/1",
		Created: time.Date(2026, 11, 30, 22, 23, 24, 0, time.UTC), ClientIDs: []string{"a", "b"}, Thumbprints: []string{"00"},
		Tags: []keystore.Tag{{Key: "k", Value: "v"}}, Keys: `{"keys":[]}`}
	c := provider.Put(5)
	assert.Equal(t, `{"created":"2026-11-30T22:23:24Z","clients":["a","b"],"thumbprints":["00"],"tags":[{"k":"k","v":"v"}],`+
		`"keys":"{\"keys\":[]}"}`, string(c.Value))
	assert.Equal(t, keystore.Ref{Kind: "oidc-provider", Account: "111122223333", ID: "oidc.example.org/id/1"}, c.Ref)
	assert.Equal(t, uint64(5), c.Expect)
	require.NoError(t, keystore.CheckRecord(record(c), nil))
	back, err := keystore.DecodeOIDCProvider(record(c))
	require.NoError(t, err)
	assert.Equal(t, provider, back)
}

func TestDecodeOIDCProviderRefusesWhatWasNotWritten(t *testing.T) {
	for name, value := range map[string]string{
		"nothing":        ``,
		"unknown member": `{"created":"2026-11-30T22:23:24Z","by":"me"}`,
		"out of order":   `{"created":"2026-11-30T22:23:24Z","clients":["b","a"]}`,
		"twice":          `{"created":"2026-11-30T22:23:24Z","clients":["a","a"]}`,
		"an empty one":   `{"created":"2026-11-30T22:23:24Z","clients":["","a"]}`,
		"large":          `{"created":"2026-11-30T22:23:24Z","keys":"` + strings.Repeat("k", keystore.MaxProviderKeys+1) + `"}`,
	} {
		ref := keystore.OIDCProviderRef("111122223333", "a.b")
		_, err := keystore.DecodeOIDCProvider(keystore.Record{Ref: ref, Version: 1, Value: []byte(value)})
		require.ErrorContains(t, err, "a.b", name)
	}
	good := []byte(`{"created":"2026-11-30T22:23:24Z"}`)
	for name, ref := range map[string]keystore.Ref{
		"another kind": {Kind: "alias", Account: "111122223333", ID: "a.b"},
		"a region":     {Kind: "oidc-provider", Region: "r", Account: "111122223333", ID: "a.b"},
		"no account":   {Kind: "oidc-provider", ID: "a.b"},
		"a scheme":     {Kind: "oidc-provider", Account: "111122223333", ID: "https://a.b"},
		"one label":    {Kind: "oidc-provider", Account: "111122223333", ID: "a"},
		"a port":       {Kind: "oidc-provider", Account: "111122223333", ID: "a.b:443"},
		"a query":      {Kind: "oidc-provider", Account: "111122223333", ID: "a.b/c?d"},
		"upper case":   {Kind: "oidc-provider", Account: "111122223333", ID: "A.b"},
		"a last slash": {Kind: "oidc-provider", Account: "111122223333", ID: "a.b/"},
		"a line end":   {Kind: "oidc-provider", Account: "111122223333", ID: "a.b\n"},
	} {
		_, err := keystore.DecodeOIDCProvider(keystore.Record{Ref: ref, Version: 1, Value: good})
		require.Error(t, err, name)
	}
}
