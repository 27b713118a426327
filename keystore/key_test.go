package keystore_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func sample() keystore.Key {
	return keystore.Key{
		Region: "us-west-2", Account: "111122223333", ID: "1234abcd-12ab-34cd-56ef-1234567890ab",
		State: keystore.Enabled, Spec: "HMAC_256", Usage: "GENERATE_VERIFY_MAC", Origin: "AWS_KMS",
		Description: "tokens & <more>", Created: time.Date(2026, 11, 22, 10, 11, 12, 345e6, time.UTC),
		CKAID: keystore.HexBytes{0x00, 0x1f, 0xff},
	}
}

const golden = `{"state":"Enabled","spec":"HMAC_256","usage":"GENERATE_VERIFY_MAC","origin":"AWS_KMS",` +
	`"description":"tokens & <more>","created":"2026-11-22T10:11:12.345Z","cka_id":"001fff"}`

// record is what a store would answer after a Commit of the change.
func record(c keystore.Change) keystore.Record {
	return keystore.Record{Ref: c.Ref, Version: 7, Value: c.Value, Seal: c.Seal}
}

func TestKeyIsWrittenAsEver(t *testing.T) {
	c := sample().Put(5)
	assert.Equal(t, golden, string(c.Value), "records in stores look like this")
	assert.Equal(t, keystore.Put, c.Op)
	assert.Equal(t, uint64(5), c.Expect)
	assert.Equal(t, keystore.Ref{Kind: "key", Region: "us-west-2", Account: "111122223333",
		ID: "1234abcd-12ab-34cd-56ef-1234567890ab"}, c.Ref)
	assert.Equal(t, []keystore.Entry{{Index: "cka-id", Value: "001fff"}}, c.Index)
	assert.Empty(t, c.Seal)

	signing := sample()
	signing.PublicKey = keystore.HexBytes{0x30, 0x82}
	assert.Equal(t, strings.TrimSuffix(golden, "}")+`,"public_key":"3082"}`, string(signing.Put(0).Value))

	bare := keystore.Key{ID: "a", State: keystore.Creating, Instance: "i"}
	assert.Equal(t, `{"state":"Creating","spec":"","usage":"","origin":"","created":"0001-01-01T00:00:00Z","cka_id":"",`+
		`"instance":"i"}`, string(bare.Put(0).Value))
}

func TestRegionIsWrittenAsEver(t *testing.T) {
	g := keystore.Region{Name: "us-west-2", Serial: "5f3a", Label: "pkcs11kms", Manufacturer: "SoftHSM project", Model: "SoftHSM v2"}
	c := g.Put(0)
	assert.Equal(t, `{"serial":"5f3a","label":"pkcs11kms","manufacturer":"SoftHSM project","model":"SoftHSM v2"}`, string(c.Value))
	assert.Equal(t, keystore.Ref{Kind: "region", Region: "us-west-2", ID: "us-west-2"}, c.Ref)
	assert.Empty(t, c.Index)
	back, err := keystore.DecodeRegion(record(c))
	require.NoError(t, err)
	assert.Equal(t, g, back)

	g.Binding = &keystore.Binding{CKAID: keystore.HexBytes{1, 2}, Spec: "HMAC_256", Proof: keystore.HexBytes{3, 4}}
	g.Unable = "2.17"
	c = g.Put(1)
	assert.Equal(t, `{"serial":"5f3a","label":"pkcs11kms","manufacturer":"SoftHSM project","model":"SoftHSM v2",`+
		`"binding":{"cka_id":"0102","spec":"HMAC_256","proof":"0304"},"unable":"2.17"}`, string(c.Value))
	back, err = keystore.DecodeRegion(record(c))
	require.NoError(t, err)
	assert.Equal(t, g, back)
}

func TestKeyComesBack(t *testing.T) {
	for name, change := range map[string]func(*keystore.Key){
		"plain":       func(*keystore.Key) {},
		"signing key": func(k *keystore.Key) { k.PublicKey = keystore.HexBytes{0x30, 0x00, 0xff} },
		"disabled":    func(k *keystore.Key) { k.State = keystore.Disabled },
		"creating":    func(k *keystore.Key) { k.State, k.Instance = keystore.Creating, "0123" },
		"deleting":    func(k *keystore.Key) { k.State, k.Instance = keystore.Deleting, "0123" },
		"description": func(k *keystore.Key) { k.Description = "\"\\\u2028\x00\x7f<>&é\U0001f511" },
		"none":        func(k *keystore.Key) { k.Description = "" },
		"whole time":  func(k *keystore.Key) { k.Created = time.Unix(0, 0).UTC() },
		"long":        func(k *keystore.Key) { k.Description = strings.Repeat("é", 8192) },
	} {
		k := sample()
		change(&k)
		back, err := keystore.DecodeKey(record(k.Put(0)))
		require.NoError(t, err, name)
		assert.Equal(t, k, back, name)
		assert.Equal(t, k.Put(0), back.Put(0), name)
	}
}

func TestUnfinishedKeysAreIndexed(t *testing.T) {
	for state, want := range map[keystore.KeyState]bool{
		keystore.Creating: true, keystore.Deleting: true, keystore.Enabled: false, keystore.Disabled: false,
	} {
		k := sample()
		k.State, k.Instance = state, "0123"
		entry := keystore.Entry{Index: keystore.IndexUnfinished, Value: "0123"}
		assert.Equal(t, want, state.Unfinished(), state)
		assert.Equal(t, want, contains(k.Put(0).Index, entry), state)
	}
}

func contains(entries []keystore.Entry, want keystore.Entry) bool {
	for _, e := range entries {
		if e == want {
			return true
		}
	}
	return false
}

// TestTextThatIsNoText makes sure that what JSON would replace on the way cannot make a record unreadable.
func TestTextThatIsNoText(t *testing.T) {
	k := sample()
	k.Description = "a\xffb"
	back, err := keystore.DecodeKey(record(k.Put(0)))
	require.NoError(t, err)
	assert.Equal(t, "a\uFFFDb", back.Description)
	assert.Equal(t, "a\xffb", k.Description, "the caller's key is left alone")

	g := keystore.Region{Name: "r", Serial: "\xff", Label: "\xfe\xfe", Manufacturer: "m\xc0", Model: "\x80"}
	region, err := keystore.DecodeRegion(record(g.Put(0)))
	require.NoError(t, err)
	assert.Equal(t, keystore.Region{Name: "r", Serial: "\uFFFD", Label: "\uFFFD", Manufacturer: "m\uFFFD", Model: "\uFFFD"}, region)
}

func TestDecodeKeyRefusesWhatWasNotWritten(t *testing.T) {
	replace := func(old, new string) string { return strings.Replace(golden, old, new, 1) }
	for name, value := range map[string]string{
		"nothing":            "",
		"no object":          `[]`,
		"null":               `null`,
		"cut off":            golden[:len(golden)-1],
		"field of tomorrow":  replace(`{`, `{"policy":"deny",`),
		"state of tomorrow":  replace(`Enabled`, `PendingReplicaDeletion`),
		"no state":           replace(`"state":"Enabled",`, ``),
		"state of no case":   replace(`Enabled`, `enabled`),
		"name in upper case": replace(`"state"`, `"State"`),
		"a name twice":       replace(`"state":"Enabled"`, `"state":"Disabled","state":"Enabled"`),
		"another order":      replace(`"spec":"HMAC_256","usage":"GENERATE_VERIFY_MAC"`, `"usage":"GENERATE_VERIFY_MAC","spec":"HMAC_256"`),
		"blank":              replace(`:`, `: `),
		"line end":           golden + "\n",
		"junk":               golden + "x",
		"another value":      golden + golden,
		"escaped":            replace(`&`, `\u0026`),
		"upper-case hex":     replace(`001fff`, `001FFF`),
		"odd hex":            replace(`001fff`, `001ff`),
		"no hex":             replace(`001fff`, `001fxx`),
		"another time":       replace(`.345Z`, `.345000Z`),
		"no time":            replace(`2026-11-22T10:11:12.345Z`, `yesterday`),
		"number for text":    replace(`"HMAC_256"`, `256`),
		"empty description":  replace(`tokens & <more>`, ``),
	} {
		require.NotEqual(t, golden, value, name)
		_, err := keystore.DecodeKey(keystore.Record{Ref: sample().Ref(), Version: 1, Value: []byte(value)})
		require.Error(t, err, name)
		assert.Contains(t, err.Error(), sample().ID, name)
	}
}

func TestDecodeRefusesSealAndOtherKind(t *testing.T) {
	sealed := record(sample().Put(0))
	sealed.Seal = []byte{1}
	_, err := keystore.DecodeKey(sealed)
	require.ErrorContains(t, err, "seal")

	region := keystore.Region{Name: "us-west-2"}
	_, err = keystore.DecodeKey(record(region.Put(0)))
	require.ErrorContains(t, err, "not a key")
	_, err = keystore.DecodeRegion(record(sample().Put(0)))
	require.ErrorContains(t, err, "not a region")
	strange := record(region.Put(0))
	strange.Value = []byte(`{}`)
	_, err = keystore.DecodeRegion(strange)
	require.ErrorContains(t, err, "canonical")
}

func TestHexBytes(t *testing.T) {
	assert.Equal(t, "00ff", keystore.HexBytes{0, 255}.String())
	text, err := keystore.HexBytes{0, 255}.MarshalText()
	require.NoError(t, err)
	var back keystore.HexBytes
	require.NoError(t, back.UnmarshalText(text))
	assert.Equal(t, keystore.HexBytes{0, 255}, back)
	assert.Error(t, back.UnmarshalText([]byte("0")))
}

// FuzzDecodeKey looks for values that are taken for a key but would be written differently: such a record would mean
// something else to another reader.
func FuzzDecodeKey(f *testing.F) {
	f.Add([]byte(golden))
	f.Add([]byte(`{"state":"Creating","spec":"","usage":"","origin":"","created":"0001-01-01T00:00:00Z","cka_id":"","instance":"i"}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		k, err := keystore.DecodeKey(keystore.Record{Ref: sample().Ref(), Version: 1, Value: value})
		if err != nil {
			return
		}
		if again := k.Put(1).Value; !bytes.Equal(value, again) {
			t.Fatalf("%q was read as a key that is written as %q", value, again)
		}
	})
}
