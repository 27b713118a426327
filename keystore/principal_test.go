package keystore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func samplePrincipal() keystore.Principal {
	return keystore.Principal{
		Account: "111122223333", ID: "AROAABCDEFGHIJKLMNOPQ", Type: keystore.PrincipalRole, Name: "JwtProducer", Path: "/jwt/",
		Created: time.Date(2026, 11, 22, 10, 11, 12, 0, time.UTC), Description: "signs", Trust: "{}", AccessKeys: 1,
		Tags:     []keystore.Tag{{Key: "Stage", Value: "test"}},
		Policies: []keystore.InlinePolicy{{Name: "a", Document: "{ }"}, {Name: "b", Document: "{\n}"}},
	}
}

const goldenPrincipal = `{"type":"role","name":"JwtProducer","path":"/jwt/","created":"2026-11-22T10:11:12Z","description":"signs",` +
	`"trust":"{}","access_keys":1,"tags":[{"k":"Stage","v":"test"}],"policies":[{"name":"a","document":"{ }"},{"name":"b","document":"{\n}"}]}`

func TestPrincipalIsWrittenAsEver(t *testing.T) {
	c := samplePrincipal().Put(5)
	assert.Equal(t, goldenPrincipal, string(c.Value), "records in stores look like this")
	assert.Equal(t, uint64(5), c.Expect)
	assert.Equal(t, keystore.Ref{Kind: "principal", Account: "111122223333", ID: "AROAABCDEFGHIJKLMNOPQ"}, c.Ref)
	assert.Equal(t, []keystore.Entry{{Index: "principal-name", Value: "111122223333/role/jwtproducer"}}, c.Index)
	require.NoError(t, keystore.CheckRecord(record(c), c.Index))
	require.ErrorContains(t, keystore.CheckRecord(record(c), nil), "do not fit")

	back, err := keystore.DecodePrincipal(record(c))
	require.NoError(t, err)
	assert.Equal(t, samplePrincipal(), back)
	assert.Equal(t, "AIDAABCDEFGHIJKLMNOPQ", keystore.PrincipalID(keystore.PrincipalUser, "ABCDEFGHIJKLMNOPQ"))
}

func TestDecodePrincipalRefusesWhatWasNotWritten(t *testing.T) {
	replace := func(old, new string) string { return strings.Replace(goldenPrincipal, old, new, 1) }
	for name, value := range map[string]string{
		"field of tomorrow": replace(`{`, `{"boundary":"x",`),
		"type of tomorrow":  replace(`"role"`, `"group"`),
		"no type":           replace(`"type":"role",`, ``),
		"type of another":   replace(`"role"`, `"user"`),
		"blank":             replace(`:`, `: `),
		"policies":          replace(`"name":"a"`, `"name":"c"`),
		"keys":              replace(`"access_keys":1`, `"access_keys":-1`),
	} {
		require.NotEqual(t, goldenPrincipal, value, name)
		_, err := keystore.DecodePrincipal(keystore.Record{Ref: samplePrincipal().Ref(), Version: 1, Value: []byte(value)})
		assert.ErrorContains(t, err, "principal record AROAABCDEFGHIJKLMNOPQ: ", name)
	}
	for name, ref := range map[string]keystore.Ref{
		"another kind": {Kind: "key", Account: "111122223333", ID: "AROAABCDEFGHIJKLMNOPQ"},
		"a region":     {Kind: "principal", Region: "us-west-2", Account: "111122223333", ID: "AROAABCDEFGHIJKLMNOPQ"},
		"a user's id":  keystore.PrincipalRef("111122223333", "AIDAABCDEFGHIJKLMNOPQ"),
		"no type":      keystore.PrincipalRef("111122223333", "ABCDEFGHIJKLMNOPQ"),
		"short":        keystore.PrincipalRef("111122223333", "AROAABCDEFGHIJKLMNOP"),
		"long":         keystore.PrincipalRef("111122223333", "AROAABCDEFGHIJKLMNOPQR"),
		"lower case":   keystore.PrincipalRef("111122223333", "AROAABCDEFGHIJKLMNOPq"),
	} {
		_, err := keystore.DecodePrincipal(keystore.Record{Ref: ref, Version: 1, Value: []byte(goldenPrincipal)})
		assert.Error(t, err, name)
	}

	user := samplePrincipal()
	user.Type, user.ID = keystore.PrincipalUser, "AIDAABCDEFGHIJKLMNOPQ"
	_, err := keystore.DecodePrincipal(record(user.Put(0)))
	assert.ErrorContains(t, err, "a user with a trust policy")
}
