package pubkey

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// The curve edwards25519: -x^2 + y^2 = 1 + d x^2 y^2 modulo p (RFC 8032 5.1).
var (
	edwardsP = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	edwardsD = func() *big.Int {
		d := new(big.Int).ModInverse(big.NewInt(121666), edwardsP)
		return d.Mod(d.Mul(d, big.NewInt(-121665)), edwardsP)
	}()
)

// fromEdwardsPoint makes a key from the encoding of RFC 8032 5.1.2: y in 255 bits, little-endian, and the lowest bit of x.
// crypto/ed25519 takes any 32 bytes for a key. Here a key is a point in its one encoding, and none of the eight points of
// small order, for which anybody can make signatures that are valid for many messages.
func fromEdwardsPoint(s Spec, point []byte) (*Key, error) {
	if len(point) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("reading an Ed25519 public key: it has %d bytes instead of %d", len(point), ed25519.PublicKeySize)
	}
	bytes := slices.Clone(point)
	slices.Reverse(bytes)
	odd := bytes[0]>>7 == 1 // of x
	bytes[0] &= 0x7f
	y := new(big.Int).SetBytes(bytes)
	if y.Cmp(edwardsP) >= 0 || !onEdwards25519(y, odd) {
		return nil, errors.New("reading an Ed25519 public key: it is no point of the curve")
	}
	if smallOrder(y) {
		return nil, errors.New("reading an Ed25519 public key: it is a point of small order")
	}
	key := ed25519.PublicKey(slices.Clone(point))
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("writing an Ed25519 public key: %w", err)
	}
	return &Key{spec: s, der: der, ed: key}, nil
}

// onEdwards25519 tells whether there is an x for y, of which the lowest bit may be set (RFC 8032 5.1.3): x^2 is
// (y^2-1) / (d y^2+1), where the divisor is never zero.
func onEdwards25519(y *big.Int, odd bool) bool {
	square := new(big.Int).Mul(y, y)
	u := new(big.Int).Sub(square, big.NewInt(1))
	v := square.Mul(square, edwardsD)
	v.Add(v, big.NewInt(1))
	x2 := u.Mul(u, v) // whether a quotient is a square is told by the product, too
	x2.Mod(x2, edwardsP)
	if x2.Sign() == 0 {
		return !odd // x is zero, which has no odd opposite
	}
	return big.Jacobi(x2, edwardsP) == 1
}

// smallOrder tells whether the points with this y are of order 1, 2, 4 or 8. Those of order 4 have y = 0, those of order 1 and 2
// have x = 0; a point of order 8 doubles into one of order 4: y^2 + x^2 = 0, which with the equation of the curve says that
// d y^4 + 2 y^2 - 1 = 0.
func smallOrder(y *big.Int) bool {
	y2 := new(big.Int).Mul(y, y)
	y2.Mod(y2, edwardsP)
	if y2.Sign() == 0 || y2.Cmp(big.NewInt(1)) == 0 {
		return true
	}
	sum := new(big.Int).Mul(y2, y2)
	sum.Mul(sum, edwardsD)
	sum.Add(sum, y2).Add(sum, y2).Sub(sum, big.NewInt(1))
	return sum.Mod(sum, edwardsP).Sign() == 0
}
