package jwt

import (
	"context"
	"crypto/ecdsa"
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

// KeySet is a JWK Set (RFC 7517 section 5) of public keys. encoding/json writes it; ParseKeySet reads it.
type KeySet struct {
	Keys []JWK `json:"keys"`
}

// JWK is a public key (RFC 7517 section 4, RFC 7518 section 6). Numbers are big-endian in base64url without padding.
type JWK struct {
	Kty string `json:"kty"`           // RSA or EC
	Kid string `json:"kid"`           // the id of the KMS key
	Use string `json:"use,omitempty"` // sig
	Alg string `json:"alg,omitempty"` // ES256, ES384 or ES512; absent for RSA keys, which have six algorithms
	N   string `json:"n,omitempty"`   // RSA: the modulus
	E   string `json:"e,omitempty"`   // RSA: the exponent
	Crv string `json:"crv,omitempty"` // EC: P-256, P-384 or P-521
	X   string `json:"x,omitempty"`   // EC: the coordinates, as long as the curve's field
	Y   string `json:"y,omitempty"`
}

// PublicKeySet returns the public keys of signing keys, for a consumer's KeySet or for a document that others fetch. keyIDs
// are as for Resolve. It needs kms:DescribeKey and kms:GetPublicKey. HMAC keys are refused with ErrAlgorithm: they have no
// public half. So is a key that is disabled, with KMS's error.
func PublicKeySet(ctx context.Context, client Client, keyIDs ...string) (*KeySet, error) {
	set := &KeySet{Keys: []JWK{}}
	for _, id := range keyIDs {
		key, err := Resolve(ctx, client, id)
		if err != nil {
			return nil, err
		}
		if _, pair := pairSpecs[key.spec]; !pair {
			return nil, fmt.Errorf("%w: the key %q is an %s key, which has no public half", ErrAlgorithm, id, key.spec)
		}
		if key, err = key.withPublicKey(ctx); err != nil {
			return nil, err
		}
		jwk, err := key.jwk()
		if err != nil {
			return nil, err
		}
		if !set.has(jwk.Kid) { // two aliases may point to one key
			set.Keys = append(set.Keys, jwk)
		}
	}
	return set, nil
}

func (s *KeySet) has(kid string) bool {
	for _, jwk := range s.Keys {
		if jwk.Kid == kid {
			return true
		}
	}
	return false
}

// jwk writes the public half.
func (k *Key) jwk() (JWK, error) {
	public, err := x509.ParsePKIXPublicKey(k.public.DER())
	if err != nil {
		return JWK{}, fmt.Errorf("writing the key %q: %w", k.id, err)
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
		method, err := MethodFor(k.spec)
		if err != nil {
			return JWK{}, err
		}
		x, y := point[1:1+len(point)/2], point[1+len(point)/2:]
		return JWK{Kty: "EC", Kid: k.id, Use: "sig", Alg: method.name, Crv: public.Params().Name, X: encodeSegment(x), Y: encodeSegment(y)}, nil
	}
	return JWK{}, fmt.Errorf("writing the key %q: a %T has no form here", k.id, public)
}

// maxKeySet is the longest document that ParseKeySet reads, in bytes.
const maxKeySet = 1 << 20

// ParseKeySet reads a JWK Set that anybody made. As RFC 7517 asks, keys of other kinds, curves, uses and algorithms than this
// package's are left out, and members that are not known passed over. A key with a private or malformed part, without a kid, or with
// the kid of another is an error: so is every RSA key but those of 2048, 3072 or 4096 bits with the exponent 65537.
func ParseKeySet(doc []byte) (*KeySet, error) {
	if len(doc) > maxKeySet {
		return nil, fmt.Errorf("reading a key set: it is longer than %d bytes", maxKeySet)
	}
	var raw map[string]json.RawMessage
	if err := strictjson.Decode(doc, &raw); err != nil {
		return nil, fmt.Errorf("reading a key set: %w", err)
	}
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(raw["keys"], &list); err != nil {
		return nil, errors.New("reading a key set: it has no list of keys")
	}
	set := &KeySet{Keys: []JWK{}}
	for i, members := range list {
		jwk, err := parseJWK(members)
		if err != nil {
			return nil, fmt.Errorf("reading a key set: key %d: %w", i+1, err)
		}
		if jwk != nil {
			set.Keys = append(set.Keys, *jwk)
		}
	}
	if _, err := set.keys(); err != nil {
		return nil, fmt.Errorf("reading a key set: %w", err)
	}
	return set, nil
}

// parseJWK returns nil for a key that is not for us.
func parseJWK(members map[string]json.RawMessage) (*JWK, error) {
	var jwk JWK
	for name, target := range map[string]*string{"kty": &jwk.Kty, "kid": &jwk.Kid, "use": &jwk.Use, "alg": &jwk.Alg,
		"n": &jwk.N, "e": &jwk.E, "crv": &jwk.Crv, "x": &jwk.X, "y": &jwk.Y} {
		text, ok := members[name]
		if ok && (text[0] != '"' || json.Unmarshal(text, target) != nil) {
			return nil, fmt.Errorf("its %s is no string", name)
		}
	}
	if jwk.foreign() {
		return nil, nil
	}
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth"} {
		if _, ok := members[name]; ok {
			return nil, errors.New("it is a private key, which does not belong here")
		}
	}
	text, restricted := members["key_ops"]
	var operations []string
	if restricted && json.Unmarshal(text, &operations) != nil {
		return nil, errors.New("its key_ops is no list of strings")
	}
	if restricted && !slices.Contains(operations, "verify") {
		return nil, nil
	}
	return &jwk, nil
}

// foreign tells a key of a kind, for a use or of an algorithm that is not this package's.
func (j *JWK) foreign() bool {
	_, knownCurve := curves[j.Crv]
	_, unknownAlg := MethodNamed(j.Alg)
	return j.Kty != "RSA" && (j.Kty != "EC" || j.Crv != "" && !knownCurve) ||
		j.Use != "" && j.Use != "sig" || j.Alg != "" && unknownAlg != nil
}

// fixedKeys are keys that no KMS was asked for, by kid.
type fixedKeys map[string]*Key

func (f fixedKeys) find(_ context.Context, kid string) (*Key, error) {
	if key := f[kid]; key != nil {
		return key, nil
	}
	return nil, invalid(ErrUnknownKey)
}

// keys makes keys of the set, all of which must be good.
func (s *KeySet) keys() (fixedKeys, error) {
	keys := fixedKeys{}
	for _, jwk := range s.Keys {
		key, err := jwk.key()
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", brief(jwk.Kid), err)
		}
		if keys[key.id] != nil {
			return nil, fmt.Errorf("two keys have the kid %q", brief(key.id))
		}
		keys[key.id] = key
	}
	return keys, nil
}

func (j JWK) key() (*Key, error) {
	if j.Kid == "" {
		return nil, errors.New("it has no kid")
	}
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
	default:
		err = fmt.Errorf("kty %q is neither RSA nor EC", brief(j.Kty))
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
		return "", nil, fmt.Errorf("crv %q is none of P-256, P-384, P-521", brief(j.Crv))
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
