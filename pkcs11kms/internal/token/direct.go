package token

/*
#cgo noescape sign
#cgo nocallback sign

// The module is loaded by miekg/pkcs11; what is called here is in its CK_FUNCTION_LIST (PKCS#11 3.1, section 5.1), whose functions come
// after the version in the order of the standard.

enum { C_SignInit = 42, C_Sign = 43 };

struct functions {
	unsigned char version[2];
	void *list[68];
};

struct mechanism {
	unsigned long type;
	void *parameter;
	unsigned long length;
};

// sign begins and ends a signature. *done says how many of the two calls were made.
static unsigned long sign(void *functions, unsigned long session, unsigned long mechanism, void *parameter, unsigned long length,
	unsigned long key, unsigned char *data, unsigned long dataLength, unsigned char *signature, unsigned long *signatureLength, int *done)
{
	struct functions *f = functions;
	struct mechanism m = {mechanism, parameter, length};
	unsigned long (*init)(unsigned long, struct mechanism *, unsigned long) = f->list[C_SignInit];
	unsigned long (*sign)(unsigned long, unsigned char *, unsigned long, unsigned char *, unsigned long *) = f->list[C_Sign];

	*done = 1;
	unsigned long rv = init(session, &m, key);
	if (rv != 0)
		return rv;
	*done = 2;
	return sign(session, data, dataLength, signature, signatureLength);
}
*/
import "C"

import (
	"fmt"
	"reflect"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// C_SignInit and C_Sign lie on the way of every MAC. miekg/pkcs11 makes them in two crossings from Go to C, the second of which calls
// C_Sign twice, since it asks for the length of the signature first, and allocates five times. This file makes them in one crossing with a
// buffer of the session's own and one allocation.

// crossing is what one session needs for it. It belongs to the session and nobody else, since a call that hangs goes on writing.
type crossing struct {
	signature [mostSignature]byte
	length    C.ulong
	done      C.int
}

// mostSignature is more than any signature or MAC of this package has: RSA with 4,096 bits has 512 bytes.
const mostSignature = 1 << 10

// functionList returns the module's CK_FUNCTION_LIST, which miekg/pkcs11 keeps to itself, or nil if it has another form than the one that
// is known here. A module may give another list to each that asks (p11-kit does), of which only miekg's is initialised.
func functionList(ctx *pkcs11.Ctx) unsafe.Pointer {
	inside, ok := reflect.TypeFor[pkcs11.Ctx]().FieldByName("ctx")
	if !ok || inside.Type.Kind() != reflect.Pointer || inside.Type.Elem().Kind() != reflect.Struct {
		return nil
	}
	list, ok := inside.Type.Elem().FieldByName("sym")
	if !ok || list.Type.Kind() != reflect.Pointer {
		return nil
	}
	c := *(*unsafe.Pointer)(unsafe.Add(unsafe.Pointer(ctx), inside.Offset))
	found := *(*unsafe.Pointer)(unsafe.Add(c, list.Offset))
	if major := *(*byte)(found); major != 2 && major != 3 {
		return nil
	}
	return found
}

// signDirectly is signOnce by way of the function list.
func (s *session) signDirectly(functions unsafe.Pointer, m *pkcs11.Mechanism, key pkcs11.ObjectHandle, data []byte) ([]byte, error) {
	if s.crossing == nil {
		s.crossing = &crossing{}
	}
	x := s.crossing
	x.length = mostSignature
	input, parameter := unsafe.SliceData(data), unsafe.SliceData(m.Parameter)
	if len(data) == 0 {
		input = &x.signature[0] // some modules take no null pointer
	}
	rv := C.sign(functions, C.ulong(s.handle), C.ulong(m.Mechanism), unsafe.Pointer(parameter), C.ulong(len(m.Parameter)), C.ulong(key),
		(*C.uchar)(input), C.ulong(len(data)), (*C.uchar)(&x.signature[0]), &x.length, &x.done)
	switch {
	case rv != 0 && x.done == 1:
		return nil, &Error{Func: "C_SignInit", RV: uint(rv)}
	case rv != 0:
		return nil, &Error{Func: "C_Sign", RV: uint(rv)}
	case x.length > mostSignature:
		return nil, fmt.Errorf("C_Sign: %w: %d bytes", ErrMalformed, x.length)
	}
	signature := make([]byte, x.length)
	copy(signature, x.signature[:])
	return signature, nil
}
