/* The part of PKCS #11 2.40 that the module needs, written from the specification (OASIS, "PKCS #11 Cryptographic Token Interface
 * Base Specification Version 2.40"), so that nothing but a C compiler is needed to build it. On systems other than Windows the
 * structures have the compiler's alignment. */
#ifndef FAULTP11_P11_H
#define FAULTP11_P11_H

#define CKR_OK 0x000UL
#define CKR_SLOT_ID_INVALID 0x003UL
#define CKR_ARGUMENTS_BAD 0x007UL
#define CKR_GENERAL_ERROR 0x005UL
#define CKR_DEVICE_ERROR 0x030UL
#define CKR_KEY_HANDLE_INVALID 0x060UL
#define CKR_OBJECT_HANDLE_INVALID 0x082UL
#define CKR_PIN_INCORRECT 0x0A0UL
#define CKR_SESSION_COUNT 0x0B1UL
#define CKR_SESSION_HANDLE_INVALID 0x0B3UL
#define CKR_TOKEN_NOT_PRESENT 0x0E0UL
#define CKR_BUFFER_TOO_SMALL 0x150UL
#define CKR_HOST_MEMORY 0x002UL

#define CKA_CLASS 0x000UL
#define CKA_KEY_TYPE 0x100UL
#define CKA_VALUE_LEN 0x161UL
#define CKK_GENERIC_SECRET 0x10UL
#define CKM_GENERIC_SECRET_KEY_GEN 0x350UL
#define CKF_RW_SESSION 0x2UL
#define CKF_SERIAL_SESSION 0x4UL
#define CKF_LOGIN_REQUIRED 0x4UL
#define CKU_USER 1UL

typedef unsigned char CK_BYTE;
typedef unsigned long CK_ULONG;
typedef CK_ULONG CK_RV;
#define CK_UNAVAILABLE ((CK_ULONG)-1)

typedef struct {
	CK_BYTE major, minor;
} CK_VERSION;

typedef struct {
	CK_VERSION cryptoki_version;
	CK_BYTE manufacturer[32];
	CK_ULONG flags;
	CK_BYTE description[32];
	CK_VERSION library_version;
} CK_INFO;

typedef struct {
	CK_BYTE label[32], manufacturer[32], model[16], serial[16];
	CK_ULONG flags;
	CK_ULONG max_sessions, sessions, max_rw_sessions, rw_sessions;
	CK_ULONG max_pin, min_pin;
	CK_ULONG total_public, free_public, total_private, free_private;
	CK_VERSION hardware, firmware;
	CK_BYTE utc_time[16];
} CK_TOKEN_INFO;

typedef struct {
	CK_ULONG slot, state, flags, device_error;
} CK_SESSION_INFO;

typedef struct {
	CK_ULONG type;
	void *value;
	CK_ULONG length;
} CK_ATTRIBUTE;

typedef struct {
	CK_ULONG mechanism;
	void *parameter;
	CK_ULONG length;
} CK_MECHANISM;

#define FUNCTION(name, parameters, arguments, ...) CK_RV(*name) parameters;
struct function_list;
#include "functions.h"
struct function_list {
	CK_VERSION version;
	FUNCTIONS
};
#undef FUNCTION

#endif
