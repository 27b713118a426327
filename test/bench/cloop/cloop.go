// Package cloop is the rival that nobody can beat: a loop in C that makes MACs by a session copy of a key, with nothing around it. One
// thread has one session, as PKCS#11 wants it.
package cloop

/*
#cgo LDFLAGS: -ldl -pthread
#cgo noescape once
#cgo nocallback once
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

// The functions that are called, by their place in CK_FUNCTION_LIST (PKCS#11 3.1, section 5.1).
enum { C_Initialize = 0, C_OpenSession = 12, C_CopyObject = 21, C_SignInit = 42, C_Sign = 43 };
enum { CKF_SERIAL_SESSION = 4, CKF_RW_SESSION = 2, CKA_TOKEN = 1, MOST_THREADS = 64 };
enum { CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191 };

typedef unsigned long ulong;
struct functions { unsigned char version[2]; void *list[68]; };
struct attribute { ulong type; void *value; ulong length; };
struct mechanism { ulong type; void *parameter; ulong length; };

struct loop {
	struct functions *f;
	ulong sessions[MOST_THREADS], key, mechanism;
	unsigned char *message;
	ulong length;
	long each, more; // how many operations a thread makes, and how many threads make one more
	pthread_barrier_t begin;
};

struct worker { struct loop *loop; int i; ulong rv; struct timespec end; };

static ulong open_loop(struct loop *l, const char *path, ulong slot, ulong key, ulong mechanism)
{
	void *module = dlopen(path, RTLD_NOW);
	ulong (*list)(struct functions **) = module ? dlsym(module, "C_GetFunctionList") : NULL;
	if (list == NULL || list(&l->f) != 0)
		return ~0ul;
	// p11-kit gives each that asks a list of its own; for most modules it is initialised already.
	ulong (*initialize)(void *) = l->f->list[C_Initialize];
	ulong initialized = initialize(NULL);
	if (initialized != 0 && initialized != CKR_CRYPTOKI_ALREADY_INITIALIZED)
		return initialized;
	ulong (*open)(ulong, ulong, void *, void *, ulong *) = l->f->list[C_OpenSession];
	for (int i = 0; i < MOST_THREADS; i++) {
		ulong rv = open(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &l->sessions[i]);
		if (rv != 0)
			return rv;
	}
	unsigned char no = 0;
	struct attribute of_session = {CKA_TOKEN, &no, 1};
	ulong (*copy)(ulong, ulong, struct attribute *, ulong, ulong *) = l->f->list[C_CopyObject];
	l->mechanism = mechanism;
	return copy(l->sessions[0], key, &of_session, 1, &l->key);
}

static void *work(void *argument)
{
	struct worker *w = argument;
	struct loop *l = w->loop;
	ulong (*init)(ulong, struct mechanism *, ulong) = l->f->list[C_SignInit];
	ulong (*sign)(ulong, unsigned char *, ulong, unsigned char *, ulong *) = l->f->list[C_Sign];
	struct mechanism m = {l->mechanism, NULL, 0};
	unsigned char tag[64];

	pthread_barrier_wait(&l->begin);
	for (long n = l->each + (w->i < l->more); n > 0 && w->rv == 0; n--) {
		ulong length = sizeof tag;
		w->rv = init(l->sessions[w->i], &m, l->key);
		if (w->rv == 0)
			w->rv = sign(l->sessions[w->i], l->message, l->length, tag, &length);
	}
	clock_gettime(CLOCK_MONOTONIC, &w->end);
	return NULL;
}

// once makes one MAC, by the first session.
static ulong once(struct loop *l, unsigned char *message, ulong length, unsigned char *tag, ulong *tag_length)
{
	ulong (*init)(ulong, struct mechanism *, ulong) = l->f->list[C_SignInit];
	ulong (*sign)(ulong, unsigned char *, ulong, unsigned char *, ulong *) = l->f->list[C_Sign];
	struct mechanism m = {l->mechanism, NULL, 0};
	ulong rv = init(l->sessions[0], &m, l->key);

	return rv ? rv : sign(l->sessions[0], message, length, tag, tag_length);
}

// run makes n MACs on some threads, and returns the nanoseconds from the begin of the first to the end of the last; -1 for an error.
static long run(struct loop *l, long n, int threads, unsigned char *message, ulong length)
{
	struct worker w[MOST_THREADS];
	pthread_t id[MOST_THREADS];
	struct timespec begin;
	long longest = 0;

	l->message = message, l->length = length, l->each = n / threads, l->more = n % threads;
	pthread_barrier_init(&l->begin, NULL, threads + 1);
	for (int i = 0; i < threads; i++) {
		w[i] = (struct worker){l, i, 0, {0, 0}};
		if (pthread_create(&id[i], NULL, work, &w[i]) != 0)
			abort();
	}
	clock_gettime(CLOCK_MONOTONIC, &begin);
	pthread_barrier_wait(&l->begin);
	for (int i = 0; i < threads; i++) {
		pthread_join(id[i], NULL);
		long took = (w[i].end.tv_sec - begin.tv_sec) * 1000000000l + w[i].end.tv_nsec - begin.tv_nsec;
		if (w[i].rv != 0)
			longest = -1;
		else if (longest >= 0 && took > longest)
			longest = took;
	}
	pthread_barrier_destroy(&l->begin);
	return longest;
}
*/
import "C"

import (
	"fmt"
	"time"
	"unsafe"
)

// MostThreads is how many threads a Loop can have.
const MostThreads = C.MOST_THREADS

// Loop has a copy of a key, and a session for each thread. It is for one user at a time.
type Loop struct {
	loop   *C.struct_loop
	tag    [64]byte
	length C.ulong
}

// Open copies a key of a token. The module of the path is initialised already, and logged in to.
func Open(path string, slot, key, mechanism uint) (*Loop, error) {
	l := (*C.struct_loop)(C.calloc(1, C.sizeof_struct_loop))
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	if rv := C.open_loop(l, name, C.ulong(slot), C.ulong(key), C.ulong(mechanism)); rv != 0 {
		return nil, fmt.Errorf("the loop in C: 0x%X", uint(rv))
	}
	return &Loop{loop: l}, nil
}

// Once makes one MAC: the least that a Go program can do, one crossing to C and nothing around it.
func (l *Loop) Once(message []byte) error {
	l.length = C.ulong(len(l.tag))
	if rv := C.once(l.loop, (*C.uchar)(&message[0]), C.ulong(len(message)), (*C.uchar)(&l.tag[0]), &l.length); rv != 0 {
		return fmt.Errorf("the loop in C: 0x%X", uint(rv))
	}
	return nil
}

// Run makes n MACs of a message on some threads, and returns how long that took.
func (l *Loop) Run(n, threads int, message []byte) (time.Duration, error) {
	if n == 0 {
		return 0, nil
	}
	input := C.CBytes(message)
	defer C.free(input)
	took := C.run(l.loop, C.long(n), C.int(threads), (*C.uchar)(input), C.ulong(len(message)))
	if took < 0 {
		return 0, fmt.Errorf("the loop in C has failed")
	}
	return time.Duration(took), nil
}
