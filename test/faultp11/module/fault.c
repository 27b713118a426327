/* A PKCS #11 module in front of another one. Each call goes through before(), then to the wrapped module, then through after(). What may
 * stand in a rule, and the other commands, are told in README.md. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "faultp11.h"

struct function_list *real;
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
atomic_int quiet = 1;
struct counters counters[FUNCTION_COUNT];
atomic_long in_real;

#define FUNCTION(name, ...) #name,
const char *const function_names[FUNCTION_COUNT] = {FUNCTIONS};
#undef FUNCTION

/* What no host may do, as it was done; held under lock. */
#define MOST_VIOLATIONS 32
static char violations[MOST_VIOLATIONS][128];
static int violation_count;

static int initialized; /* the wrapped module, held under lock */

void violation(const char *format, const char *name, const char *other) {
	pthread_mutex_lock(&lock);
	if (violation_count < MOST_VIOLATIONS)
		snprintf(violations[violation_count++], sizeof violations[0], format, name, other);
	pthread_mutex_unlock(&lock);
}

void print_violations(FILE *to) {
	for (int i = 0; i < violation_count; i++)
		fprintf(to, "%s\n", violations[i]);
}

void forget_violations(void) { violation_count = 0; }

/* set_quiet says whether calls may go straight on. The caller holds lock. */
void set_quiet(void) { atomic_store(&quiet, !(rules_any() || device_any() || handles_any() || vendor_any())); }

/* note_finalize looks whether another call is inside: then C_Finalize has no defined behaviour. */
static void note_finalize(void) {
	for (int f = 0; f < FUNCTION_COUNT; f++)
		if (atomic_load(&counters[f].inside) > (f == FN_C_Finalize))
			violation("%s was called while %s was inside", "C_Finalize", function_names[f]);
}

/* The sessions that calls are on, so that two calls on one are noticed. A session whose place is taken by another one is not looked at. */
static struct {
	atomic_ulong session;
	atomic_int function;
} on_session[1024];

#define PLACE(session) on_session[(session) % (sizeof on_session / sizeof *on_session)]

static void enter_session(struct call *c) {
	CK_ULONG other = 0;
	if (!c->has_session || !c->session)
		return;
	if (atomic_compare_exchange_strong(&PLACE(c->session).session, &other, c->session)) {
		atomic_store(&PLACE(c->session).function, c->function);
		c->entered = 1;
	} else if (other == c->session) {
		violation("%s was called while %s was inside, by one session", function_names[c->function],
			function_names[atomic_load(&PLACE(c->session).function)]);
	}
}

static void leave_session(struct call *c) {
	if (c->entered)
		atomic_store(&PLACE(c->session).session, 0);
}

/* before says whether the wrapped module is to be called; otherwise *rv is the answer. */
int before(struct call *c, CK_RV *rv) {
	struct counters *n = &counters[c->function];
	atomic_fetch_add(&n->calls, 1);
	atomic_fetch_add(&n->inside, 1);
	if (asks_length(c))
		atomic_fetch_add(&n->queries, 1);
	if (c->function == FN_C_Finalize)
		note_finalize();
	enter_session(c);
	atomic_fetch_add(&in_real, 1); /* before quiet is read: who takes sessions away waits for in_real after having set it */
	if (!atomic_load(&quiet)) {
		atomic_fetch_sub(&in_real, 1);
		pthread_mutex_lock(&lock);
		pthread_cond_broadcast(&changed);
		int answered = device_answers(c, rv, 1) || rules_before(c, rv) || device_answers(c, rv, 0) || vendor_before(c, rv);
		if (!answered) {
			handles_in(c);
			atomic_fetch_add(&in_real, 1);
		}
		pthread_mutex_unlock(&lock);
		if (answered)
			return 0;
	}
	c->reached = 1;
	return 1;
}

/* again says whether the wrapped module is to be called once more, for a handle that now is another object's. */
static int again(struct call *c, CK_RV rv) { return !atomic_load(&quiet) && handles_rebind(c, rv); }

/* after returns the answer of the call. */
CK_RV after(struct call *c, CK_RV rv) {
	struct counters *n = &counters[c->function];
	int sessions = c->function == FN_C_OpenSession || c->function == FN_C_CloseSession || c->function == FN_C_CloseAllSessions ||
		c->function == FN_C_Initialize || c->function == FN_C_Finalize;
	if (c->reached) {
		if (sessions || !atomic_load(&quiet)) {
			pthread_mutex_lock(&lock);
			if (rv == CKR_OK && (c->function == FN_C_Initialize || c->function == FN_C_Finalize))
				initialized = c->function == FN_C_Initialize;
			rv = device_settle(c, rv);
			rv = vendor_after(c, rv);
			if (rv == CKR_OK)
				handles_out(c);
			atomic_fetch_sub(&in_real, 1);
			pthread_cond_broadcast(&changed);
			rv = rules_after(c, rv);
			pthread_mutex_unlock(&lock);
		} else {
			atomic_fetch_sub(&in_real, 1);
		}
	}
	leave_session(c);
	atomic_fetch_sub(&n->inside, 1);
	return rv;
}

#define FUNCTION(name, parameters, arguments, ...) \
	static CK_RV wrapped_##name parameters { \
		struct call c = {.function = FN_##name, __VA_ARGS__}; \
		CK_RV rv = CKR_GENERAL_ERROR; \
		if (before(&c, &rv)) \
			do \
				rv = real->name arguments; \
			while (again(&c, rv)); \
		return after(&c, rv); \
	}
FUNCTIONS
#undef FUNCTION

#define FUNCTION(name, ...) .name = wrapped_##name,
static struct function_list own = {.version = {2, 40}, FUNCTIONS};
#undef FUNCTION

/* Where the module finds what it wraps: beside its own file, so that copies of it differ, or in the environment. */
static char wrapped[PATH_MAX], control[PATH_MAX], start[PATH_MAX];

static void read_configuration(void) {
	Dl_info self;
	const char *value;
	if ((value = getenv("FAULTP11_MODULE")))
		snprintf(wrapped, sizeof wrapped, "%s", value);
	if ((value = getenv("FAULTP11_CONTROL")))
		snprintf(control, sizeof control, "%s", value);
	if (!dladdr((void *)(size_t)read_configuration, &self) || !self.dli_fname)
		return;
	char path[PATH_MAX + 8], line[PATH_MAX];
	snprintf(path, sizeof path, "%s.conf", self.dli_fname);
	FILE *f = fopen(path, "re");
	if (!f)
		return;
	while (fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = 0;
		if (!strncmp(line, "module ", 7))
			snprintf(wrapped, sizeof wrapped, "%s", line + 7);
		if (!strncmp(line, "control ", 8))
			snprintf(control, sizeof control, "%s", line + 8);
	}
	fclose(f);
}

/* run_start runs the commands that a process is to begin with. */
static void run_start(void) {
	char line[4096];
	snprintf(start, sizeof start, "%.*s/start", (int)sizeof start - 8, control);
	FILE *f = fopen(start, "re");
	if (!f)
		return;
	while (fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = 0;
		if (line[0] && line[0] != '#')
			control_run(line, stderr);
	}
	fclose(f);
}

CK_RV C_GetFunctionList(struct function_list **list);

static void *library; /* of the wrapped module */

/* load_wrapped loads the wrapped module, which nobody calls yet. */
static void load_wrapped(void) {
	real = NULL;
	library = dlopen(wrapped, RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		fprintf(stderr, "faultp11: %s\n", dlerror());
		return;
	}
	CK_RV (*get)(struct function_list **) = (CK_RV(*)(struct function_list **))(size_t)dlsym(library, "C_GetFunctionList");
	if (!get || get(&real) != CKR_OK) {
		fprintf(stderr, "faultp11: %s is no PKCS #11 module\n", wrapped);
		real = NULL;
	}
}

static void load(void) {
	read_configuration();
	if (!wrapped[0]) {
		fprintf(stderr, "faultp11: FAULTP11_MODULE names no module, nor does a .conf file beside this one\n");
		return;
	}
	load_wrapped();
	own.C_GetFunctionList = C_GetFunctionList; /* and not the wrapped module's, which would give the way around this one */
	if (real && control[0]) {
		run_start();
		control_start(control);
	}
}

/* reload loads the wrapped module anew when its host has unloaded this one, which stays in the process (-z nodelete) since a thread of it
 * serves the control socket. */
static void reload(void) {
	pthread_mutex_lock(&lock);
	if (library && !initialized && !atomic_load(&in_real)) {
		dlclose(library);
		load_wrapped();
	}
	pthread_mutex_unlock(&lock);
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(struct function_list **list) {
	static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;
	static int loaded;
	if (!list)
		return CKR_ARGUMENTS_BAD;
	pthread_mutex_lock(&loading);
	if (loaded)
		reload();
	else
		load();
	loaded = 1;
	pthread_mutex_unlock(&loading);
	if (!real)
		return CKR_GENERAL_ERROR;
	*list = &own;
	return CKR_OK;
}
