package envelope

import (
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"math/big"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The vectors of RFC 5649, section 6.
func TestKeyWrapOfTheRFC(t *testing.T) {
	key := unhex(t, "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	for plain, wrapped := range map[string]string{
		"c37b7e6492584340bed12207808941155068f738": "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
		"466f7250617369": "afbeb0f07dfbf5419200f2ccb50bb24f",
	} {
		assert.Equal(t, wrapped, hex.EncodeToString(wrap(block, unhex(t, plain))))
		got, ok := unwrap(block, unhex(t, wrapped))
		assert.Equal(t, 1, ok)
		assert.Equal(t, plain, hex.EncodeToString(got))
		for i := range wrapped {
			altered := unhex(t, wrapped)
			altered[i/2] ^= 1 << (i % 2)
			_, ok := unwrap(block, altered)
			assert.Zero(t, ok, "bit of byte %d", i/2)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// TestKeyWrapRefusesWhatNobodyWraps has lengths and paddings that no sound wrapping has.
func TestKeyWrapRefusesWhatNobodyWraps(t *testing.T) {
	block, err := aes.NewCipher(make([]byte, 32))
	require.NoError(t, err)
	for length := 1; length <= 40; length++ {
		material := bytes.Repeat([]byte{0xab}, length)
		got, ok := unwrap(block, wrap(block, material))
		require.Equal(t, 1, ok)
		require.Equal(t, material, got)
	}
	raw := func(header string, body string) []byte {
		out := unhex(t, header+body)
		block.Encrypt(out, out)
		return out
	}
	for name, wrapped := range map[string][]byte{
		"length 0":              raw("a65959a600000000", "0000000000000000"),
		"length 9 of 8":         raw("a65959a600000009", "0000000000000000"),
		"length of 2^31":        raw("a65959a680000000", "0000000000000000"),
		"length of 2^32-1":      raw("a65959a6ffffffff", "0000000000000000"),
		"padding that is not 0": raw("a65959a600000007", "0000000000000001"),
		"another IV":            raw("a6a6a6a6a6a6a6a6", "0000000000000000"),
	} {
		_, ok := unwrap(block, wrapped)
		assert.Zero(t, ok, name)
	}
}

// TestOpen closes envelopes by crypto/rsa, and opens them, also altered in each place.
func TestOpen(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	decrypt := func(head []byte) []byte { // RSADP
		m := new(big.Int).Exp(new(big.Int).SetBytes(head), private.D, private.N)
		return m.FillBytes(make([]byte, 256))
	}
	for _, a := range Algorithms {
		for _, length := range []int{28, 32, 33, 48, 64, 100, 128} {
			material := make([]byte, length)
			rand.Read(material)
			blob, err := a.Seal(&private.PublicKey, material)
			require.NoError(t, err)
			head, tail, err := a.Split(blob, 256, MaxMaterial)
			require.NoError(t, err)
			got, err := a.Open(decrypt(head), tail)
			require.NoError(t, err, "%s %d", a.Name, length)
			require.Equal(t, material, got)
		}
		blob, err := a.Seal(&private.PublicKey, make([]byte, 32))
		require.NoError(t, err)
		head, tail, _ := a.Split(blob, 256, MaxMaterial)
		for _, i := range []int{1, 100, 255} {
			altered := bytes.Clone(head)
			altered[i] ^= 1
			_, err = a.Open(decrypt(altered), tail)
			require.ErrorIs(t, err, ErrClosed)
		}
		for i := range tail {
			altered := bytes.Clone(tail)
			altered[i] ^= 0x80
			_, err = a.Open(decrypt(head), altered)
			require.ErrorIs(t, err, ErrClosed)
		}
		for _, wrong := range [][]byte{nil, blob[1:], append(bytes.Clone(blob), 0), bytes.Repeat(blob, 2)} {
			_, _, err := a.Split(wrong, 256, MaxMaterial)
			require.ErrorIs(t, err, ErrFits)
		}
		_, err = a.Open(make([]byte, 256), tail)
		require.ErrorIs(t, err, ErrClosed)
	}
}

// TestOpenClearsWhatItWasGiven holds that what the RSA key has made is gone when the envelope is open.
func TestOpenClearsWhatItWasGiven(t *testing.T) {
	encoded := bytes.Repeat([]byte{7}, 256)
	_, err := Algorithms[1].Open(encoded, nil)
	require.ErrorIs(t, err, ErrClosed)
	require.Equal(t, make([]byte, 256), encoded)
}

// TestDecodeOAEPRefuses alters an encoded message that is right: its first byte, the hash of the label, the zeros and the one before the
// message.
func TestDecodeOAEPRefuses(t *testing.T) {
	a := Algorithms[1]
	h := a.NewHash()
	size := h.Size()
	encode := func(change func(encoded, db []byte)) []byte {
		encoded := make([]byte, 256)
		db := encoded[1+size:]
		copy(db, h.Sum(nil))
		db[len(db)-33] = 1
		change(encoded, db)
		seed := encoded[1 : 1+size]
		copy(seed, bytes.Repeat([]byte{9}, size))
		mask(h, seed, db)
		mask(h, db, seed)
		return encoded
	}
	got, ok := decodeOAEP(h, encode(func([]byte, []byte) {}))
	require.Equal(t, 1, ok)
	require.Equal(t, make([]byte, 32), got)
	for name, change := range map[string]func(encoded, db []byte){
		"first byte":   func(encoded, _ []byte) { encoded[0] = 1 },
		"label":        func(_, db []byte) { db[0] ^= 1 },
		"a 2 before":   func(_, db []byte) { db[size] = 2 },
		"no 1":         func(_, db []byte) { clear(db[size:]) },
		"2 for the 1":  func(_, db []byte) { db[len(db)-33] = 2 },
		"end of label": func(_, db []byte) { db[size-1] ^= 0x80 },
	} {
		_, ok := decodeOAEP(h, encode(change))
		assert.Zero(t, ok, name)
	}
	_, ok = decodeOAEP(h, nil)
	assert.Zero(t, ok)
}
