/* Sessions, and what is lost of the device. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "faultp11.h"

/* A session that the host has opened; dead ones answer with their value until the wrapped module gives the number out again. */
struct session {
	CK_ULONG handle, slot;
	CK_RV dead; /* CKR_OK: alive */
};

static struct session *sessions;
static size_t session_count, session_room;
static size_t session_limit; /* 0: none */
static size_t opening;

static enum { PRESENT, BROKEN, NO_SLOTS } connection = PRESENT;
static CK_RV broken_rv;
static int server_down;    /* C_Initialize will find no slots */
static char ejected[33];   /* the label of the token that is away, or * for every one */

static size_t alive(void) {
	size_t n = 0;
	for (size_t i = 0; i < session_count; i++)
		n += sessions[i].dead == CKR_OK;
	return n;
}

static int any_dead(void) { return alive() != session_count; }

int device_any(void) { return connection != PRESENT || server_down || ejected[0] || session_limit || any_dead(); }

static struct session *find_session(CK_ULONG handle) {
	for (size_t i = 0; i < session_count; i++)
		if (sessions[i].handle == handle)
			return &sessions[i];
	return NULL;
}

/* session_slot tells the slot of an open session. */
int session_slot(CK_ULONG handle, CK_ULONG *slot) {
	struct session *s = find_session(handle);
	if (s)
		*slot = s->slot;
	return s != NULL;
}

static void add_session(CK_ULONG handle, CK_ULONG slot) {
	struct session *s = find_session(handle);
	if (!s && session_count == session_room) {
		size_t room = session_room ? 2 * session_room : 64;
		struct session *more = realloc(sessions, room * sizeof *more);
		if (!more)
			return;
		sessions = more;
		session_room = room;
	}
	if (!s)
		s = &sessions[session_count++];
	*s = (struct session){.handle = handle, .slot = slot};
}

static void remove_session(struct session *s) {
	if (s)
		*s = sessions[--session_count];
}

/* slot_is says whether the token in a slot has the label, or whether label is *. */
int slot_is(CK_ULONG slot, const char *label) {
	CK_TOKEN_INFO info;
	size_t n = strlen(label);
	if (!strcmp(label, "*"))
		return 1;
	if (n > sizeof info.label || real->C_GetTokenInfo(slot, &info) != CKR_OK || memcmp(info.label, label, n))
		return 0;
	for (size_t i = n; i < sizeof info.label; i++)
		if (info.label[i] != ' ' && info.label[i] != 0)
			return 0;
	return 1;
}

static int is_ejected(CK_ULONG slot) { return ejected[0] && slot_is(slot, ejected); }

/* answers_lost is what a module answers whose connection is gone or was never there. */
static int answers_lost(struct call *c, CK_RV *rv) {
	if (c->function == FN_C_Initialize || c->function == FN_C_Finalize || c->function == FN_C_GetFunctionList)
		return 0;
	if (connection == BROKEN) {
		*rv = broken_rv;
		return 1;
	}
	if (connection != NO_SLOTS || c->function == FN_C_GetInfo)
		return 0;
	*rv = c->has_slot ? CKR_SLOT_ID_INVALID : CKR_SESSION_HANDLE_INVALID;
	if (c->function == FN_C_GetSlotList) {
		*c->list_count = 0;
		*rv = CKR_OK;
	}
	return 1;
}

/* device_answers says whether the loss of device, token or session answers the call. entering: the call has just come in, so that it is
 * counted as one that was made while something was lost. The caller holds lock. */
int device_answers(struct call *c, CK_RV *rv, int entering) {
	int lost = answers_lost(c, rv);
	struct session *s = c->has_session ? find_session(c->session) : NULL;
	if (!lost && s && s->dead != CKR_OK) {
		*rv = s->dead;
		lost = 1;
	}
	if (!lost && c->has_slot && c->function != FN_C_GetSlotInfo && is_ejected(c->slot)) {
		*rv = CKR_TOKEN_NOT_PRESENT;
		lost = 1;
	}
	if (entering && (lost || connection != PRESENT || ejected[0]))
		atomic_fetch_add(&counters[c->function].lost, 1);
	if (lost) {
		if (c->function == FN_C_CloseSession)
			remove_session(s);
		return 1;
	}
	if (c->function != FN_C_OpenSession || entering)
		return 0;
	if (session_limit && alive() + opening >= session_limit) {
		atomic_fetch_add(&counters[c->function].faults, 1);
		*rv = CKR_SESSION_COUNT;
		return 1;
	}
	opening++;
	c->counted = 1;
	return 0;
}

/* hide_ejected takes the slots of a token that is away out of the list of those with a token. */
static void hide_ejected(struct call *c) {
	CK_ULONG kept = 0;
	if (!c->list || !c->present || !ejected[0])
		return;
	for (CK_ULONG i = 0; i < *c->list_count; i++)
		if (!is_ejected(c->list[i]))
			c->list[kept++] = c->list[i];
	*c->list_count = kept;
}

/* device_settle notes what the call has changed. The caller holds lock. */
CK_RV device_settle(struct call *c, CK_RV rv) {
	if (c->counted)
		opening--;
	if (c->function == FN_C_CloseSession && rv != CKR_OK && c->has_session)
		remove_session(find_session(c->session)); /* the host will not ask for it again */
	if (rv != CKR_OK)
		return rv;
	switch (c->function) {
	case FN_C_OpenSession:
		add_session(*c->opened, c->slot);
		break;
	case FN_C_CloseSession:
		remove_session(find_session(c->session));
		break;
	case FN_C_CloseAllSessions:
		for (size_t i = session_count; i-- > 0;)
			if (sessions[i].slot == c->slot)
				remove_session(&sessions[i]);
		break;
	case FN_C_Initialize:
		connection = server_down ? NO_SLOTS : PRESENT;
		set_quiet();
		break;
	case FN_C_Finalize:
		session_count = 0;
		connection = PRESENT;
		handles_forget();
		set_quiet();
		break;
	case FN_C_GetSlotList:
		hide_ejected(c);
		break;
	}
	return rv;
}

/* quiesce keeps new calls out of the fast way and waits until none is inside the wrapped module, which may not like to lose sessions that
 * it is working on. It gives up after five seconds. */
static int quiesce(void) {
	atomic_store(&quiet, 0);
	for (int tries = 0; atomic_load(&in_real) > 0 && tries < 5000; tries++) {
		struct timespec t;
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += 1000000;
		if (t.tv_nsec >= 1000000000) {
			t.tv_sec++;
			t.tv_nsec -= 1000000000;
		}
		pthread_cond_timedwait(&changed, &lock, &t);
	}
	return atomic_load(&in_real) == 0;
}

/* lose_sessions ends the sessions with a token in the wrapped module, and the login with them. */
static const char *lose_sessions(const char *token, CK_RV rv) {
	if (!quiesce())
		return "calls stay inside the wrapped module";
	for (size_t i = 0; i < session_count; i++)
		if (sessions[i].dead == CKR_OK && slot_is(sessions[i].slot, token))
			sessions[i].dead = rv;
	CK_ULONG slots[256], n = 256;
	if (real->C_GetSlotList(1, slots, &n) != CKR_OK)
		return NULL;
	for (CK_ULONG i = 0; i < n; i++)
		if (slot_is(slots[i], token))
			real->C_CloseAllSessions(slots[i]);
	return NULL;
}

static const char *set_limit(const char *text) {
	char *end;
	session_limit = strtoul(text, &end, 10);
	return *end ? "sessions wants a number; 0 for no limit" : NULL;
}

static const char *down(CK_RV rv) {
	connection = BROKEN;
	broken_rv = rv;
	server_down = 1;
	return NULL;
}

/* device_command runs lose, down, up, eject, insert and sessions. */
const char *device_command(char **words, int n) {
	CK_RV rv = CKR_OK;
	const char *token = "*", *verb = words[0], *what = "";
	for (int i = 1; i < n; i++)
		if (!strncmp(words[i], "token=", 6))
			token = words[i] + 6;
		else if (i == 1 && (!strcmp(words[i], "sessions") || !strcmp(words[i], "device")))
			what = words[i];
		else if (!strcmp(verb, "sessions"))
			return set_limit(words[i]);
		else if (name_value(words[i], &rv))
			return "no such return value";
	if (!strcmp(verb, "lose") && !strcmp(what, "sessions"))
		return lose_sessions(token, rv ? rv : CKR_SESSION_HANDLE_INVALID);
	if (!strcmp(verb, "lose") && !strcmp(what, "device")) {
		down(rv ? rv : CKR_DEVICE_ERROR);
		server_down = 0;
		return NULL;
	}
	if (!strcmp(verb, "down"))
		return down(rv ? rv : CKR_DEVICE_ERROR);
	if (!strcmp(verb, "up"))
		server_down = 0;
	else if (!strcmp(verb, "insert"))
		ejected[0] = 0;
	else if (!strcmp(verb, "eject")) {
		snprintf(ejected, sizeof ejected, "%s", token);
		return lose_sessions(token, rv ? rv : CKR_SESSION_HANDLE_INVALID);
	} else
		return "lose wants sessions or device; sessions wants a number";
	return NULL;
}

/* device_open tells how many sessions of the host are open. */
size_t device_open(void) { return alive(); }

/* device_clear gives the device back; sessions that are dead stay so. */
void device_clear(void) {
	connection = PRESENT;
	server_down = 0;
	ejected[0] = 0;
	session_limit = 0;
}
