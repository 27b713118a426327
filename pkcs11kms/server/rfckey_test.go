package server

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// The modulus and one prime of the RSA key of RFC 7515 A.2.1.
const (
	rfcModulus = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMs" +
		"D1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdV" +
		"MTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
	rfcPrime = "4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPG" +
		"BY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc"
)

func number(t *testing.T, text string) *big.Int {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	require.NoError(t, err)
	return new(big.Int).SetBytes(raw)
}

// rfcSigningKey puts the RSA key of RFC 7515 A.2 into the token, and returns its CKA_ID and its SubjectPublicKeyInfo.
func rfcSigningKey(t *testing.T, cfg *pkcs11kms.Config) (id, public []byte) {
	n, p := number(t, rfcModulus), number(t, rfcPrime)
	q := new(big.Int).Div(n, p)
	one := big.NewInt(1)
	order := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: 65537}, D: new(big.Int).ModInverse(big.NewInt(65537), order),
		Primes: []*big.Int{p, q}}
	require.NoError(t, key.Validate())
	key.Precompute()

	tok, err := token.Open(t.Context(), token.Config{URI: cfg.Regions[testRegion].Token}) // logs the process in
	require.NoError(t, err)
	id = bytes.Repeat([]byte{2}, 16)
	importRSA(t, tok.Info(), key, id)
	require.NoError(t, tok.Close())
	public, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	return id, public
}

// importRSA does what our token layer never does: it puts a private key of known value into the token.
func importRSA(t *testing.T, token token.Info, key *rsa.PrivateKey, id []byte) {
	c := pkcs11.New(token.ModulePath)
	slots, err := c.GetSlotList(true)
	require.NoError(t, err)
	for _, slot := range slots {
		info, err := c.GetTokenInfo(slot)
		require.NoError(t, err)
		if info.SerialNumber != token.Serial {
			continue
		}
		s, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		require.NoError(t, err)
		template := []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, id), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		}
		for attribute, value := range map[uint]*big.Int{
			pkcs11.CKA_MODULUS: key.N, pkcs11.CKA_PUBLIC_EXPONENT: big.NewInt(int64(key.E)), pkcs11.CKA_PRIVATE_EXPONENT: key.D,
			pkcs11.CKA_PRIME_1: key.Primes[0], pkcs11.CKA_PRIME_2: key.Primes[1], pkcs11.CKA_EXPONENT_1: key.Precomputed.Dp,
			pkcs11.CKA_EXPONENT_2: key.Precomputed.Dq, pkcs11.CKA_COEFFICIENT: key.Precomputed.Qinv,
		} {
			template = append(template, pkcs11.NewAttribute(attribute, value.Bytes()))
		}
		_, err = c.CreateObject(s, template)
		require.NoError(t, err)
		require.NoError(t, c.CloseSession(s))
		return
	}
	require.Fail(t, "the token is not there")
}
