package keystore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func TestAccountIsWrittenAsEver(t *testing.T) {
	account := keystore.Account{ID: "111122223333", Name: "payments", Created: time.Date(2026, 11, 30, 22, 23, 24, 0, time.UTC)}
	c := account.Put(5)
	assert.Equal(t, `{"name":"payments","created":"2026-11-30T22:23:24Z"}`, string(c.Value))
	assert.Equal(t, keystore.Ref{Kind: "account", ID: "111122223333"}, c.Ref)
	assert.Equal(t, uint64(5), c.Expect)
	require.NoError(t, keystore.CheckRecord(record(c), nil))
	require.Error(t, keystore.CheckRecord(record(c), []keystore.Entry{{Index: keystore.IndexCKAID, Value: "00"}}))
	back, err := keystore.DecodeAccount(record(c))
	require.NoError(t, err)
	assert.Equal(t, account, back)
	account.Name = ""
	assert.Equal(t, `{"created":"2026-11-30T22:23:24Z"}`, string(account.Put(0).Value))
}

func TestDecodeAccountRefusesWhatWasNotWritten(t *testing.T) {
	for name, value := range map[string]string{
		"nothing":        ``,
		"parts of it":    `{"created":"2026-11-30T22:23:24.5Z"}`,
		"another zone":   `{"created":"2026-11-30T22:23:24+01:00"}`,
		"unknown member": `{"created":"2026-11-30T22:23:24Z","by":"me"}`,
		"a line end":     `{"name":"a\nb","created":"2026-11-30T22:23:24Z"}`,
		"long name":      `{"name":"` + strings.Repeat("n", keystore.MaxAccountName+1) + `","created":"2026-11-30T22:23:24Z"}`,
	} {
		_, err := keystore.DecodeAccount(keystore.Record{Ref: keystore.AccountRef("111122223333"), Version: 1, Value: []byte(value)})
		require.ErrorContains(t, err, "111122223333", name)
	}
	good := []byte(`{"created":"2026-11-30T22:23:24Z"}`)
	for name, ref := range map[string]keystore.Ref{
		"another kind": {Kind: "alias", ID: "111122223333"}, "a region": {Kind: "account", Region: "r", ID: "111122223333"},
		"an account": {Kind: "account", Account: "111122223333", ID: "111122223333"}, "no number": {Kind: "account", ID: "11112222333x"},
		"too short": {Kind: "account", ID: "11112222333"},
	} {
		_, err := keystore.DecodeAccount(keystore.Record{Ref: ref, Version: 1, Value: good})
		require.Error(t, err, name)
	}
}
