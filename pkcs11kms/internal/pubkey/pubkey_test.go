package pubkey_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"slices"
	"testing"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	koblitz "github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

func generated(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	require.NoError(t, err)
	return key
}

func derOf(t testing.TB, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	return der
}

func TestRSA(t *testing.T) {
	private := generated(t, 2048)
	der := derOf(t, &private.PublicKey)
	key, err := pubkey.FromRSA(pubkey.RSA2048, append([]byte{0}, private.N.Bytes()...), []byte{0, 1, 0, 1})
	require.NoError(t, err)
	assert.Equal(t, der, key.DER())
	key, err = pubkey.Parse(pubkey.RSA2048, der)
	require.NoError(t, err)
	for _, a := range pubkey.RSA2048.Algorithms() {
		digest := a.Digest([]byte("m"))
		sign := func(salt int) []byte {
			signature, err := rsa.SignPKCS1v15(rand.Reader, private, a.Hash, digest)
			if a.Scheme == pubkey.PSS {
				signature, err = rsa.SignPSS(rand.Reader, private, a.Hash, digest, &rsa.PSSOptions{SaltLength: salt})
			}
			require.NoError(t, err)
			return signature
		}
		signature := sign(a.Hash.Size())
		assert.NoError(t, key.Verify(a, digest, signature))
		requireOnly(t, key, a, digest, signature)
		if a.Scheme == pubkey.PSS {
			assert.ErrorIs(t, key.Verify(a, digest, sign(a.Hash.Size()-1)), pubkey.ErrInvalid, "another length of the salt")
			if !fips140.Enabled() { // where the longest salt, which 0 stands for, is as long as the hash
				assert.ErrorIs(t, key.Verify(a, digest, sign(0)), pubkey.ErrInvalid)
			}
		}
		for _, b := range pubkey.RSA2048.Algorithms() {
			if b != a {
				assert.ErrorIs(t, key.Verify(b, b.Digest([]byte("m")), signature), pubkey.ErrInvalid, "%v for %v", a, b)
			}
		}
	}
}

// requireOnly shows that nothing near a valid signature is one.
func requireOnly(t *testing.T, key *pubkey.Key, a pubkey.Algorithm, digest, signature []byte) {
	t.Helper()
	for i := range signature {
		flipped := bytes.Clone(signature)
		flipped[i] ^= 1
		require.ErrorIs(t, key.Verify(a, digest, flipped), pubkey.ErrInvalid)
	}
	for _, wrong := range [][]byte{nil, {}, signature[:len(signature)-1], append(bytes.Clone(signature), 0), append([]byte{0}, signature...),
		make([]byte, len(signature))} {
		require.ErrorIs(t, key.Verify(a, digest, wrong), pubkey.ErrInvalid)
	}
	other := bytes.Clone(digest)
	other[0] ^= 1
	require.ErrorIs(t, key.Verify(a, other, signature), pubkey.ErrInvalid)
	for _, wrong := range [][]byte{nil, digest[1:], append(bytes.Clone(digest), 0)} {
		err := key.Verify(a, wrong, signature)
		require.Error(t, err)
		require.NotErrorIs(t, err, pubkey.ErrInvalid)
	}
}

func TestBadRSA(t *testing.T) {
	private := generated(t, 2048)
	n := private.N.Bytes()
	even := bytes.Clone(n)
	even[len(even)-1] &^= 1
	f4 := []byte{1, 0, 1}
	for name, try := range map[string]func() (*pubkey.Key, error){
		"another length": func() (*pubkey.Key, error) { return pubkey.FromRSA(pubkey.RSA3072, n, f4) },
		"a curve":        func() (*pubkey.Key, error) { return pubkey.FromRSA(pubkey.P256, n, f4) },
		"no spec":        func() (*pubkey.Key, error) { return pubkey.FromRSA(0, n, f4) },
		"even":           func() (*pubkey.Key, error) { return pubkey.FromRSA(pubkey.RSA2048, even, f4) },
		"exponent 3":     func() (*pubkey.Key, error) { return pubkey.FromRSA(pubkey.RSA2048, n, []byte{3}) },
		"no exponent":    func() (*pubkey.Key, error) { return pubkey.FromRSA(pubkey.RSA2048, n, nil) },
		"long exponent":  func() (*pubkey.Key, error) { return pubkey.FromRSA(pubkey.RSA2048, n, append(f4, make([]byte, 20)...)) },
		"DER of a curve": func() (*pubkey.Key, error) { return pubkey.Parse(pubkey.RSA2048, newCurveKey(t, pubkey.P256).der) },
		"DER and junk": func() (*pubkey.Key, error) {
			return pubkey.Parse(pubkey.RSA2048, append(derOf(t, &private.PublicKey), 0))
		},
		"no DER": func() (*pubkey.Key, error) { return pubkey.Parse(pubkey.RSA2048, nil) },
	} {
		_, err := try()
		assert.Error(t, err, name)
	}
}

// curveKey is a private key of a library that is not ours.
type curveKey struct {
	der, point []byte
	sign       func(digest []byte) []byte
}

func newCurveKey(t testing.TB, s pubkey.Spec) curveKey {
	t.Helper()
	if s == pubkey.SECP256K1 {
		private, err := secp256k1.GeneratePrivateKey()
		require.NoError(t, err)
		// As `openssl ec -pubout` writes it: what stands before the point is the same for every key.
		prefix, err := hex.DecodeString("3056301006072a8648ce3d020106052b8104000a034200")
		require.NoError(t, err)
		point := private.PubKey().SerializeUncompressed()
		return curveKey{append(prefix, point...), point, func(digest []byte) []byte { return koblitz.Sign(private, digest).Serialize() }}
	}
	curve := map[pubkey.Spec]elliptic.Curve{pubkey.P256: elliptic.P256(), pubkey.P384: elliptic.P384(), pubkey.P521: elliptic.P521()}[s]
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	point, err := private.PublicKey.Bytes()
	require.NoError(t, err)
	return curveKey{derOf(t, &private.PublicKey), point, func(digest []byte) []byte {
		signature, err := ecdsa.SignASN1(rand.Reader, private, digest)
		require.NoError(t, err)
		return signature
	}}
}

var curves = []pubkey.Spec{pubkey.P256, pubkey.P384, pubkey.P521, pubkey.SECP256K1}

func TestCurves(t *testing.T) {
	for _, s := range curves {
		foreign := newCurveKey(t, s)
		key, err := pubkey.FromPoint(s, foreign.point)
		require.NoError(t, err)
		assert.Equal(t, foreign.der, key.DER(), s)
		key, err = pubkey.Parse(s, foreign.der)
		require.NoError(t, err)
		require.Len(t, s.Algorithms(), 1)
		a := s.Algorithms()[0]
		digest := a.Digest([]byte("m"))
		signature := foreign.sign(digest)
		assert.NoError(t, key.Verify(a, digest, signature))
		requireOnly(t, key, a, digest, signature)
		another, err := pubkey.FromPoint(s, newCurveKey(t, s).point)
		require.NoError(t, err)
		assert.ErrorIs(t, another.Verify(a, digest, signature), pubkey.ErrInvalid)
		err = key.Verify(pubkey.Algorithm{Scheme: pubkey.ECDSA, Hash: crypto.SHA224}, make([]byte, 28), signature)
		assert.ErrorContains(t, err, "is no algorithm of")
		err = key.Verify(pubkey.PKCS1SHA256, make([]byte, 32), signature)
		assert.ErrorContains(t, err, "is no algorithm of")
		for _, other := range []pubkey.Algorithm{pubkey.PKCS1SHA256, pubkey.Ed25519SHA512, pubkey.Ed25519phSHA512, {}} {
			assert.ErrorContains(t, key.VerifyMessage(other, []byte("m"), signature), "is no algorithm of")
		}
		assert.NoError(t, key.VerifyMessage(a, []byte("m"), signature))
		assert.ErrorIs(t, key.VerifyMessage(a, []byte("n"), signature), pubkey.ErrInvalid)
	}
}

func TestBadPoints(t *testing.T) {
	for _, s := range curves {
		point := newCurveKey(t, s).point
		off := bytes.Clone(point)
		off[len(off)-1] ^= 1
		compressed := append([]byte{2}, point[1:1+s.FieldBytes()]...)
		hybrid := append([]byte{6 | point[len(point)-1]&1}, point[1:]...)
		zero := append([]byte{4}, make([]byte, 2*s.FieldBytes())...)
		for _, bad := range [][]byte{nil, {0}, off, compressed, hybrid, zero, point[:len(point)-1], append(bytes.Clone(point), 0), point[1:]} {
			_, err := pubkey.FromPoint(s, bad)
			assert.Error(t, err, "%v %x", s, bad)
		}
		der := newCurveKey(t, s).der
		for _, other := range pubkey.Specs() {
			_, err := pubkey.Parse(other, der)
			assert.Equal(t, other == s, err == nil, "%v as %v: %v", s, other, err)
		}
		for i := range len(der) - len(point) {
			bad := bytes.Clone(der)
			bad[i] ^= 1
			_, err := pubkey.Parse(s, bad)
			assert.Error(t, err, "%v, byte %d", s, i)
		}
		_, err := pubkey.Parse(s, append(bytes.Clone(der), 0))
		assert.Error(t, err)
	}
	_, err := pubkey.FromPoint(pubkey.RSA2048, make([]byte, 65))
	assert.Error(t, err)
}

func TestSignatureDER(t *testing.T) {
	for _, s := range curves {
		n := s.FieldBytes()
		for _, halves := range [][2]*big.Int{
			{big.NewInt(1), big.NewInt(127)}, {big.NewInt(128), big.NewInt(255)}, {big.NewInt(256), big.NewInt(1)},
			{new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(8*n)), big.NewInt(1)), new(big.Int).Lsh(big.NewInt(1), uint(8*n-1))},
			{new(big.Int).Lsh(big.NewInt(1), uint(8*n-2)), big.NewInt(3)},
		} {
			raw := append(halves[0].FillBytes(make([]byte, n)), halves[1].FillBytes(make([]byte, n))...)
			der, err := pubkey.SignatureDER(s, raw)
			require.NoError(t, err)
			want, err := asn1.Marshal(struct{ R, S *big.Int }{halves[0], halves[1]})
			require.NoError(t, err)
			assert.Equal(t, want, der, s)
		}
		one := append(make([]byte, n-1), 1)
		for _, bad := range [][]byte{nil, make([]byte, 2*n), append(bytes.Clone(one), make([]byte, n)...), append(make([]byte, n), one...),
			make([]byte, 2*n-1), make([]byte, 2*n+1), append(bytes.Clone(one), one[1:]...), append(append(bytes.Clone(one), one...), 1),
			append(append(bytes.Clone(one), one...), one...)} {
			_, err := pubkey.SignatureDER(s, bad)
			assert.Error(t, err)
		}
	}
	_, err := pubkey.SignatureDER(pubkey.RSA2048, make([]byte, 256))
	assert.Error(t, err)
}

// TestCopies: what a caller does with an answer changes nothing for others.
func TestCopies(t *testing.T) {
	for _, s := range curves {
		key, err := pubkey.FromPoint(s, newCurveKey(t, s).point)
		require.NoError(t, err)
		der, algorithms := bytes.Clone(key.DER()), slices.Clone(s.Algorithms())
		clear(key.DER())
		clear(s.Algorithms())
		assert.Equal(t, der, key.DER())
		assert.Equal(t, algorithms, s.Algorithms())
		assert.NotZero(t, algorithms[0])
	}
}

// TestDERAtTheBorderOfALengthByte: from 128 bytes on the length of a DER sequence takes two bytes (X.690 8.1.3.5).
func TestDERAtTheBorderOfALengthByte(t *testing.T) {
	seen := map[int]bool{}
	for r := 58; r <= 66; r++ {
		for s := 58; s <= 66; s++ {
			halves := make([]*big.Int, 2)
			raw := make([]byte, 0, 132)
			for i, length := range []int{r, s} {
				halves[i] = new(big.Int).Lsh(big.NewInt(1), uint(8*length-2)) // so many bytes, and none for the sign
				raw = append(raw, halves[i].FillBytes(make([]byte, 66))...)
			}
			der, err := pubkey.SignatureDER(pubkey.P521, raw)
			require.NoError(t, err)
			want, err := asn1.Marshal(struct{ R, S *big.Int }{halves[0], halves[1]})
			require.NoError(t, err)
			require.Equal(t, want, der)
			seen[r+s+4] = true
		}
	}
	require.True(t, seen[126] && seen[127] && seen[128] && seen[129])
}

func TestNames(t *testing.T) {
	assert.Equal(t, "RSA-2048", pubkey.RSA2048.String())
	assert.Equal(t, "Spec(0)", pubkey.Spec(0).String())
	assert.Equal(t, "Spec(99)", pubkey.Spec(99).String())
	assert.Equal(t, "RSASSA-PSS with SHA-384", pubkey.PSSSHA384.String())
	assert.Equal(t, "Ed25519ph with SHA-512", pubkey.Ed25519phSHA512.String())
	assert.Contains(t, pubkey.Algorithm{}.String(), "Scheme(0)")
	assert.Nil(t, pubkey.RSA2048.CurveParameters())
	assert.Equal(t, []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a}, pubkey.SECP256K1.CurveParameters())
	assert.Equal(t, []byte{0x06, 0x03, 0x2b, 0x65, 0x70}, pubkey.Edwards25519.CurveParameters())
	for _, s := range pubkey.Specs() {
		assert.True(t, s.Valid())
		assert.Equal(t, s.RSABits() == 0 && !s.Edwards(), s.FieldBytes() > 0)
	}
}
