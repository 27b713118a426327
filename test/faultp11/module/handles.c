/* Object handles of the module's own, which are given to another object when theirs is gone: as some tokens do.
 *
 * process: the number of an object that is gone is given to the next object that this process finds or makes (opencryptoki).
 * partition: the number is another object's as soon as there is one that has no number yet, whoever made it (handles are the HSM's). */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "faultp11.h"

static enum { OFF, PROCESS, PARTITION } mode = OFF;

/* numbers[i] is what the wrapped module calls the object with the number i+1; 0: none. */
static CK_ULONG *numbers;
static size_t number_count, number_room;

int handles_any(void) { return mode != OFF; }

void handles_forget(void) { number_count = 0; }

/* handles_in replaces the host's numbers by the wrapped module's. The caller holds lock. */
void handles_in(struct call *c) {
	for (int i = 0; i < 2 && mode != OFF; i++) {
		if (!c->objects[i])
			continue;
		c->shown[i] = *c->objects[i];
		*c->objects[i] = c->shown[i] && c->shown[i] <= number_count ? numbers[c->shown[i] - 1] : 0;
	}
}

static int is_gone(CK_ULONG session, CK_ULONG object) {
	CK_ULONG class;
	CK_ATTRIBUTE a = {CKA_CLASS, &class, sizeof class};
	CK_RV rv = real->C_GetAttributeValue(session, object, &a, 1);
	return rv == CKR_OBJECT_HANDLE_INVALID || rv == CKR_KEY_HANDLE_INVALID;
}

static CK_ULONG number_of(CK_ULONG object) {
	for (size_t i = 0; i < number_count; i++)
		if (numbers[i] == object)
			return i + 1;
	return 0;
}

/* number_for gives an object its number, that of one that is gone if there is any. */
static CK_ULONG number_for(CK_ULONG session, CK_ULONG object) {
	CK_ULONG number = number_of(object);
	for (size_t i = 0; i < number_count && !number; i++)
		if (is_gone(session, numbers[i])) {
			numbers[i] = object;
			number = i + 1;
		}
	if (number)
		return number;
	if (number_count == number_room) {
		size_t room = number_room ? 2 * number_room : 64;
		CK_ULONG *more = realloc(numbers, room * sizeof *more);
		if (!more)
			return 0;
		numbers = more;
		number_room = room;
	}
	numbers[number_count++] = object;
	return number_count;
}

/* handles_out replaces the handles that the wrapped module gives out. The caller holds lock. */
void handles_out(struct call *c) {
	if (mode == OFF)
		return;
	for (int i = 0; i < 2; i++)
		if (c->made[i])
			*c->made[i] = number_for(c->session, *c->made[i]);
	if (c->function == FN_C_FindObjects)
		for (CK_ULONG i = 0; i < *c->list_count; i++)
			c->list[i] = number_for(c->session, c->list[i]);
}

/* unnumbered finds an object of the token that has no number yet. It asks on a session of its own, since the host may be searching. */
static CK_ULONG unnumbered(CK_ULONG session) {
	CK_ULONG slot, own, object, n = 0, found = 0;
	if (!session_slot(session, &slot) || real->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &own) != CKR_OK)
		return 0;
	if (real->C_FindObjectsInit(own, NULL, 0) == CKR_OK) {
		while (!found && real->C_FindObjects(own, &object, 1, &n) == CKR_OK && n == 1)
			found = number_of(object) ? 0 : object;
		real->C_FindObjectsFinal(own);
	}
	real->C_CloseSession(own);
	return found;
}

/* handles_rebind gives a number whose object is gone to another object, once in a call, and says whether the call is to be made again. */
int handles_rebind(struct call *c, CK_RV rv) {
	int again = 0;
	if ((rv != CKR_OBJECT_HANDLE_INVALID && rv != CKR_KEY_HANDLE_INVALID) || c->rebound || !c->has_session)
		return 0;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < 2 && mode == PARTITION; i++) {
		if (!c->objects[i] || !c->shown[i] || c->shown[i] > number_count || !is_gone(c->session, *c->objects[i]))
			continue;
		CK_ULONG other = unnumbered(c->session);
		if (other) {
			numbers[c->shown[i] - 1] = *c->objects[i] = other;
			again = c->rebound = 1;
		}
	}
	pthread_mutex_unlock(&lock);
	return again;
}

/* handles_command runs "handles process", "handles partition" and "handles off". */
const char *handles_command(char **words, int n) {
	if (n == 2 && !strcmp(words[1], "off"))
		mode = OFF;
	else if (n == 2 && !strcmp(words[1], "process"))
		mode = PROCESS;
	else if (n == 2 && !strcmp(words[1], "partition"))
		mode = PARTITION;
	else
		return "handles wants process, partition or off";
	handles_forget();
	return NULL;
}
