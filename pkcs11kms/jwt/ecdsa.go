package jwt

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"math/big"
)

// ecdsaSignature is the ECDSA-Sig-Value of RFC 3279 2.2.3, which KMS makes and takes. JOSE has the two numbers side by side,
// big-endian and each as long as the curve's order (RFC 7518 3.4).
type ecdsaSignature struct{ R, S *big.Int }

var errNoSignature = errors.New("the signature is no ECDSA-Sig-Value of the key's curve in DER")

// toJOSE turns a DER signature into r and s of width bytes each. It takes the one DER form of two numbers in the range, and
// nothing else.
func toJOSE(der []byte, width int) ([]byte, error) {
	var parts ecdsaSignature
	if _, err := asn1.Unmarshal(der, &parts); err != nil {
		return nil, errNoSignature
	}
	for _, n := range []*big.Int{parts.R, parts.S} {
		if n.Sign() <= 0 || n.BitLen() > 8*width {
			return nil, errNoSignature
		}
	}
	// Unmarshal passes over what follows the two numbers, inside and behind.
	if again, err := asn1.Marshal(parts); err != nil || !bytes.Equal(again, der) {
		return nil, errNoSignature
	}
	signature := make([]byte, 2*width)
	parts.R.FillBytes(signature[:width])
	parts.S.FillBytes(signature[width:])
	return signature, nil
}

// fromJOSE turns r and s, of the same width each, into DER.
func fromJOSE(signature []byte) []byte {
	width := len(signature) / 2
	der, err := asn1.Marshal(ecdsaSignature{new(big.Int).SetBytes(signature[:width]), new(big.Int).SetBytes(signature[width:])})
	if err != nil {
		panic(err) // numbers can always be written
	}
	return der
}
