/* What the files of the module share. Names without a comment are explained where they are defined. */
#ifndef FAULTP11_H
#define FAULTP11_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>

#include "p11.h"

#define FUNCTION(name, ...) FN_##name,
enum { FUNCTIONS FUNCTION_COUNT };
#undef FUNCTION

/* One call of a C_ function while it is inside the module. The pointers to parameters let rules change what the wrapped module gets. */
struct call {
	int function;
	int has_session, has_slot, has_out;
	CK_ULONG session, slot, flags, mechanism_type;
	CK_BYTE present;
	CK_MECHANISM **mechanism;
	struct {
		CK_ATTRIBUTE **list;
		CK_ULONG *count;
	} templates[2];
	CK_ULONG *objects[2]; /* handles that the host passes */
	CK_ULONG *made[2];    /* where handles of new objects go */
	CK_ULONG *opened;     /* where the handle of a new session goes */
	const CK_BYTE *data;
	CK_ULONG length;
	CK_BYTE *out, *random;
	CK_ULONG *outlen;
	CK_ULONG *list, *list_count, most;
	void *info;
	CK_ULONG user;
	CK_BYTE **pin;
	CK_ULONG *pinlen;

	/* What the module itself keeps. */
	int reached;            /* the wrapped module */
	int watched;            /* rules were asked before it, so that room and lengths are known */
	int entered;            /* the place of its session is taken */
	int counted;            /* among the sessions that are being opened */
	int rebound;            /* a handle was given to another object, see handles.c */
	int retyped;            /* the template was rewritten, see vendor.c */
	CK_ULONG shown[2];      /* the object handles as the host knows them */
	CK_ULONG room;          /* of *outlen or *list_count before the call */
	CK_ULONG lengths[16];   /* of the attributes of a template before the call */
	CK_MECHANISM replaced;  /* another mechanism */
	CK_ATTRIBUTE copy[32];  /* another template */
	CK_ULONG copied[2];     /* values that it points to */
	CK_ULONG copies;        /* its length */
};

/* asks_length: the host asks how long the result is, and nothing is done. */
static inline int asks_length(const struct call *c) { return c->has_out && c->out == NULL && c->outlen != NULL; }

/* fault.c: the state that everything else hangs on. */
extern struct function_list *real;       /* of the wrapped module */
extern pthread_mutex_t lock;             /* guards all that is not atomic */
extern pthread_cond_t changed;           /* a call has left the wrapped module */
extern atomic_int quiet;                 /* nothing is set: calls go straight on */
extern const char *const function_names[FUNCTION_COUNT];
struct counters {
	atomic_ulong calls, queries, faults, lost;
	atomic_long inside, hanging;
};
extern struct counters counters[FUNCTION_COUNT];
extern atomic_long in_real;
void set_quiet(void);
int before(struct call *c, CK_RV *rv);
CK_RV after(struct call *c, CK_RV rv);
void violation(const char *format, const char *name, const char *other);
void print_violations(FILE *to);
void forget_violations(void);

/* rules.c */
int rules_any(void);
int rules_before(struct call *c, CK_RV *rv);
CK_RV rules_after(struct call *c, CK_RV rv);
const char *rules_add(char **words, int n, FILE *to);
int rules_remove(long id);
void rules_release(const unsigned char *functions);
void rules_clear(void);

/* match.c: the conditions of a rule. */
struct condition {
	unsigned char functions[FUNCTION_COUNT];
	long times, skip, every;  /* 0: not limited */
	int readonly, final, has_mechanism, has_attribute;
	CK_ULONG mechanism, attribute;
	char compare;             /* of the attribute: 0 is there, ':' has the value, '>' is longer than value_length */
	CK_BYTE value[64];
	CK_ULONG value_length, longer;
	char token[33];
};
const char *condition_parse(struct condition *w, char *word);
int condition_holds(const struct condition *w, const struct call *c);
const char *parse_functions(unsigned char *functions, char *text);
const char *parse_hex(const char *text, CK_BYTE *value, CK_ULONG *length, CK_ULONG most);

/* device.c: sessions and what is lost of the device. */
int device_any(void);
int device_answers(struct call *c, CK_RV *rv, int entering);
CK_RV device_settle(struct call *c, CK_RV rv);
int session_slot(CK_ULONG session, CK_ULONG *slot);
int slot_is(CK_ULONG slot, const char *token);
const char *device_command(char **words, int n);
size_t device_open(void);
void device_clear(void);

/* handles.c */
int handles_any(void);
void handles_in(struct call *c);
int handles_rebind(struct call *c, CK_RV rv);
void handles_out(struct call *c);
void handles_forget(void);
const char *handles_command(char **words, int n);

/* vendor.c: what other makers' tokens do otherwise. */
int vendor_any(void);
int vendor_before(struct call *c, CK_RV *rv);
CK_RV vendor_after(struct call *c, CK_RV rv);
const char *vendor_command(char **words, int n);
const char *token_command(char **words, int n);
void vendor_clear(void);

/* names.c */
int name_value(const char *text, CK_ULONG *value);
int function_number(const char *name);
void print_codes(FILE *to);

/* control.c */
void control_run(char *line, FILE *to);
void control_start(const char *directory);

#endif
