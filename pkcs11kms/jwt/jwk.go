package jwt

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/pubkey"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/strictjson"
)

// JWK is a public key (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2). Numbers are big-endian in base64url without padding.
type JWK struct {
	Kty string `json:"kty"`           // RSA, EC or OKP
	Kid string `json:"kid,omitempty"` // the id of the KMS key
	Use string `json:"use,omitempty"` // sig
	Alg string `json:"alg,omitempty"` // ES256, ES384, ES512 or EdDSA; absent for RSA keys, which have six algorithms
	N   string `json:"n,omitempty"`   // RSA: the modulus
	E   string `json:"e,omitempty"`   // RSA: the exponent
	Crv string `json:"crv,omitempty"` // EC: P-256, P-384 or P-521; OKP: Ed25519
	X   string `json:"x,omitempty"`   // EC: the coordinates, as long as the curve's field; OKP: the key
	Y   string `json:"y,omitempty"`
}

// jwk writes the public half.
func (k *Key) jwk() (JWK, error) {
	public, err := x509.ParsePKIXPublicKey(k.public.DER())
	if err != nil {
		return JWK{}, fmt.Errorf("writing the key %q: %w", k.id, err)
	}
	method, err := MethodFor(k.spec)
	if err != nil {
		return JWK{}, err
	}
	switch public := public.(type) {
	case *rsa.PublicKey:
		return JWK{Kty: "RSA", Kid: k.id, Use: "sig", N: encodeSegment(public.N.Bytes()),
			E: encodeSegment(big.NewInt(int64(public.E)).Bytes())}, nil
	case *ecdsa.PublicKey:
		point, err := public.Bytes() // 4, x, y
		if err != nil {
			return JWK{}, fmt.Errorf("writing the key %q: %w", k.id, err)
		}
		x, y := point[1:1+len(point)/2], point[1+len(point)/2:]
		return JWK{Kty: "EC", Kid: k.id, Use: "sig", Alg: method.name, Crv: public.Params().Name, X: encodeSegment(x), Y: encodeSegment(y)}, nil
	case ed25519.PublicKey:
		return JWK{Kty: "OKP", Kid: k.id, Use: "sig", Alg: method.name, Crv: curveEd25519, X: encodeSegment(public)}, nil
	}
	return JWK{}, fmt.Errorf("writing the key %q: a %T has no form here", k.id, public)
}

// privateMembers are those of private keys (RFC 7518 section 6).
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth"}

// parseJWK reads a key of a set that anybody made, as far as it is one for verifying; whether it can be used, key tells. What it
// could read of a key that it refuses is returned with the error.
func parseJWK(doc []byte) (JWK, error) {
	var jwk JWK
	var members map[string]json.RawMessage // a struct would take "KID" for "kid"
	if err := strictjson.Decode(doc, &members); err != nil {
		return jwk, fmt.Errorf("it cannot be read: %w", err)
	}
	for _, member := range []struct {
		name   string
		target *string
	}{{"kid", &jwk.Kid}, {"kty", &jwk.Kty}, {"use", &jwk.Use}, {"alg", &jwk.Alg}, {"n", &jwk.N}, {"e", &jwk.E}, {"crv", &jwk.Crv},
		{"x", &jwk.X}, {"y", &jwk.Y}} {
		text, ok := members[member.name]
		if ok && (text[0] != '"' || json.Unmarshal(text, member.target) != nil) {
			return jwk, fmt.Errorf("its %s is no string", member.name)
		}
	}
	if _, ok := members["kid"]; ok && jwk.Kid == "" {
		return jwk, errors.New("its kid is empty")
	}
	for _, name := range privateMembers {
		if _, ok := members[name]; ok {
			return jwk, errors.New("it is a private key, which does not belong into a set that others read")
		}
	}
	text, restricted := members["key_ops"]
	var operations []string
	if restricted && json.Unmarshal(text, &operations) != nil {
		return jwk, errors.New("its key_ops is no list of strings")
	}
	if restricted && !slices.Contains(operations, "verify") {
		return jwk, errors.New("its key_ops does not have verify")
	}
	return jwk, nil
}

// key returns the key, or why it cannot be used.
func (j JWK) key() (*Key, error) {
	if j.Use != "" && j.Use != "sig" {
		return nil, fmt.Errorf("its use is %q: it is not for signatures", brief(j.Use))
	}
	key := &Key{ctx: context.Background(), id: j.Kid}
	var err error
	switch j.Kty {
	case "RSA":
		key.spec, key.public, err = j.rsa()
	case "EC":
		key.spec, key.public, err = j.ec()
	case "OKP":
		key.spec, key.public, err = j.okp()
	default:
		err = fmt.Errorf("its kty %q is none of RSA, EC, OKP", brief(j.Kty))
	}
	if err != nil || j.Alg == "" {
		return key, err
	}
	if key.only, err = MethodNamed(j.Alg); err != nil {
		return nil, err
	}
	return key, key.allows(key.only)
}

func (j JWK) rsa() (types.KeySpec, *pubkey.Key, error) {
	n, err := decodeSegment(j.N)
	if err != nil {
		return "", nil, fmt.Errorf("its n is %w", err)
	}
	e, err := decodeSegment(j.E)
	if err != nil {
		return "", nil, fmt.Errorf("its e is %w", err)
	}
	for spec, pair := range pairSpecs {
		if bits := pair.RSABits(); bits > 0 && bits == new(big.Int).SetBytes(n).BitLen() {
			public, err := pubkey.FromRSA(pair, n, e)
			return spec, public, err
		}
	}
	return "", nil, errors.New("its n has neither 2048 nor 3072 nor 4096 bits")
}

// curves are the key specs of the values of crv.
var curves = map[string]types.KeySpec{
	elliptic.P256().Params().Name: types.KeySpecEccNistP256,
	elliptic.P384().Params().Name: types.KeySpecEccNistP384,
	elliptic.P521().Params().Name: types.KeySpecEccNistP521,
}

func (j JWK) ec() (types.KeySpec, *pubkey.Key, error) {
	spec, ok := curves[j.Crv]
	if !ok {
		return "", nil, fmt.Errorf("its crv %q is none of P-256, P-384, P-521", brief(j.Crv))
	}
	pair := pairSpecs[spec]
	point := []byte{4}
	for name, text := range []string{j.X, j.Y} {
		n, err := decodeSegment(text)
		if err != nil || len(n) != pair.FieldBytes() {
			return "", nil, fmt.Errorf("its %c is no coordinate of %s", "xy"[name], j.Crv)
		}
		point = append(point, n...)
	}
	public, err := pubkey.FromPoint(pair, point)
	return spec, public, err
}

// curveEd25519 is the crv of RFC 8037 for Ed25519.
const curveEd25519 = "Ed25519"

func (j JWK) okp() (types.KeySpec, *pubkey.Key, error) {
	if j.Crv != curveEd25519 {
		return "", nil, fmt.Errorf("its crv %q is not Ed25519", brief(j.Crv))
	}
	x, err := decodeSegment(j.X)
	if err != nil {
		return "", nil, fmt.Errorf("its x is %w", err)
	}
	public, err := pubkey.FromPoint(pubkey.Edwards25519, x)
	return types.KeySpecEccNistEdwards25519, public, err
}
