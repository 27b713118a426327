/* What other makers' tokens do otherwise, beyond what rules can say: what they tell of themselves, how their PIN is written, whether they
 * want a login, and which type their HMAC keys have. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "faultp11.h"

/* What is told instead of the truth, if anything. */
struct text {
	int set;
	size_t length;
	CK_BYTE bytes[32];
};
static struct {
	int set, nul;
	struct text label, manufacturer, model, serial, library, description;
	CK_ULONG on, off; /* flags */
	int has_max_sessions, has_firmware;
	CK_ULONG max_sessions;
	CK_VERSION firmware;
} told;

static char pin_prefix[64];
static char own_pin[256];  /* the module logs in by itself with it */
static CK_RV generic_rv;   /* the answer to generic secrets, where HMAC keys have types of their own */

int vendor_any(void) { return told.set || pin_prefix[0] || own_pin[0] || generic_rv; }

void vendor_clear(void) {
	memset(&told, 0, sizeof told);
	memset(own_pin, 0, sizeof own_pin);
	pin_prefix[0] = 0;
	generic_rv = CKR_OK;
}

/* The types of HMAC keys, and the length of a key whose template says none. They may be made by any mechanism, since each maker has one of
 * its own; a rule can refuse the others. */
static const struct {
	CK_ULONG type, length;
} hmac_types[] = {
	{0x2E, 28}, /* CKK_SHA224_HMAC */
	{0x2B, 32}, /* CKK_SHA256_HMAC */
	{0x2C, 48}, /* CKK_SHA384_HMAC */
	{0x2D, 64}, /* CKK_SHA512_HMAC */
};
enum { HMAC_TYPES = sizeof hmac_types / sizeof *hmac_types };

static CK_ATTRIBUTE *attribute(CK_ATTRIBUTE *list, CK_ULONG n, CK_ULONG type) {
	for (CK_ULONG i = 0; list && i < n; i++)
		if (list[i].type == type)
			return &list[i];
	return NULL;
}

static int is_ulong(const CK_ATTRIBUTE *a) { return a && a->value && a->length == sizeof(CK_ULONG); }

static CK_ULONG ulong_of(const CK_ATTRIBUTE *a) {
	CK_ULONG v;
	memcpy(&v, a->value, sizeof v);
	return v;
}

/* retype makes a key of an HMAC type a generic secret, which is what the wrapped module takes, and refuses what this token would. */
static int retype(struct call *c, CK_RV *rv) {
	CK_ULONG n = *c->templates[0].count, length = 0;
	if (n + 1 > sizeof c->copy / sizeof *c->copy || !*c->templates[0].list)
		return 0;
	memcpy(c->copy, *c->templates[0].list, n * sizeof *c->copy);
	CK_ATTRIBUTE *type = attribute(c->copy, n, CKA_KEY_TYPE);
	for (int i = 0; i < HMAC_TYPES && is_ulong(type); i++)
		if (hmac_types[i].type == ulong_of(type))
			length = hmac_types[i].length;
	if (!length && is_ulong(type) && ulong_of(type) == CKK_GENERIC_SECRET && c->function != FN_C_FindObjectsInit) {
		atomic_fetch_add(&counters[c->function].faults, 1);
		*rv = generic_rv;
		return 1;
	}
	if (!length)
		return 0;
	c->copied[0] = CKK_GENERIC_SECRET;
	type->value = &c->copied[0];
	if (c->function == FN_C_GenerateKey) {
		c->replaced = (CK_MECHANISM){.mechanism = CKM_GENERIC_SECRET_KEY_GEN};
		*c->mechanism = &c->replaced;
	}
	if (c->function == FN_C_FindObjectsInit || (c->function == FN_C_GenerateKey && !attribute(c->copy, n, CKA_VALUE_LEN))) {
		c->copied[1] = length;
		c->copy[n++] = (CK_ATTRIBUTE){CKA_VALUE_LEN, &c->copied[1], sizeof length};
	}
	c->copies = n;
	*c->templates[0].list = c->copy;
	*c->templates[0].count = c->copies;
	return 0;
}

/* strip_prefix takes the user's name off the PIN; without it the PIN is wrong, and the wrapped module is not asked. */
static int strip_prefix(struct call *c, CK_RV *rv) {
	size_t n = strlen(pin_prefix);
	if (c->user != CKU_USER)
		return 0;
	if (!*c->pin || *c->pinlen < n || memcmp(*c->pin, pin_prefix, n)) {
		atomic_fetch_add(&counters[c->function].faults, 1);
		*rv = CKR_PIN_INCORRECT;
		return 1;
	}
	*c->pin += n;
	*c->pinlen -= n;
	return 0;
}

/* vendor_before changes what the wrapped module gets, and says whether the call is answered already. The caller holds lock. */
int vendor_before(struct call *c, CK_RV *rv) {
	if (c->function == FN_C_Login && pin_prefix[0])
		return strip_prefix(c, rv);
	int makes = c->function == FN_C_GenerateKey || c->function == FN_C_CreateObject;
	if (!generic_rv || !(makes || c->function == FN_C_FindObjectsInit))
		return 0;
	return retype(c, rv);
}

static void tell(const struct text *what, CK_BYTE *field, size_t size) {
	if (what->set) {
		memset(field, told.nul ? 0 : ' ', size);
		memcpy(field, what->bytes, what->length < size ? what->length : size);
		return;
	}
	for (size_t i = size; told.nul && i > 0 && field[i - 1] == ' '; i--)
		field[i - 1] = 0;
}

static void tell_token(CK_TOKEN_INFO *info) {
	tell(&told.label, info->label, sizeof info->label);
	tell(&told.manufacturer, info->manufacturer, sizeof info->manufacturer);
	tell(&told.model, info->model, sizeof info->model);
	tell(&told.serial, info->serial, sizeof info->serial);
	info->flags = (info->flags & ~told.off) | told.on;
	if (told.has_max_sessions)
		info->max_sessions = info->max_rw_sessions = told.max_sessions;
	if (told.has_firmware)
		info->firmware = told.firmware;
}

static void tell_library(CK_INFO *info) {
	tell(&told.library, info->manufacturer, sizeof info->manufacturer);
	tell(&told.description, info->description, sizeof info->description);
}

/* show_types shows generic secrets as HMAC keys of the type that has their length. */
static void show_types(struct call *c) {
	CK_ATTRIBUTE *type = attribute(*c->templates[0].list, *c->templates[0].count, CKA_KEY_TYPE);
	if (!is_ulong(type) || ulong_of(type) != CKK_GENERIC_SECRET)
		return;
	CK_ULONG length = 0;
	CK_ATTRIBUTE a = {CKA_VALUE_LEN, &length, sizeof length};
	if (real->C_GetAttributeValue(c->session, *c->objects[0], &a, 1) != CKR_OK)
		return;
	for (int i = 0; i < HMAC_TYPES; i++)
		if (hmac_types[i].length == length)
			memcpy(type->value, &hmac_types[i].type, sizeof length);
}

/* vendor_after changes what the host is told. The caller holds lock. */
CK_RV vendor_after(struct call *c, CK_RV rv) {
	if (rv != CKR_OK)
		return rv;
	if (c->function == FN_C_GetTokenInfo)
		tell_token(c->info);
	if (c->function == FN_C_GetInfo)
		tell_library(c->info);
	if (c->function == FN_C_GetAttributeValue && generic_rv)
		show_types(c);
	if (c->function == FN_C_OpenSession && own_pin[0])
		real->C_Login(*c->opened, CKU_USER, (CK_BYTE *)own_pin, strlen(own_pin));
	if (c->function == FN_C_GetSessionInfo && own_pin[0]) {
		CK_SESSION_INFO *info = c->info;
		info->state = info->flags & CKF_RW_SESSION ? 2 : 0; /* CKS_RW_PUBLIC_SESSION, CKS_RO_PUBLIC_SESSION */
	}
	return rv;
}

/* decode reads text in which %20 is a byte. */
static int decode(const char *from, struct text *to) {
	to->set = 1;
	for (to->length = 0; *from; from++) {
		if (to->length == sizeof to->bytes)
			return -1;
		CK_BYTE b = *from;
		if (b == '%') {
			CK_ULONG n;
			char two[3] = {from[1], from[1] ? from[2] : 0, 0};
			if (parse_hex(two, &b, &n, 1) || n != 1)
				return -1;
			from += 2;
		}
		to->bytes[to->length++] = b;
	}
	return 0;
}

/* set_flags reads +NAME,-NAME. */
static const char *set_flags(char *text) {
	char *rest;
	for (char *name = strtok_r(text, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
		CK_ULONG flag;
		if ((*name != '+' && *name != '-') || name_value(name + 1, &flag))
			return "flags wants +NAME or -NAME, or numbers, with commas between them";
		told.on = *name == '+' ? told.on | flag : told.on & ~flag;
		told.off = *name == '-' ? told.off | flag : told.off & ~flag;
	}
	return NULL;
}

static const char *set_told(char *name, char *value) {
	struct {
		const char *name;
		struct text *text;
	} texts[] = {{"label", &told.label}, {"manufacturer", &told.manufacturer}, {"model", &told.model}, {"serial", &told.serial},
		{"library", &told.library}, {"description", &told.description}};
	unsigned major, minor;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (!strcmp(name, texts[i].name))
			return decode(value, texts[i].text) ? "too long, or % without two hexadecimal digits" : NULL;
	if (!strcmp(name, "flags"))
		return set_flags(value);
	if (!strcmp(name, "padding") && (!strcmp(value, "nul") || !strcmp(value, "space"))) {
		told.nul = *value == 'n';
		return NULL;
	}
	if (!strcmp(name, "max-sessions")) {
		told.has_max_sessions = 1;
		return name_value(value, &told.max_sessions) ? "max-sessions wants a number" : NULL;
	}
	if (!strcmp(name, "firmware") && sscanf(value, "%u.%u", &major, &minor) == 2) {
		told.firmware = (CK_VERSION){major, minor};
		told.has_firmware = 1;
		return NULL;
	}
	return "no such field, or not its value";
}

/* token_command runs "token NAME=VALUE..."; without any, the truth is told again. */
const char *token_command(char **words, int n) {
	if (n == 1)
		memset(&told, 0, sizeof told);
	for (int i = 1; i < n; i++) {
		char *value = strchr(words[i], '=');
		if (!value)
			return "token wants NAME=VALUE";
		*value++ = 0;
		const char *problem = set_told(words[i], value);
		if (problem)
			return problem;
		told.set = 1;
	}
	return NULL;
}

static const char *read_pin(const char *path) {
	FILE *f = fopen(path, "re");
	if (!f)
		return "the PIN's file cannot be read";
	if (!fgets(own_pin, sizeof own_pin, f))
		own_pin[0] = 0;
	own_pin[strcspn(own_pin, "\n")] = 0;
	fclose(f);
	told.set = 1;
	told.off |= CKF_LOGIN_REQUIRED;
	return NULL;
}

/* vendor_command runs pin-prefix, login-free and hmac-types. */
const char *vendor_command(char **words, int n) {
	if (n != 2)
		return "one word is wanted behind it";
	int off = !strcmp(words[1], "off");
	if (!strcmp(words[0], "pin-prefix"))
		snprintf(pin_prefix, sizeof pin_prefix, "%s", off ? "" : words[1]);
	else if (!strcmp(words[0], "hmac-types"))
		return off ? generic_rv = CKR_OK, NULL : name_value(words[1], &generic_rv) ? "no such return value" : NULL;
	else if (off)
		memset(own_pin, 0, sizeof own_pin);
	else
		return read_pin(words[1]);
	return NULL;
}
