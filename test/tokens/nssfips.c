/* A PKCS#11 module that is NSS softokn in FIPS mode. NSS has that mode under a name of its own, FC_GetFunctionList, where PKCS#11 clients
 * look for C_GetFunctionList, and wants its parameters in C_Initialize, which clients have no way to give. This module forwards the one
 * to the other, and takes the parameters from the environment:
 *
 *   NSS_PARAMETERS  configdir='sql:/var/lib/nss' certPrefix='' keyPrefix='' secmod='secmod.db' flags=
 *   NSS_SOFTOKN     the path of NSS's module, libsoftokn3.so unless it is set
 *
 *   cc -shared -fPIC -o nssfips.so nssfips.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

#define CKR_GENERAL_ERROR 5UL
#define CKF_OS_LOCKING_OK 2UL

typedef unsigned long (*function)(void *);

/* CK_FUNCTION_LIST of PKCS#11 2.40: a version, then 68 functions, of which C_Initialize is the first and C_GetFunctionList the fourth. */
struct function_list {
	unsigned char version[2];
	function functions[68];
};

/* CK_C_INITIALIZE_ARGS. NSS reads its parameters where PKCS#11 has pReserved. */
struct initialize_args {
	void *create, *destroy, *lock, *unlock;
	unsigned long flags;
	const char *parameters;
	void *reserved; /* of NSS's own declaration */
};

static struct function_list list;
static function initialize;

static unsigned long with_parameters(void *unused)
{
	struct initialize_args args = {.flags = CKF_OS_LOCKING_OK, .parameters = getenv("NSS_PARAMETERS")};

	(void)unused;
	return initialize(&args);
}

unsigned long C_GetFunctionList(struct function_list **answer)
{
	const char *path = getenv("NSS_SOFTOKN");
	void *module = dlopen(path ? path : "libsoftokn3.so", RTLD_NOW);
	function get = module ? (function)dlsym(module, "FC_GetFunctionList") : NULL;
	struct function_list *theirs;

	if (!get || get(&theirs) != 0)
		return CKR_GENERAL_ERROR;
	list = *theirs;
	initialize = list.functions[0];
	list.functions[0] = with_parameters;
	list.functions[3] = (function)C_GetFunctionList;
	*answer = &list;
	return 0;
}
