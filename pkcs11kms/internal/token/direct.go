package token

/*
#cgo noescape sign
#cgo nocallback sign

#include <stdatomic.h>

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__) || defined(__arm__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() atomic_signal_fence(memory_order_seq_cst)
#endif

// turn belongs to the session that makes a MAC just now. It is for speed alone: who waits in vain goes on, and for a while nobody waits
// then, since calls take long (the module is on the network, or one hangs) or the machine is busy.
struct turn {
	atomic_ulong of;  // a session, or 0
	atomic_int skip;  // how many calls are not to wait
};

enum { MOST_PAUSES = 2000, SKIPPED = 1000 }; // 2000 pauses are some 35 us on a machine of 2024, the time of a few MACs

static void take_turn(struct turn *t, unsigned long session)
{
	if (atomic_load_explicit(&t->skip, memory_order_relaxed) > 0) {
		atomic_fetch_sub_explicit(&t->skip, 1, memory_order_relaxed);
		return;
	}
	for (int i = 0; i < MOST_PAUSES; i++) {
		unsigned long nobody = 0;
		if (atomic_load_explicit(&t->of, memory_order_relaxed) == nobody && atomic_compare_exchange_weak(&t->of, &nobody, session))
			return;
		PAUSE();
	}
	atomic_store(&t->skip, SKIPPED);
	atomic_store(&t->of, 0); // whoever has it may hang
}

static void end_turn(struct turn *t, unsigned long session)
{
	unsigned long mine = session;
	atomic_compare_exchange_strong(&t->of, &mine, 0);
}

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

// sign begins and ends a signature, when it is its turn; turn may be null. *done says how many of the two calls were made.
static unsigned long sign(void *functions, unsigned long session, unsigned long mechanism, void *parameter, unsigned long length,
	unsigned long key, unsigned char *data, unsigned long dataLength, unsigned char *signature, unsigned long *signatureLength, int *done,
	struct turn *turn)
{
	struct functions *f = functions;
	struct mechanism m = {mechanism, parameter, length};
	unsigned long (*init)(unsigned long, struct mechanism *, unsigned long) = f->list[C_SignInit];
	unsigned long (*sign)(unsigned long, unsigned char *, unsigned long, unsigned char *, unsigned long *) = f->list[C_Sign];

	if (turn)
		take_turn(turn, session);
	*done = 1;
	unsigned long rv = init(session, &m, key);
	if (rv == 0) {
		*done = 2;
		rv = sign(session, data, dataLength, signature, signatureLength);
	}
	if (turn)
		end_turn(turn, session);
	return rv;
}
*/
import "C"

import (
	"fmt"
	"reflect"
	"runtime"
	"sync/atomic"
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

// turns is whose turn it is in a module in which two MACs at once get into each other's way: SoftHSM takes some twenty locks of the process
// for each, and two threads wait for each other at all of them. Measured with 16 callers on two cores: 16.3 us a MAC without turns, 8.3
// with them, where the loop in C, which has none, takes 8.5.
type turns = C.struct_turn

// turn returns the turns of the token's module, or nil where every call may go on at once. Signatures by key pairs may: they take
// long, and SoftHSM makes them outside its locks.
func (s *session) turn(m *pkcs11.Mechanism) *turns {
	if !s.token.facts().quirk.takesTurns || runtime.GOMAXPROCS(0) == 1 || !isMAC(m.Mechanism) {
		return nil
	}
	return s.token.loaded.turns
}

// mostYields bounds how often others run first while somebody has the turn, before the processor waits for it.
const mostYields = 20

// isTaken reports whether somebody has the turn, if there are turns. C reads and writes it by atomic operations as well.
func isTaken(t *turns) bool {
	return t != nil && atomic.LoadUintptr((*uintptr)(unsafe.Pointer(&t.of))) != 0
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
	t := s.turn(m)
	for i := 0; i < mostYields && isTaken(t); i++ {
		runtime.Gosched() // to whoever can do something else meanwhile
	}
	rv := C.sign(functions, C.ulong(s.handle), C.ulong(m.Mechanism), unsafe.Pointer(parameter), C.ulong(len(m.Parameter)), C.ulong(key),
		(*C.uchar)(input), C.ulong(len(data)), (*C.uchar)(&x.signature[0]), &x.length, &x.done, t)
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
