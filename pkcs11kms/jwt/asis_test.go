package jwt_test

import (
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/jwt"
)

// Claims are signed as they stand: characters that HTML has a meaning for are not escaped, which would cost room, and those beyond 16 bits
// may be escaped as JSON has them, by two halves.
func TestClaimsAreSignedAsTheyStand(t *testing.T) {
	f := newFixture(t)
	key := f.newKey("HMAC_256")
	for _, claims := range []string{`{"sub":"<alice> & bob"}`, `{"sub":"\ud83d\ude00\ud83d\ude00 \n \u00e9"}`} {
		token := f.sign(key, json.RawMessage(claims))
		require.Equal(t, claims, fromRaw(t, strings.Split(token, ".")[1]))
		var read json.RawMessage
		require.NoError(t, f.verifier(jwt.VerifierConfig{}, key).Verify(t.Context(), token, &read))
		require.Equal(t, claims, string(read))
	}
}

// The length of an RSA key is that of its modulus in bits: one of as many bytes can have less.
func TestRSAKeyOfLessBits(t *testing.T) {
	rsaKey := newRSAPair(t, "a").jwk
	less := new(big.Int).SetBit(big.NewInt(1), 2046, 1) // 2,047 bits in 256 bytes
	_, err := jwt.ParseKeySet(setOf(jwkWith(t, rsaKey, map[string]any{"n": rawURL(string(less.Bytes()))})))
	require.ErrorContains(t, err, "its n has neither 2048 nor 3072 nor 4096 bits")
}

// A MaxAge that is none is the default, also where a difference of two times has come out negative.
func TestNegativeMaxAgeIsTheDefault(t *testing.T) {
	f, c := newFixture(t), newClock()
	client := &flaky{Client: f.remote}
	key := f.newKey("HMAC_256")
	signer, err := jwt.NewSigner(jwt.SignerConfig{Client: client, KeyID: key, Now: c.Now, MaxAge: -time.Second})
	require.NoError(t, err)
	v := f.verifier(jwt.VerifierConfig{Client: client, Now: c.Now, MaxAge: -time.Second}, key)
	for range 2 {
		token, err := signer.Sign(t.Context(), map[string]any{})
		require.NoError(t, err)
		require.NoError(t, v.Verify(t.Context(), token, nil))
	}
	require.EqualValues(t, 2, client.asked.Load(), "each has asked once")
}
