/*
 * A PKCS#11 module around another one, for tests: it counts log-ins, shows flags that the token does not have,
 * crashes or lies, as it is told by its environment.
 *
 *   SHIM_MODULE  the module behind it
 *   SHIM_LOG     a file that gets one line for each C_Login, with "refused" when it failed
 *   SHIM_FLAGS   flags to add to those of C_GetTokenInfo, in hexadecimal
 *   SHIM_SIGN    what C_SignFinal does: "crash" aborts the process, "flip" changes one bit of the MAC
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long ulong;

/* The functions by their places in CK_FUNCTION_LIST (PKCS#11 2.40). */
enum { C_GetFunctionListAt = 3, C_GetTokenInfoAt = 6, C_LoginAt = 18, C_SignFinalAt = 45, Functions = 68 };

struct list {
	unsigned char version[2];
	void *function[Functions];
};

/* The flags of CK_TOKEN_INFO stand behind label, manufacturerID, model and serialNumber. */
enum { FlagsOffset = 32 + 32 + 16 + 16 };

static struct list shim, *real;

static ulong login(ulong session, ulong user, unsigned char *pin, ulong length)
{
	const char *path = getenv("SHIM_LOG");
	FILE *log = path ? fopen(path, "a") : NULL;
	ulong rv = ((ulong (*)(ulong, ulong, unsigned char *, ulong))real->function[C_LoginAt])(session, user, pin, length);
	if (log) {
		fputs(rv == 0 ? "C_Login\n" : "C_Login refused\n", log);
		fclose(log);
	}
	return rv;
}

static ulong tokenInfo(ulong slot, unsigned char *info)
{
	ulong rv = ((ulong (*)(ulong, unsigned char *))real->function[C_GetTokenInfoAt])(slot, info);
	const char *more = getenv("SHIM_FLAGS");
	if (rv == 0 && more) {
		ulong flags;
		memcpy(&flags, info + FlagsOffset, sizeof flags);
		flags |= strtoul(more, NULL, 16);
		memcpy(info + FlagsOffset, &flags, sizeof flags);
	}
	return rv;
}

static ulong signFinal(ulong session, unsigned char *mac, ulong *length)
{
	if (strcmp(getenv("SHIM_SIGN"), "crash") == 0)
		abort();
	ulong rv = ((ulong (*)(ulong, unsigned char *, ulong *))real->function[C_SignFinalAt])(session, mac, length);
	if (rv == 0 && mac && *length > 0)
		mac[0] ^= 1;
	return rv;
}

ulong C_GetFunctionList(struct list **list)
{
	const char *path = getenv("SHIM_MODULE");
	void *module = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
	ulong (*get)(struct list **) = module ? (ulong (*)(struct list **))dlsym(module, "C_GetFunctionList") : NULL;
	const char *sign = getenv("SHIM_SIGN");
	ulong rv;
	if (!get)
		return 5; /* CKR_GENERAL_ERROR */
	if ((rv = get(&real)) != 0)
		return rv;
	shim = *real;
	shim.function[C_GetFunctionListAt] = (void *)C_GetFunctionList;
	shim.function[C_GetTokenInfoAt] = (void *)tokenInfo;
	shim.function[C_LoginAt] = (void *)login;
	if (sign && *sign)
		shim.function[C_SignFinalAt] = (void *)signFinal;
	*list = &shim;
	return 0;
}
