package keystore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func aGrant() keystore.Grant {
	return keystore.Grant{Region: "us-west-2", Account: "111122223333", ID: strings.Repeat("0a", 32), Key: "the-key",
		CKAID: keystore.HexBytes{1}, Name: "it", Grantee: "111122223333/AIDA" + strings.Repeat("A", 17), Retiring: "111122223333/111122223333",
		Issuer: "111122223333", Operations: []string{"GenerateMac", "VerifyMac"}, SourceARN: "arn",
		Created: time.Date(2026, 11, 30, 22, 23, 24, 5e6, time.UTC), TokenKey: make(keystore.HexBytes, 32)}
}

func TestGrantIsWrittenAsEver(t *testing.T) {
	grant := aGrant()
	c := grant.Put(5)
	assert.Equal(t, `{"key":"the-key","cka_id":"01","name":"it","grantee":"111122223333/AIDAAAAAAAAAAAAAAAAAA",`+
		`"retiring":"111122223333/111122223333","issuer":"111122223333","operations":["GenerateMac","VerifyMac"],"source_arn":"arn",`+
		`"created":"2026-11-30T22:23:24.005Z","token_key":"`+strings.Repeat("0", 64)+`"}`, string(c.Value))
	const on = "us-west-2/111122223333/the-key"
	entries := []keystore.Entry{{Index: "grant-key", Value: on}, {Index: "grant-grantee", Value: on + "/" + grant.Grantee},
		{Index: "grant-retiring", Value: "us-west-2/111122223333/111122223333"},
		{Index: "grant-same", Value: grant.SameValue()}}
	assert.Equal(t, entries, c.Index)
	require.NoError(t, keystore.CheckRecord(record(c), entries))
	back, err := keystore.DecodeGrant(record(c))
	require.NoError(t, err)
	assert.Equal(t, grant, back)

	grant.Name, grant.Retiring, grant.SourceARN = "", "", ""
	assert.Equal(t, entries[:2], grant.Put(0).Index)
	assert.NotContains(t, string(grant.Put(0).Value), "source_arn")
}

// Two grants are the same to those who ask for one again, whatever their ids, tokens and times are.
func TestSameGrants(t *testing.T) {
	same := aGrant()
	same.ID, same.Created, same.TokenKey = strings.Repeat("f", 64), time.Time{}, nil
	assert.Equal(t, aGrant().SameValue(), same.SameValue())
	for name, edit := range map[string]func(*keystore.Grant){
		"region": func(g *keystore.Grant) { g.Region = "r" }, "account": func(g *keystore.Grant) { g.Account = "a" },
		"key": func(g *keystore.Grant) { g.Key = "k" }, "object": func(g *keystore.Grant) { g.CKAID = nil },
		"name": func(g *keystore.Grant) { g.Name = "n" }, "grantee": func(g *keystore.Grant) { g.Grantee = "g" },
		"retiring": func(g *keystore.Grant) { g.Retiring = "" }, "issuer": func(g *keystore.Grant) { g.Issuer = "i" },
		"operations": func(g *keystore.Grant) { g.Operations = g.Operations[:1] }, "source": func(g *keystore.Grant) { g.SourceARN = "" },
	} {
		other := aGrant()
		edit(&other)
		assert.NotEqual(t, aGrant().SameValue(), other.SameValue(), name)
	}
}

func TestDecodeGrantRefusesWhatWasNotWritten(t *testing.T) {
	for name, edit := range map[string]func(*keystore.Grant){
		"id":                   func(g *keystore.Grant) { g.ID = strings.Repeat("F", 64) },
		"no key":               func(g *keystore.Grant) { g.Key = "" },
		"two keys":             func(g *keystore.Grant) { g.Key = "a/b" },
		"no object":            func(g *keystore.Grant) { g.CKAID = nil },
		"no grantee":           func(g *keystore.Grant) { g.Grantee = "" },
		"grantee by name":      func(g *keystore.Grant) { g.Grantee = "111122223333/alice" },
		"retiring by name":     func(g *keystore.Grant) { g.Retiring = "111122223333/alice" },
		"no operation":         func(g *keystore.Grant) { g.Operations = nil },
		"operations two times": func(g *keystore.Grant) { g.Operations = []string{"Sign", "Sign"} },
		"operations in a mess": func(g *keystore.Grant) { g.Operations = []string{"Verify", "Sign"} },
		"no key of tokens":     func(g *keystore.Grant) { g.TokenKey = g.TokenKey[1:] },
	} {
		grant := aGrant()
		edit(&grant)
		_, err := keystore.DecodeGrant(record(grant.Put(0)))
		require.ErrorContains(t, err, "grant record", name)
	}
	_, err := keystore.DecodeGrant(record(sample().Put(0)))
	require.ErrorContains(t, err, "is not a grant")
}

func TestGranteeCountsItsGrants(t *testing.T) {
	g := keystore.Grantee{Region: "us-west-2", Account: "111122223333", Key: "the-key", Principal: "111122223333/111122223333",
		CKAID: keystore.HexBytes{1}}
	mac, both := []string{"GenerateMac"}, []string{"GenerateMac", "VerifyMac"}
	g.Add(both, 1)
	before := g
	g.Add(mac, 1)
	g.Add(mac, 1)
	require.Equal(t, []keystore.OperationSet{{Operations: mac, Grants: 2}, {Operations: both, Grants: 1}}, g.Gives)
	require.Equal(t, []keystore.OperationSet{{Operations: both, Grants: 1}}, before.Gives, "what was read stays as it was")
	c := g.Put(3)
	assert.Equal(t, `{"cka_id":"01","gives":[{"operations":["GenerateMac"],"grants":2},`+
		`{"operations":["GenerateMac","VerifyMac"],"grants":1}]}`, string(c.Value))
	assert.Equal(t, "the-key/111122223333/111122223333", c.Ref.ID)
	require.NoError(t, keystore.CheckRecord(record(c), nil))
	back, err := keystore.DecodeGrantee(record(c))
	require.NoError(t, err)
	assert.Equal(t, g, back)
	g.Add(mac, -1)
	g.Add(mac, -1)
	g.Add(both, -1)
	assert.Equal(t, keystore.Change{Op: keystore.Delete, Ref: c.Ref, Expect: 3}, g.Put(3))

	for name, gives := range map[string]string{
		"nothing":        `[]`,
		"no grants":      `[{"operations":["Sign"],"grants":0}]`,
		"no operations":  `[{"operations":[],"grants":1}]`,
		"one two times":  `[{"operations":["Sign"],"grants":1},{"operations":["Sign"],"grants":1}]`,
		"not in order":   `[{"operations":["Verify"],"grants":1},{"operations":["Sign"],"grants":1}]`,
		"unknown member": `[{"operations":["Sign"],"grants":1,"of":"me"}]`,
	} {
		_, err := keystore.DecodeGrantee(keystore.Record{Ref: c.Ref, Version: 1, Value: []byte(`{"cka_id":"01","gives":` + gives + `}`)})
		require.ErrorContains(t, err, "record of grantee", name)
	}
	for _, id := range []string{"the-key", "the-key/alice", "the-key/111122223333/alice"} {
		_, err := keystore.DecodeGrantee(keystore.Record{Ref: keystore.Ref{Kind: "grantee", ID: id}, Version: 1, Value: c.Value})
		require.ErrorContains(t, err, "not of a grantee", id)
	}
}
