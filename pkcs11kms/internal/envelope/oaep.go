package envelope

import (
	"crypto/subtle"
	"encoding/binary"
	"hash"
)

// decodeOAEP is EME-OAEP decoding with an empty label (RFC 8017, 7.1.2, step 3). Nothing but ok, which is 1 or 0, depends on what is wrong,
// and no branch or index on what the RSA key has made, until the whole is known to be right: as crypto/rsa does, which takes no encoded
// message.
func decodeOAEP(h hash.Hash, encoded []byte) (message []byte, ok int) {
	size := h.Size()
	if len(encoded) < 2*size+2 {
		return nil, 0
	}
	label := h.Sum(nil)
	work := append([]byte(nil), encoded...)
	defer clear(work)
	first := subtle.ConstantTimeByteEq(work[0], 0)
	seed, db := work[1:1+size], work[1+size:]
	mask(h, db, seed)
	mask(h, seed, db)
	same := subtle.ConstantTimeCompare(label, db[:size])

	// The message follows the first byte 1, before which there are zeros alone.
	looking, index, invalid := 1, 0, 0
	rest := db[size:]
	for i, b := range rest {
		zero, one := subtle.ConstantTimeByteEq(b, 0), subtle.ConstantTimeByteEq(b, 1)
		index = subtle.ConstantTimeSelect(looking&one, i, index)
		looking = subtle.ConstantTimeSelect(one, 0, looking)
		invalid = subtle.ConstantTimeSelect(looking&^zero, 1, invalid)
	}
	if first&same&^invalid&^looking != 1 {
		return nil, 0
	}
	return append([]byte(nil), rest[index+1:]...), 1
}

// mask is MGF1 (RFC 8017, B.2.1) of seed, over out.
func mask(h hash.Hash, seed, out []byte) {
	var counter [4]byte
	digest := make([]byte, 0, h.Size())
	for done := 0; done < len(out); {
		h.Reset()
		h.Write(seed)
		h.Write(counter[:])
		digest = h.Sum(digest[:0])
		done += subtle.XORBytes(out[done:], out[done:], digest)
		binary.BigEndian.PutUint32(counter[:], binary.BigEndian.Uint32(counter[:])+1)
	}
	clear(digest)
	h.Reset()
}
