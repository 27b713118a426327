package pkcs11kms

import (
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"
)

// refusals are the operations that exist for other kinds of keys, with what they answer for an enabled HMAC key.
func refusals(arn string) map[string]string {
	answers := map[string]string{
		"Decrypt":                   "InvalidCiphertextException: ",
		"GetPublicKey":              "UnsupportedOperationException: ",
		"EnableKeyRotation":         "UnsupportedOperationException: ",
		"DisableKeyRotation":        "UnsupportedOperationException: ",
		"RotateKeyOnDemand":         "UnsupportedOperationException: ",
		"ListKeyRotations":          "UnsupportedOperationException: ",
		"GetParametersForImport":    "UnsupportedOperationException: " + arn + " origin is AWS_KMS which is not valid for this operation.",
		"ImportKeyMaterial":         "UnsupportedOperationException: " + arn + " origin is AWS_KMS which is not valid for this operation.",
		"DeleteImportedKeyMaterial": "UnsupportedOperationException: " + arn + " origin is AWS_KMS which is not valid for this operation.",
	}
	for _, op := range []string{"Encrypt", "ReEncrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair",
		"GenerateDataKeyPairWithoutPlaintext", "DeriveSharedSecret", "Encapsulate", "Decapsulate", "Sign", "Verify"} {
		answers[op] = "InvalidKeyUsageException: " + arn + " key usage is GENERATE_VERIFY_MAC which is not valid for " + op + "."
	}
	return answers
}

func TestOperationsForOtherKinds(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	for op, want := range refusals(*key.Arn) {
		for _, id := range []string{*key.KeyId, *key.Arn} {
			require.Equal(t, want, answerOf(t, c, op, id), op)
		}
	}
	require.Equal(t, "InvalidCiphertextException: ", answerOf(t, c, "Decrypt", ""), "without a key id")
}

// answerOf calls an operation in its simplest form and returns "ok", or code and message.
func answerOf(t *testing.T, c *Client, op, keyID string) string {
	err := invoke(t, t.Context(), c, op, func(in reflect.Value) {
		fillAll(op, keyID, c)(in)
		if keyID == "" {
			in.FieldByName("KeyId").SetZero()
		}
	})
	if err == nil {
		return "ok"
	}
	var api smithy.APIError
	require.ErrorAs(t, err, &api)
	return api.ErrorCode() + ": " + api.ErrorMessage()
}

var namesNoKey = map[string]bool{"CreateKey": true, "ListKeys": true, "GenerateRandom": true, "DeleteAlias": true}

// The state table (AWS KMS developer guide, "Key states"): every state that can be reached and every operation on a key,
// the exact answer in each cell.
func TestStateTable(t *testing.T) {
	c := newClient(t)
	type cell struct{ enabled, disabled, pending string }
	const ok, off, pend, notPend = "ok", "DisabledException: %ARN% is disabled.", "KMSInvalidStateException: %ARN% is pending deletion.",
		"KMSInvalidStateException: %ARN% is not pending deletion."
	table := map[string]cell{
		"GenerateMac":          {ok, off, pend},
		"VerifyMac":            {"KMSInvalidMacException: ", off, pend},
		"DescribeKey":          {ok, ok, ok},
		"GetKeyPolicy":         {ok, ok, ok},
		"PutKeyPolicy":         {ok, ok, ok},
		"ListKeyPolicies":      {ok, ok, ok},
		"ListAliases":          {ok, ok, ok},
		"ListResourceTags":     {ok, ok, ok},
		"GetKeyRotationStatus": {ok, ok, ok},
		"CreateAlias":          {ok, ok, pend},
		"UpdateAlias":          {ok, ok, pend},
		"TagResource":          {ok, ok, pend},
		"UntagResource":        {ok, ok, pend},
		"UpdateKeyDescription": {ok, ok, pend},
		"EnableKey":            {ok, ok, pend},
		"DisableKey":           {ok, ok, pend},
		"ScheduleKeyDeletion":  {ok, ok, pend},
		"CancelKeyDeletion":    {notPend, notPend, ok},
	}
	for op, answer := range refusals("%ARN%") {
		table[op] = cell{answer, off, pend}
	}
	for _, op := range []string{"ListKeyRotations", "GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"} {
		answer := refusals("%ARN%")[op]
		table[op] = cell{answer, answer, answer}
	}
	for _, op := range operations() {
		if namesNoKey[op] {
			continue
		}
		row, known := table[op]
		require.True(t, known, "%s has no row in the table", op)
		states := map[string]string{"Enabled": row.enabled, "Disabled": row.disabled, "PendingDeletion": row.pending, "Unavailable": row.enabled}
		if op == "GenerateMac" || op == "VerifyMac" {
			states["Unavailable"] = "KeyUnavailableException: %ARN% is unavailable."
		}
		for state, want := range states {
			key := mustCreate(t, c, types.KeySpecHmac256)
			if op == "UpdateAlias" {
				createAlias(t, c, "alias/minimal", mustCreate(t, c, types.KeySpecHmac256).KeyId)
			}
			switch state {
			case "Disabled":
				require.NoError(t, toggle(t.Context(), c, key.KeyId, false))
			case "PendingDeletion":
				schedule(t, c, key.KeyId, 7)
			case "Unavailable": // the token has lost the object
				record, _ := storedKey(t, c, key.KeyId)
				require.NoError(t, c.region.token.DestroyKey(t.Context(), record.CKAID, record.ID))
			}
			got := answerOf(t, c, op, *key.KeyId)
			require.Equal(t, strings.ReplaceAll(want, "%ARN%", *key.Arn), got, "%s in the state %s", op, state)
			if strings.HasSuffix(op, "Alias") && (got == ok || op == "UpdateAlias") {
				require.Equal(t, "ok", answerOf(t, c, "DeleteAlias", *key.KeyId))
			}
		}
	}
}

// An alias is taken where AWS KMS takes one, by name and by ARN, and nowhere else.
func TestWhereAnAliasIsTaken(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/taken", key.KeyId)
	taken := map[string]bool{}
	for _, op := range []string{"DescribeKey", "GetPublicKey", "GenerateMac", "VerifyMac", "Sign", "Verify", "Encrypt", "Decrypt", "ReEncrypt", "GenerateDataKey",
		"GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext", "DeriveSharedSecret", "Encapsulate", "Decapsulate"} {
		taken[op] = true
	}
	for _, op := range operations() {
		if namesNoKey[op] {
			continue
		}
		for _, alias := range []string{"alias/taken", "arn:aws:kms:us-west-2:111122223333:alias/taken"} {
			want := "NotFoundException: Invalid keyId '" + alias + "'"
			switch {
			case taken[op]:
				want = answerOf(t, c, op, *key.KeyId)
			case op == "CreateAlias" || op == "UpdateAlias":
				want = "ValidationException: Aliases must refer to keys. Not aliases"
			}
			require.Equal(t, want, answerOf(t, c, op, alias), "%s of %s", op, alias)
		}
	}
}
