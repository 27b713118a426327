package pubkey_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"math/big"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	require.NoError(t, err)
	return b
}

// TestVectorsOfRFC8032 has those of sections 7.1 and 7.3.
func TestVectorsOfRFC8032(t *testing.T) {
	const hashOfABC = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a" +
		"2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
	for name, v := range map[string]struct {
		algorithm                  pubkey.Algorithm
		public, message, signature string
	}{
		"TEST 1": {pubkey.Ed25519SHA512, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
			"e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"},
		"TEST 2": {pubkey.Ed25519SHA512, "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
			"92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"},
		"TEST 3": {pubkey.Ed25519SHA512, "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
			"6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"},
		"TEST SHA(abc)": {pubkey.Ed25519SHA512, "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf", hashOfABC,
			"dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"},
		"Ed25519ph TEST abc": {pubkey.Ed25519phSHA512, "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf", "616263",
			"98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae4131f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406"},
	} {
		key, err := pubkey.FromPoint(pubkey.Edwards25519, unhex(t, v.public))
		require.NoError(t, err, name)
		require.NoError(t, key.VerifyMessage(v.algorithm, unhex(t, v.message), unhex(t, v.signature)), name)
		requireOnlyMessage(t, key, v.algorithm, unhex(t, v.message), unhex(t, v.signature))
	}
}

// requireOnlyMessage shows that nothing near a valid Ed25519 signature is one.
func requireOnlyMessage(t *testing.T, key *pubkey.Key, a pubkey.Algorithm, message, signature []byte) {
	t.Helper()
	for i := range signature {
		flipped := bytes.Clone(signature)
		flipped[i] ^= 1
		require.ErrorIs(t, key.VerifyMessage(a, message, flipped), pubkey.ErrInvalid)
	}
	s := addOrder(signature) // malleable, if s were not held to its range (RFC 8032 8.4)
	for _, wrong := range [][]byte{nil, {}, signature[:63], append(bytes.Clone(signature), 0), append([]byte{0}, signature...),
		make([]byte, 64), s} {
		require.ErrorIs(t, key.VerifyMessage(a, message, wrong), pubkey.ErrInvalid)
	}
	require.ErrorIs(t, key.VerifyMessage(a, append(bytes.Clone(message), 0), signature), pubkey.ErrInvalid)
	other, digest := pubkey.Ed25519SHA512, sha512.Sum512(message)
	if a == pubkey.Ed25519SHA512 {
		other = pubkey.Ed25519phSHA512
	}
	require.ErrorIs(t, key.VerifyMessage(other, message, signature), pubkey.ErrInvalid, "the two are kept apart")
	require.ErrorIs(t, key.VerifyMessage(other, digest[:], signature), pubkey.ErrInvalid)
	require.ErrorIs(t, key.VerifyMessage(a, digest[:], signature), pubkey.ErrInvalid)
	err := key.Verify(a, digest[:], signature)
	require.ErrorContains(t, err, "is of a message")
	require.NotErrorIs(t, err, pubkey.ErrInvalid)
	require.ErrorContains(t, key.VerifyMessage(pubkey.ECDSASHA512, message, signature), "is no algorithm of")
}

// addOrder adds the order of the group to the second half of a signature.
func addOrder(signature []byte) []byte {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := bytes.Clone(signature[32:])
	slices.Reverse(s)
	s = order.Add(order, new(big.Int).SetBytes(s)).FillBytes(make([]byte, 32))
	slices.Reverse(s)
	return append(bytes.Clone(signature[:32]), s...)
}

func TestEdwards(t *testing.T) {
	for range 20 {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		require.NoError(t, err)
		key, err := pubkey.FromPoint(pubkey.Edwards25519, public)
		require.NoError(t, err)
		der := derOf(t, public)
		assert.Equal(t, der, key.DER())
		parsed, err := pubkey.Parse(pubkey.Edwards25519, der)
		require.NoError(t, err)
		assert.Equal(t, key, parsed)
		given := bytes.Clone(public)
		kept, err := pubkey.FromPoint(pubkey.Edwards25519, given)
		require.NoError(t, err)
		clear(given) // a key is never changed
		assert.Equal(t, key, kept)
		message := []byte("m")
		assert.NoError(t, parsed.VerifyMessage(pubkey.Ed25519SHA512, message, ed25519.Sign(private, message)))
		digest := sha512.Sum512(message)
		prehashed, err := private.Sign(nil, digest[:], crypto.SHA512)
		require.NoError(t, err)
		assert.NoError(t, parsed.VerifyMessage(pubkey.Ed25519phSHA512, message, prehashed))
		for _, other := range pubkey.Specs() {
			_, err := pubkey.Parse(other, der)
			assert.Equal(t, other == pubkey.Edwards25519, err == nil, other)
		}
		for i := range len(der) - len(public) {
			bad := bytes.Clone(der)
			bad[i] ^= 1
			_, err := pubkey.Parse(pubkey.Edwards25519, bad)
			assert.Error(t, err, "byte %d", i)
		}
		_, err = pubkey.Parse(pubkey.Edwards25519, append(bytes.Clone(der), 0))
		assert.Error(t, err)
		for _, bad := range [][]byte{nil, public[:31], append(bytes.Clone(public), 0), append([]byte{4}, public...)} {
			_, err := pubkey.FromPoint(pubkey.Edwards25519, bad)
			assert.Error(t, err)
		}
	}
	_, err := pubkey.SignatureDER(pubkey.Edwards25519, make([]byte, 64))
	assert.Error(t, err)
}

// TestEdwardsPointsThatAreNoKeys: encodings of no point, second encodings of a point, and the points of small order, for which
// crypto/ed25519 verifies what nobody signed.
func TestEdwardsPointsThatAreNoKeys(t *testing.T) {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	encode := func(y *big.Int, odd byte) []byte {
		b := y.FillBytes(make([]byte, 32))
		slices.Reverse(b)
		b[31] |= odd << 7
		return b
	}
	small := [][]byte{
		encode(big.NewInt(0), 0), encode(big.NewInt(0), 1), encode(big.NewInt(1), 0), encode(new(big.Int).Sub(p, big.NewInt(1)), 0),
		unhex(t, "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
		unhex(t, "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
		unhex(t, "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
		unhex(t, "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
	}
	// R the neutral element and s zero: valid wherever the hash is a multiple of the key's order.
	forged := append(encode(big.NewInt(1), 0), make([]byte, 32)...)
	for _, point := range small {
		valid := 0
		for n := range 100 {
			if ed25519.Verify(point, []byte{byte(n)}, forged) {
				valid++
			}
		}
		require.NotZero(t, valid, "%x is of small order", point)
		_, err := pubkey.FromPoint(pubkey.Edwards25519, point)
		assert.ErrorContains(t, err, "small order", "%x", point)
	}
	for name, point := range map[string][]byte{
		"x is zero and odd":         encode(big.NewInt(1), 1),
		"x is zero and odd, y = -1": encode(new(big.Int).Sub(p, big.NewInt(1)), 1),
		"y = 2, of no point":        encode(big.NewInt(2), 0),
		"y = p":                     encode(p, 0),
		"y = p+1":                   encode(new(big.Int).Add(p, big.NewInt(1)), 0),
		"y = p+3, and 3 is a point": encode(new(big.Int).Add(p, big.NewInt(3)), 0),
		"all ones":                  bytes.Repeat([]byte{0xff}, 32),
	} {
		_, err := pubkey.FromPoint(pubkey.Edwards25519, point)
		assert.ErrorContains(t, err, "no point", name)
	}
	_, err := pubkey.FromPoint(pubkey.Edwards25519, encode(big.NewInt(3), 0))
	assert.NoError(t, err)
	_, err = pubkey.FromPoint(pubkey.Edwards25519, encode(big.NewInt(3), 1))
	assert.NoError(t, err)
}
