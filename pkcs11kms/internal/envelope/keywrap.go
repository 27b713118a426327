package envelope

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
)

// AES key wrap with padding, RFC 5649.

const alternativeIV = 0xA65959A6 // followed by the length in bytes, as 32 bits

// wrap returns material of 1 byte or more under the key of an AES block.
func wrap(block cipher.Block, material []byte) []byte {
	n := (len(material) + 7) / 8
	out := make([]byte, 8*(n+1))
	binary.BigEndian.PutUint32(out, alternativeIV)
	binary.BigEndian.PutUint32(out[4:], uint32(len(material)))
	copy(out[8:], material)
	if n == 1 {
		block.Encrypt(out, out)
		return out
	}
	var b [16]byte
	defer clear(b[:])
	copy(b[:8], out[:8])
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(b[8:], out[8*i:8*i+8])
			block.Encrypt(b[:], b[:])
			copy(out[8*i:], b[8:])
			binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(j*n+i))
		}
	}
	copy(out[:8], b[:8])
	return out
}

// unwrap is the inverse; ok is 1 or 0, and the material means nothing unless it is 1. wrapped is a multiple of 8 bytes, 16 at least.
func unwrap(block cipher.Block, wrapped []byte) (material []byte, ok int) {
	n := len(wrapped)/8 - 1
	if n < 1 || len(wrapped)%8 != 0 {
		return nil, 0
	}
	out := append([]byte(nil), wrapped...)
	var b [16]byte
	defer clear(b[:])
	if n == 1 {
		block.Decrypt(out, out)
	} else {
		copy(b[:8], out[:8])
		for j := 5; j >= 0; j-- {
			for i := n; i >= 1; i-- {
				binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(j*n+i))
				copy(b[8:], out[8*i:8*i+8])
				block.Decrypt(b[:], b[:])
				copy(out[8*i:], b[8:])
			}
		}
		copy(out[:8], b[:8])
	}
	var iv [4]byte
	binary.BigEndian.PutUint32(iv[:], alternativeIV)
	ok = subtle.ConstantTimeCompare(iv[:], out[:4])
	length := int(binary.BigEndian.Uint32(out[4:]))
	ok &= subtle.ConstantTimeLessOrEq(8*(n-1)+1, min(length, 8*n+1)) & subtle.ConstantTimeLessOrEq(min(length, 8*n+1), 8*n)
	length = subtle.ConstantTimeSelect(ok, min(length, 8*n+1), 8*n)
	for i := 8 * (n - 1); i < 8*n; i++ { // the padding is zeros
		padding := subtle.ConstantTimeLessOrEq(length, i)
		zero := subtle.ConstantTimeByteEq(out[8+i], 0)
		ok &= subtle.ConstantTimeSelect(padding, zero, 1)
	}
	if ok != 1 {
		clear(out)
		return nil, 0
	}
	return out[8 : 8+length], ok
}
