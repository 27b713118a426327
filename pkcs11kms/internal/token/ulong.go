package token

import (
	"encoding/binary"

	"github.com/miekg/pkcs11"
)

// ulongBytes is the size of CK_ULONG, which is that of the platform's C long.
var ulongBytes = len(pkcs11.NewAttribute(pkcs11.CKA_CLASS, uint(0)).Value)

// ulong reads a CK_ULONG, which a module keeps in the machine's own byte order; zero if it is not one.
func ulong(v []byte) uint {
	switch {
	case len(v) != ulongBytes:
		return 0
	case ulongBytes == 8:
		return uint(binary.NativeEndian.Uint64(v))
	}
	return uint(binary.NativeEndian.Uint32(v))
}

func ulongs(v []byte) []uint {
	var list []uint
	for len(v) >= ulongBytes {
		list = append(list, ulong(v[:ulongBytes]))
		v = v[ulongBytes:]
	}
	return list
}

// truth reads a CK_BBOOL.
func truth(v []byte) bool { return len(v) == 1 && v[0] != 0 }
