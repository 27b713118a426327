package keystore_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func TestKeyUseIsWrittenAsEver(t *testing.T) {
	use := keystore.KeyUse{Region: "us-west-2", Account: "111122223333", KeyID: "1234abcd-12ab-34cd-56ef-1234567890ab",
		Operation: "GenerateMac", At: time.Date(2026, 11, 30, 22, 23, 24, 0, time.UTC), Event: "e", Request: "r"}
	c := use.Put(5)
	assert.Equal(t, `{"operation":"GenerateMac","at":"2026-11-30T22:23:24Z","event":"e","request":"r"}`, string(c.Value))
	assert.Equal(t, keystore.Ref{Kind: "key-use", Region: "us-west-2", Account: "111122223333", ID: "1234abcd-12ab-34cd-56ef-1234567890ab"},
		c.Ref)
	assert.Equal(t, uint64(5), c.Expect)
	require.NoError(t, keystore.CheckRecord(record(c), nil))
	require.Error(t, keystore.CheckRecord(record(c), []keystore.Entry{{Index: keystore.IndexCKAID, Value: "00"}}))
	back, err := keystore.DecodeKeyUse(record(c))
	require.NoError(t, err)
	assert.Equal(t, use, back)

	use.Event, use.Request = "", ""
	assert.Equal(t, `{"operation":"GenerateMac","at":"2026-11-30T22:23:24Z","event":""}`, string(use.Put(0).Value))
}

func TestDecodeKeyUseRefusesWhatWasNotWritten(t *testing.T) {
	ref := keystore.KeyUseRef("r", "a", "the-key")
	for name, value := range map[string]string{
		"nothing":        ``,
		"no operation":   `{"operation":"","at":"2026-11-30T22:23:24Z","event":"e"}`,
		"no time":        `{"operation":"Sign","at":"0001-01-01T00:00:00Z","event":"e"}`,
		"parts of it":    `{"operation":"Sign","at":"2026-11-30T22:23:24.5Z","event":"e"}`,
		"another zone":   `{"operation":"Sign","at":"2026-11-30T22:23:24+01:00","event":"e"}`,
		"unknown member": `{"operation":"Sign","at":"2026-11-30T22:23:24Z","event":"e","by":"me"}`,
	} {
		_, err := keystore.DecodeKeyUse(keystore.Record{Ref: ref, Version: 1, Value: []byte(value)})
		require.Error(t, err, name)
		assert.Contains(t, err.Error(), "the-key", name)
	}
	_, err := keystore.DecodeKeyUse(record(sample().Put(0)))
	require.ErrorContains(t, err, "not of the use")
}

// What is not there is written as it ever was.
func TestEpochsAreWrittenWhereTheyAre(t *testing.T) {
	made := time.Date(2026, 11, 30, 22, 23, 24, 0, time.UTC)
	key := keystore.AccessKey{ID: "AKIA", Account: "a", Owner: "o", Status: keystore.AccessKeyActive, Created: made}
	assert.Equal(t, `{"account":"a","owner":"o","status":"Active","created":"2026-11-30T22:23:24Z"}`, string(key.Put(0).Value))
	key.Epoch = 2
	assert.Equal(t, `{"account":"a","owner":"o","status":"Active","created":"2026-11-30T22:23:24Z","epoch":2}`, string(key.Put(0).Value))
	back, err := keystore.DecodeAccessKey(record(key.Put(0)))
	require.NoError(t, err)
	assert.Equal(t, key, back)

	seals := keystore.Seals{Store: keystore.HexBytes{1}, Epoch: 2, Region: "r", CKAID: keystore.HexBytes{2}, Spec: "HMAC_256"}
	const plain = `{"store":"01","epoch":2,"region":"r","cka_id":"02","spec":"HMAC_256"`
	assert.Equal(t, plain+`}`, string(seals.Put(0).Value))
	seals.Previous = &keystore.SealKeyRef{Epoch: 1, Region: "q", CKAID: keystore.HexBytes{3}, Spec: "HMAC_512"}
	c := seals.Put(0)
	assert.Equal(t, plain+`,"previous":{"epoch":1,"region":"q","cka_id":"03","spec":"HMAC_512"}}`, string(c.Value))
	require.NoError(t, keystore.CheckRecord(record(c), nil))
	decoded, err := keystore.DecodeSeals(record(c))
	require.NoError(t, err)
	assert.Equal(t, seals, decoded)
}
