package pubkey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
)

// Exponent is the public exponent of every RSA key of this package, F4.
const Exponent = 65537

// FromRSA makes a key of the spec from modulus and public exponent, both big-endian. It refuses what is no modulus of the
// spec's length, and every exponent but Exponent.
func FromRSA(s Spec, modulus, exponent []byte) (*Key, error) {
	n, e := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)
	switch {
	case s.RSABits() == 0:
		return nil, fmt.Errorf("reading an RSA public key: %v is no kind of RSA key", s)
	case n.BitLen() != s.RSABits():
		return nil, fmt.Errorf("reading an RSA public key: its modulus has %d bits instead of %d", n.BitLen(), s.RSABits())
	case n.Bit(0) == 0:
		return nil, errors.New("reading an RSA public key: its modulus is even")
	case !e.IsInt64() || e.Int64() != Exponent:
		return nil, fmt.Errorf("reading an RSA public key: its exponent is not %d", Exponent)
	}
	key := &rsa.PublicKey{N: n, E: Exponent}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("writing an RSA public key: %w", err)
	}
	return &Key{spec: s, der: der, rsa: key}, nil
}

// FromPoint makes a key of the spec from an uncompressed point (SEC 1 2.3.3), or of an Edwards curve from the 32 bytes of RFC
// 8032 5.1.2. It refuses what is no point of the curve, and no point that a key can have.
func FromPoint(s Spec, point []byte) (*Key, error) {
	if s.Edwards() {
		return fromEdwardsPoint(s, point)
	}
	n := s.FieldBytes()
	if n == 0 {
		return nil, fmt.Errorf("reading an elliptic curve public key: %v is no curve", s)
	}
	if len(point) != 1+2*n || point[0] != 4 {
		return nil, fmt.Errorf("reading an elliptic curve public key: it is no uncompressed point of %v", s)
	}
	if s == SECP256K1 {
		return fromKoblitzPoint(point)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(s.info().curve, point)
	if err != nil {
		return nil, fmt.Errorf("reading an elliptic curve public key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("writing an elliptic curve public key: %w", err)
	}
	return &Key{spec: s, der: der, ec: key}, nil
}

// publicKeyInfo is SubjectPublicKeyInfo (RFC 5280 4.1).
type publicKeyInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	PublicKey asn1.BitString
}

var oidECPublicKey = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1} // RFC 5480 2.1.1

func fromKoblitzPoint(point []byte) (*Key, error) {
	key, err := secp256k1.ParsePubKey(point) // which checks that it is on the curve
	if err != nil {
		return nil, fmt.Errorf("reading an elliptic curve public key: %w", err)
	}
	der, err := asn1.Marshal(publicKeyInfo{
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidECPublicKey,
			Parameters: asn1.RawValue{FullBytes: SECP256K1.CurveParameters()}},
		PublicKey: asn1.BitString{Bytes: point, BitLength: 8 * len(point)},
	})
	if err != nil {
		return nil, fmt.Errorf("writing an elliptic curve public key: %w", err)
	}
	return &Key{spec: SECP256K1, der: der, koba: key}, nil
}

// Parse reads the SubjectPublicKeyInfo of a key of the spec, as DER of this package writes it and in no other form.
func Parse(s Spec, der []byte) (*Key, error) {
	key, err := parse(s, der)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(key.der, der) {
		return nil, fmt.Errorf("reading a public key of %v: it is not in the canonical form", s)
	}
	return key, nil
}

func parse(s Spec, der []byte) (*Key, error) {
	if s.RSABits() == 0 {
		var info publicKeyInfo
		if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 {
			return nil, errors.New("reading a public key: it is no SubjectPublicKeyInfo")
		}
		return FromPoint(s, info.PublicKey.Bytes)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("reading a public key: %w", err)
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("reading a public key: it is a %T, not of %v", parsed, s)
	}
	return FromRSA(s, key.N.Bytes(), big.NewInt(int64(key.E)).Bytes())
}
