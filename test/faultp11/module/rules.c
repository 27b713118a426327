/* Rules: what is to happen at calls that fulfil a condition. They are asked in the order in which they were made. A delay or a hang lets
 * the rules behind it go on; an answer ends the walk. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "faultp11.h"

enum action { FAIL, DELAY, HANG, EMPTY, SHORT, LONG, FLIP, VALUE, TWICE };
static const char *const action_names[] = {"fail", "delay", "hang", "empty", "short", "long", "flip", "value", "twice"};

struct rule {
	struct rule *next;
	long id, seen, fired;
	enum action action;
	int after, removed;
	CK_RV rv;
	long milliseconds; /* of a delay, or at most of a hang; 0: until it is removed */
	CK_ULONG amount;
	CK_BYTE value[256];
	CK_ULONG value_length;
	struct condition when;
};

static struct rule *rules;
static long last_id;

/* Calls that a rule makes wait have a condition of their own: the ends of other calls do not wake them. */
static pthread_cond_t rule_gone = PTHREAD_COND_INITIALIZER;

int rules_any(void) { return rules != NULL; }

/* parse_time reads 300ms, 2s or a number of milliseconds. */
static int parse_time(const char *text, long *milliseconds) {
	char *unit;
	*milliseconds = strtol(text, &unit, 10);
	if (!strcmp(unit, "s"))
		*milliseconds *= 1000;
	else if (strcmp(unit, "ms") && *unit)
		return -1;
	return unit == text || *milliseconds < 0 ? -1 : 0;
}

/* parse_argument reads what some actions want behind their name, and returns by how many words. */
static int parse_argument(struct rule *r, char **words, int n, const char **problem) {
	switch (r->action) {
	case FAIL:
		if (n < 1 || name_value(words[0], &r->rv))
			*problem = "fail wants a return value: a name or a number";
		return 1;
	case DELAY:
		if (n < 1 || parse_time(words[0], &r->milliseconds))
			*problem = "delay wants a time, such as 200ms or 3s";
		return 1;
	case HANG:
		return n > 0 && !parse_time(words[0], &r->milliseconds);
	case SHORT:
	case LONG:
		if (n < 1 || name_value(words[0], &r->amount) || r->amount > sizeof r->value)
			*problem = "short and long want a number of bytes";
		return 1;
	case VALUE:
		*problem = n < 1 ? "value wants hexadecimal digits" : parse_hex(words[0], r->value, &r->value_length, sizeof r->value);
		return 1;
	default:
		return 0;
	}
}

static const char *parse_rule(struct rule *r, char **words, int n) {
	if (n < 2)
		return "on wants functions and an action";
	const char *problem = parse_functions(r->when.functions, words[0]);
	size_t action = 0;
	while (action < sizeof action_names / sizeof *action_names && strcmp(action_names[action], words[1]))
		action++;
	if (!problem && action == sizeof action_names / sizeof *action_names)
		problem = "no such action";
	if (problem)
		return problem;
	r->action = action;
	for (int i = 2 + parse_argument(r, words + 2, n - 2, &problem); i < n && !problem; i++)
		if (!strcmp(words[i], "after"))
			r->after = 1;
		else
			problem = condition_parse(&r->when, words[i]);
	r->after = r->after || r->action >= EMPTY;
	for (int f = 0; f < FUNCTION_COUNT && r->action == EMPTY; f++)
		if (r->when.functions[f] && f != FN_C_GetSlotList && f != FN_C_GetMechanismList && f != FN_C_FindObjects)
			problem = "empty is for C_GetSlotList, C_GetMechanismList and C_FindObjects";
	return problem;
}

/* rules_add makes a rule of words and writes its number. */
const char *rules_add(char **words, int n, FILE *to) {
	struct rule *r = calloc(1, sizeof *r), **end = &rules;
	const char *problem = r ? parse_rule(r, words, n) : "no memory";
	if (problem) {
		free(r);
		return problem;
	}
	while (*end)
		end = &(*end)->next;
	*end = r;
	r->id = ++last_id;
	fprintf(to, "%ld\n", r->id);
	return NULL;
}

static struct rule *find_rule(long id) {
	for (struct rule *r = rules; r; r = r->next)
		if (r->id == id)
			return r;
	return NULL;
}

static void unlink_rule(struct rule **at) {
	struct rule *r = *at;
	*at = r->next;
	free(r);
}

int rules_remove(long id) {
	for (struct rule **at = &rules; *at; at = &(*at)->next)
		if ((*at)->id == id) {
			unlink_rule(at);
			pthread_cond_broadcast(&rule_gone);
			return 1;
		}
	return 0;
}

/* rules_release removes what makes calls of the functions hang, so that they go on. */
void rules_release(const unsigned char *functions) {
	for (struct rule **at = &rules; *at;) {
		int about = 0;
		for (int f = 0; f < FUNCTION_COUNT; f++)
			about |= functions[f] && (*at)->when.functions[f];
		if (about && (*at)->action == HANG)
			unlink_rule(at);
		else
			at = &(*at)->next;
	}
	pthread_cond_broadcast(&rule_gone);
}

void rules_clear(void) {
	while (rules)
		unlink_rule(&rules);
	pthread_cond_broadcast(&rule_gone);
}

/* is_query: the host asks only how much there will be, and calls once more. */
static int is_query(const struct call *c) {
	if (c->function == FN_C_GetAttributeValue)
		return *c->templates[0].list && *c->templates[0].count && !(*c->templates[0].list)->value;
	return asks_length(c) || (c->list_count && !c->list);
}

/* comes_after: the rule is about the answer of the wrapped module. A list that is to be empty is no list that it has no room for. */
static int comes_after(const struct rule *r, const struct call *c) {
	return r->after && !(r->action == EMPTY && c->function != FN_C_FindObjects);
}

/* fires counts the call and says whether it is the rule's turn. A query is told what the call behind it will be told, and not counted. */
static int fires(struct rule *r, const struct call *c, int is_after) {
	struct condition *w = &r->when;
	int query = is_query(c) && r->after;
	if (comes_after(r, c) != is_after || !condition_holds(w, c))
		return 0;
	if (query && r->action != EMPTY && r->action != LONG && r->action != VALUE)
		return 0;
	long seen = r->seen + 1;
	int turn = seen > w->skip && !(w->times && r->fired >= w->times) && !(w->every && (seen - w->skip) % w->every != 0);
	if (query)
		return turn;
	r->seen = seen;
	if (!turn)
		return 0;
	r->fired++;
	atomic_fetch_add(&counters[c->function].faults, 1);
	return 1;
}

static struct timespec in_milliseconds(long milliseconds) {
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += milliseconds / 1000;
	t.tv_nsec += milliseconds % 1000 * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	return t;
}

/* stop waits until the rule's time is over or the rule is gone. lock is free meanwhile. */
static void stop(const struct rule *r, const struct call *c) {
	long id = r->id, limit = r->milliseconds;
	struct timespec end = in_milliseconds(limit);
	atomic_fetch_add(&counters[c->function].hanging, 1);
	while (find_rule(id))
		if (!limit)
			pthread_cond_wait(&rule_gone, &lock);
		else if (pthread_cond_timedwait(&rule_gone, &lock, &end) == ETIMEDOUT)
			break;
	atomic_fetch_sub(&counters[c->function].hanging, 1);
}

/* end_operation lets a C_Sign or C_SignFinal that is answered with an error end its operation, as PKCS #11 says that it does. */
static void end_operation(struct call *c, CK_RV rv) {
	CK_BYTE scratch[4096];
	CK_ULONG length = sizeof scratch;
	if (rv == CKR_BUFFER_TOO_SMALL)
		return;
	if (c->function == FN_C_Sign)
		real->C_Sign(c->session, (CK_BYTE *)c->data, c->length, scratch, &length);
	if (c->function == FN_C_SignFinal)
		real->C_SignFinal(c->session, scratch, &length);
}

/* walk asks the rules of one phase in their order; others may come and go while one makes the call wait. */
static int walk(struct call *c, int is_after, CK_RV *rv, void (*change)(struct rule *, struct call *, CK_RV *)) {
	for (long done = 0;;) {
		struct rule *r = rules;
		while (r && r->id <= done)
			r = r->next;
		if (!r)
			return 0;
		done = r->id;
		if (!fires(r, c, is_after))
			continue;
		switch (r->action) {
		case DELAY:
		case HANG:
			stop(r, c);
			break;
		case FAIL:
			*rv = r->rv;
			return 1;
		case EMPTY:
			*c->list_count = 0;
			*rv = CKR_OK;
			return 1;
		default:
			change(r, c, rv);
		}
	}
}

/* rules_before runs the rules that come before the call, and says whether one has answered it. The caller holds lock. */
int rules_before(struct call *c, CK_RV *rv) {
	c->watched = 1;
	if (c->outlen)
		c->room = *c->outlen;
	if (c->function == FN_C_GetAttributeValue && *c->templates[0].list)
		for (CK_ULONG i = 0; i < *c->templates[0].count && i < sizeof c->lengths / sizeof *c->lengths; i++)
			c->lengths[i] = (*c->templates[0].list)[i].length;
	if (!walk(c, 0, rv, NULL))
		return 0;
	end_operation(c, *rv);
	return 1;
}

/* change_bytes changes a result of *length bytes where there is room for room of them. to is NULL where the host asks for the length. */
static void change_bytes(const struct rule *r, CK_BYTE *to, CK_ULONG *length, CK_ULONG room, CK_RV *rv) {
	CK_ULONG wanted = *length;
	if (wanted == CK_UNAVAILABLE)
		return;
	if (r->action == LONG)
		wanted += r->amount;
	else if (r->action == VALUE && (to || r->value_length > wanted))
		wanted = r->value_length; /* but the wrapped module needs its room */
	if (to && wanted > room) {
		*length = wanted;
		*rv = CKR_BUFFER_TOO_SMALL;
		return;
	}
	if (to && r->action == LONG)
		memset(to + *length, 0xA5, r->amount);
	else if (to && r->action == VALUE)
		memcpy(to, r->value, r->value_length);
	else if (to && r->action == FLIP && *length)
		to[*length - 1] ^= 1;
	if (r->action == SHORT && to)
		wanted -= r->amount < wanted ? r->amount : wanted;
	*length = wanted;
}

static void change_attributes(const struct rule *r, struct call *c, CK_RV *rv) {
	CK_ATTRIBUTE *list = *c->templates[0].list;
	for (CK_ULONG i = 0; list && i < *c->templates[0].count && i < sizeof c->lengths / sizeof *c->lengths; i++)
		if (!r->when.has_attribute || r->when.attribute == list[i].type)
			change_bytes(r, list[i].value, &list[i].length, c->lengths[i], rv);
}

/* change_list changes how many slots, mechanisms or objects there are. */
static void change_list(const struct rule *r, struct call *c) {
	CK_ULONG n = *c->list_count;
	if (r->action == SHORT)
		*c->list_count -= r->amount < n ? r->amount : n;
	else if (r->action == TWICE && c->list && 2 * n <= c->most) {
		memcpy(c->list + n, c->list, n * sizeof *c->list);
		*c->list_count = 2 * n;
	}
}

static void change_result(struct rule *r, struct call *c, CK_RV *rv) {
	if (c->list_count)
		change_list(r, c);
	else if (c->function == FN_C_GetAttributeValue)
		change_attributes(r, c, rv);
	else if (c->random && r->action == FLIP && c->length)
		c->random[0] ^= 1;
	else if (c->random && r->action == VALUE)
		for (CK_ULONG i = 0; i < c->length && r->value_length; i++)
			c->random[i] = r->value[i % r->value_length];
	else if (c->outlen)
		change_bytes(r, c->out, c->outlen, c->room, rv);
}

/* rules_after runs the rules that come after a call that the wrapped module has answered well. That the host asked for a length is no
 * such call, but for an answer that is to be longer. The caller holds lock. */
CK_RV rules_after(struct call *c, CK_RV rv) {
	CK_RV answer = rv;
	if (rv == CKR_OK && c->watched)
		walk(c, 1, &answer, change_result);
	return answer;
}
