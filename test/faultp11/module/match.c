/* The conditions of a rule: which calls it is about. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "faultp11.h"

/* parse_functions reads names of functions with commas between them, or * for all. */
const char *parse_functions(unsigned char *functions, char *text) {
	if (!strcmp(text, "*")) {
		memset(functions, 1, FUNCTION_COUNT);
		return NULL;
	}
	char *rest;
	for (char *name = strtok_r(text, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
		int f = function_number(name);
		if (f < 0)
			return "no such function";
		functions[f] = 1;
	}
	return NULL;
}

const char *parse_hex(const char *text, CK_BYTE *value, CK_ULONG *length, CK_ULONG most) {
	*length = 0;
	for (; *text; text += 2) {
		unsigned byte;
		char two[3] = {text[0], text[1], 0}, *end;
		byte = strtoul(two, &end, 16);
		if (end != two + 2 || *length == most)
			return "not an even number of hexadecimal digits, or too many";
		value[(*length)++] = byte;
	}
	return NULL;
}

static const char *parse_attribute(struct condition *w, char *text) {
	char *more = strpbrk(text, ":>");
	w->compare = more ? *more : 0;
	if (more)
		*more++ = 0;
	if (name_value(text, &w->attribute))
		return "no such attribute: a name or a number";
	w->has_attribute = 1;
	if (w->compare == '>') {
		w->value_length = strtoul(more, NULL, 0);
		return NULL;
	}
	return more ? parse_hex(more, w->value, &w->value_length, sizeof w->value) : NULL;
}

/* condition_parse reads one word of a rule. */
const char *condition_parse(struct condition *w, char *word) {
	char *value = strchr(word, '=');
	if (!strcmp(word, "readonly")) {
		w->readonly = 1;
		return NULL;
	}
	if (!strcmp(word, "final")) {
		w->final = 1;
		return NULL;
	}
	if (!value)
		return "no such condition";
	*value++ = 0;
	if (!strcmp(word, "attribute"))
		return parse_attribute(w, value);
	if (!strcmp(word, "token")) {
		snprintf(w->token, sizeof w->token, "%s", value);
		return NULL;
	}
	if (!strcmp(word, "mechanism")) {
		w->has_mechanism = 1;
		return name_value(value, &w->mechanism) ? "no such mechanism: a name or a number" : NULL;
	}
	char *end;
	long n = strtol(value, &end, 0);
	if (end == value || *end || n < 0)
		return "not a number";
	if (!strcmp(word, "times"))
		w->times = n;
	else if (!strcmp(word, "skip"))
		w->skip = n;
	else if (!strcmp(word, "every"))
		w->every = n;
	else if (!strcmp(word, "longer"))
		w->longer = n;
	else
		return "no such condition";
	return NULL;
}

static int attribute_matches(const struct condition *w, const CK_ATTRIBUTE *a) {
	if (a->type != w->attribute)
		return 0;
	if (w->compare == '>')
		return a->length != CK_UNAVAILABLE && a->length > w->value_length;
	if (w->compare == ':')
		return a->value && a->length == w->value_length && !memcmp(a->value, w->value, a->length);
	return 1;
}

static int template_matches(const struct condition *w, const struct call *c) {
	for (int i = 0; i < 2; i++) {
		if (!c->templates[i].list || !*c->templates[i].list)
			continue;
		for (CK_ULONG j = 0; j < *c->templates[i].count; j++)
			if (attribute_matches(w, &(*c->templates[i].list)[j]))
				return 1;
	}
	return 0;
}

static int mechanism_matches(const struct condition *w, const struct call *c) {
	if (c->function == FN_C_GetMechanismInfo)
		return c->mechanism_type == w->mechanism;
	return c->mechanism && *c->mechanism && (*c->mechanism)->mechanism == w->mechanism;
}

/* condition_holds says whether the call is one of those that the rule is about, whatever the count. The caller holds lock. */
int condition_holds(const struct condition *w, const struct call *c) {
	CK_ULONG slot = c->slot;
	if (!w->functions[c->function])
		return 0;
	if (w->readonly && (c->function != FN_C_OpenSession || c->flags & CKF_RW_SESSION))
		return 0;
	if (w->final && asks_length(c))
		return 0;
	if (w->longer && c->length <= w->longer)
		return 0;
	if (w->has_mechanism && !mechanism_matches(w, c))
		return 0;
	if (w->has_attribute && !template_matches(w, c))
		return 0;
	if (w->token[0] && !((c->has_slot || (c->has_session && session_slot(c->session, &slot))) && slot_is(slot, w->token)))
		return 0;
	return 1;
}
