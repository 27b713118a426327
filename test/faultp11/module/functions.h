/* The 68 functions of PKCS #11 2.40 in the order of CK_FUNCTION_LIST, once: for the list, for the names and for the functions that stand
 * in front of the real ones.
 *
 *	FUNCTION(name, (parameters), (arguments), what the rules may look at or change: fields of struct call)
 *
 * s session, m mechanism, k key or object, t and n template and its length, in and inlen data, out and outlen result. */
#ifndef FAULTP11_FUNCTIONS_H
#define FAULTP11_FUNCTIONS_H

#define SESSION .session = s, .has_session = 1
#define SLOT .slot = slot, .has_slot = 1
#define MECHANISM .mechanism = &m
#define OBJECT .objects = {&k}
#define TEMPLATE .templates = {{&t, &n}}
#define MADE .made = {made}
#define DATA .data = in, .length = inlen
#define RESULT .out = out, .outlen = outlen, .has_out = 1

#define INIT(name) FUNCTION(name, (CK_ULONG s, CK_MECHANISM *m, CK_ULONG k), (s, m, k), SESSION, MECHANISM, OBJECT)
#define UPDATE(name) FUNCTION(name, (CK_ULONG s, CK_BYTE *in, CK_ULONG inlen), (s, in, inlen), SESSION, DATA)
#define WHOLE(name) \
	FUNCTION(name, (CK_ULONG s, CK_BYTE *in, CK_ULONG inlen, CK_BYTE *out, CK_ULONG *outlen), (s, in, inlen, out, outlen), \
		SESSION, DATA, RESULT)
#define FINAL(name) FUNCTION(name, (CK_ULONG s, CK_BYTE *out, CK_ULONG *outlen), (s, out, outlen), SESSION, RESULT)
#define BARE(name) FUNCTION(name, (CK_ULONG s), (s), SESSION)

#define FUNCTIONS \
	FUNCTION(C_Initialize, (void *args), (args), .has_session = 0) \
	FUNCTION(C_Finalize, (void *args), (args), .has_session = 0) \
	FUNCTION(C_GetInfo, (CK_INFO *info), (info), .info = info) \
	FUNCTION(C_GetFunctionList, (struct function_list **list), (list), .has_session = 0) \
	FUNCTION(C_GetSlotList, (CK_BYTE present, CK_ULONG *list, CK_ULONG *count), (present, list, count), \
		.present = present, .list = list, .list_count = count) \
	FUNCTION(C_GetSlotInfo, (CK_ULONG slot, void *info), (slot, info), SLOT) \
	FUNCTION(C_GetTokenInfo, (CK_ULONG slot, CK_TOKEN_INFO *info), (slot, info), SLOT, .info = info) \
	FUNCTION(C_GetMechanismList, (CK_ULONG slot, CK_ULONG *list, CK_ULONG *count), (slot, list, count), SLOT, \
		.list = list, .list_count = count) \
	FUNCTION(C_GetMechanismInfo, (CK_ULONG slot, CK_ULONG type, void *info), (slot, type, info), SLOT, .mechanism_type = type) \
	FUNCTION(C_InitToken, (CK_ULONG slot, CK_BYTE *pin, CK_ULONG pinlen, CK_BYTE *label), (slot, pin, pinlen, label), SLOT) \
	FUNCTION(C_InitPIN, (CK_ULONG s, CK_BYTE *pin, CK_ULONG pinlen), (s, pin, pinlen), SESSION) \
	FUNCTION(C_SetPIN, (CK_ULONG s, CK_BYTE *pin, CK_ULONG pinlen, CK_BYTE *pin2, CK_ULONG pin2len), (s, pin, pinlen, pin2, pin2len), \
		SESSION) \
	FUNCTION(C_OpenSession, (CK_ULONG slot, CK_ULONG flags, void *app, void *notify, CK_ULONG *made), (slot, flags, app, notify, made), \
		SLOT, .flags = flags, .opened = made) \
	BARE(C_CloseSession) \
	FUNCTION(C_CloseAllSessions, (CK_ULONG slot), (slot), SLOT) \
	FUNCTION(C_GetSessionInfo, (CK_ULONG s, CK_SESSION_INFO *info), (s, info), SESSION, .info = info) \
	FINAL(C_GetOperationState) \
	FUNCTION(C_SetOperationState, (CK_ULONG s, CK_BYTE *in, CK_ULONG inlen, CK_ULONG k, CK_ULONG k2), (s, in, inlen, k, k2), SESSION, \
		DATA, .objects = {&k, &k2}) \
	FUNCTION(C_Login, (CK_ULONG s, CK_ULONG user, CK_BYTE *pin, CK_ULONG pinlen), (s, user, pin, pinlen), SESSION, \
		.user = user, .pin = &pin, .pinlen = &pinlen) \
	BARE(C_Logout) \
	FUNCTION(C_CreateObject, (CK_ULONG s, CK_ATTRIBUTE *t, CK_ULONG n, CK_ULONG *made), (s, t, n, made), SESSION, TEMPLATE, MADE) \
	FUNCTION(C_CopyObject, (CK_ULONG s, CK_ULONG k, CK_ATTRIBUTE *t, CK_ULONG n, CK_ULONG *made), (s, k, t, n, made), SESSION, OBJECT, \
		TEMPLATE, MADE) \
	FUNCTION(C_DestroyObject, (CK_ULONG s, CK_ULONG k), (s, k), SESSION, OBJECT) \
	FUNCTION(C_GetObjectSize, (CK_ULONG s, CK_ULONG k, CK_ULONG *size), (s, k, size), SESSION, OBJECT) \
	FUNCTION(C_GetAttributeValue, (CK_ULONG s, CK_ULONG k, CK_ATTRIBUTE *t, CK_ULONG n), (s, k, t, n), SESSION, OBJECT, TEMPLATE) \
	FUNCTION(C_SetAttributeValue, (CK_ULONG s, CK_ULONG k, CK_ATTRIBUTE *t, CK_ULONG n), (s, k, t, n), SESSION, OBJECT, TEMPLATE) \
	FUNCTION(C_FindObjectsInit, (CK_ULONG s, CK_ATTRIBUTE *t, CK_ULONG n), (s, t, n), SESSION, TEMPLATE) \
	FUNCTION(C_FindObjects, (CK_ULONG s, CK_ULONG *list, CK_ULONG most, CK_ULONG *count), (s, list, most, count), SESSION, \
		.list = list, .list_count = count, .most = most) \
	BARE(C_FindObjectsFinal) \
	INIT(C_EncryptInit) \
	WHOLE(C_Encrypt) \
	WHOLE(C_EncryptUpdate) \
	FINAL(C_EncryptFinal) \
	INIT(C_DecryptInit) \
	WHOLE(C_Decrypt) \
	WHOLE(C_DecryptUpdate) \
	FINAL(C_DecryptFinal) \
	FUNCTION(C_DigestInit, (CK_ULONG s, CK_MECHANISM *m), (s, m), SESSION, MECHANISM) \
	WHOLE(C_Digest) \
	UPDATE(C_DigestUpdate) \
	FUNCTION(C_DigestKey, (CK_ULONG s, CK_ULONG k), (s, k), SESSION, OBJECT) \
	FINAL(C_DigestFinal) \
	INIT(C_SignInit) \
	WHOLE(C_Sign) \
	UPDATE(C_SignUpdate) \
	FINAL(C_SignFinal) \
	INIT(C_SignRecoverInit) \
	WHOLE(C_SignRecover) \
	INIT(C_VerifyInit) \
	FUNCTION(C_Verify, (CK_ULONG s, CK_BYTE *in, CK_ULONG inlen, CK_BYTE *in2, CK_ULONG in2len), (s, in, inlen, in2, in2len), SESSION, \
		DATA) \
	UPDATE(C_VerifyUpdate) \
	UPDATE(C_VerifyFinal) \
	INIT(C_VerifyRecoverInit) \
	WHOLE(C_VerifyRecover) \
	WHOLE(C_DigestEncryptUpdate) \
	WHOLE(C_DecryptDigestUpdate) \
	WHOLE(C_SignEncryptUpdate) \
	WHOLE(C_DecryptVerifyUpdate) \
	FUNCTION(C_GenerateKey, (CK_ULONG s, CK_MECHANISM *m, CK_ATTRIBUTE *t, CK_ULONG n, CK_ULONG *made), (s, m, t, n, made), SESSION, \
		MECHANISM, TEMPLATE, MADE) \
	FUNCTION(C_GenerateKeyPair, (CK_ULONG s, CK_MECHANISM *m, CK_ATTRIBUTE *t, CK_ULONG n, CK_ATTRIBUTE *t2, CK_ULONG n2, \
			CK_ULONG *made, CK_ULONG *made2), (s, m, t, n, t2, n2, made, made2), \
		SESSION, MECHANISM, .templates = {{&t, &n}, {&t2, &n2}}, .made = {made, made2}) \
	FUNCTION(C_WrapKey, (CK_ULONG s, CK_MECHANISM *m, CK_ULONG k, CK_ULONG k2, CK_BYTE *out, CK_ULONG *outlen), \
		(s, m, k, k2, out, outlen), SESSION, MECHANISM, .objects = {&k, &k2}, RESULT) \
	FUNCTION(C_UnwrapKey, (CK_ULONG s, CK_MECHANISM *m, CK_ULONG k, CK_BYTE *in, CK_ULONG inlen, CK_ATTRIBUTE *t, CK_ULONG n, \
			CK_ULONG *made), (s, m, k, in, inlen, t, n, made), SESSION, MECHANISM, OBJECT, DATA, TEMPLATE, MADE) \
	FUNCTION(C_DeriveKey, (CK_ULONG s, CK_MECHANISM *m, CK_ULONG k, CK_ATTRIBUTE *t, CK_ULONG n, CK_ULONG *made), \
		(s, m, k, t, n, made), SESSION, MECHANISM, OBJECT, TEMPLATE, MADE) \
	UPDATE(C_SeedRandom) \
	FUNCTION(C_GenerateRandom, (CK_ULONG s, CK_BYTE *random, CK_ULONG size), (s, random, size), SESSION, .random = random, .length = size) \
	BARE(C_GetFunctionStatus) \
	BARE(C_CancelFunction) \
	FUNCTION(C_WaitForSlotEvent, (CK_ULONG flags, CK_ULONG *slot, void *reserved), (flags, slot, reserved), .has_session = 0)

#endif
