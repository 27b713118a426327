package pubkey_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
)

// FuzzVerify: whatever comes as a signature of a curve is judged without a panic, and nothing may stand behind a valid one.
func FuzzVerify(f *testing.F) {
	type target struct {
		key    *pubkey.Key
		a      pubkey.Algorithm
		digest []byte
	}
	var targets []target
	for _, s := range curves {
		foreign := newCurveKey(f, s)
		key, err := pubkey.FromPoint(s, foreign.point)
		require.NoError(f, err)
		a := s.Algorithms()[0]
		digest := a.Digest([]byte("m"))
		targets = append(targets, target{key, a, digest})
		f.Add(foreign.sign(digest))
	}
	f.Add([]byte{0x30, 0x06, 0x02, 0x01, 0x01, 0x02, 0x01, 0x01})
	f.Add([]byte{0x30, 0x81, 0x00})
	f.Fuzz(func(t *testing.T, signature []byte) {
		for _, on := range targets {
			err := on.key.Verify(on.a, on.digest, signature)
			if err != nil && !errors.Is(err, pubkey.ErrInvalid) {
				t.Fatal(err)
			}
			if err == nil && on.key.Verify(on.a, on.digest, append(bytes.Clone(signature), 0)) == nil {
				t.Fatal("junk behind a valid signature")
			}
		}
	})
}

// FuzzParse: what is read as a key is written as it was.
func FuzzParse(f *testing.F) {
	for _, s := range curves {
		f.Add(newCurveKey(f, s).der)
	}
	f.Add(derOf(f, &generated(f, 2048).PublicKey))
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(f, err)
	f.Add(derOf(f, edwards))
	f.Fuzz(func(t *testing.T, der []byte) {
		for _, s := range pubkey.Specs() {
			if key, err := pubkey.Parse(s, der); err == nil && !bytes.Equal(key.DER(), der) {
				t.Fatalf("%x is read as %x", der, key.DER())
			}
		}
	})
}
