package pkcs11kms

import (
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyring"
)

// kinds are one spec of each kind of key that there is.
var kinds = []types.KeySpec{types.KeySpecHmac256, types.KeySpecEccNistP256, types.KeySpecEccNistEdwards25519}

// usageOf is the one usage that a spec of kinds has.
func usageOf(spec types.KeySpec) types.KeyUsageType {
	if spec == types.KeySpecHmac256 {
		return types.KeyUsageTypeGenerateVerifyMac
	}
	return types.KeyUsageTypeSignVerify
}

// refusals are the operations that exist for kinds of keys that are not here, and those of the other kind, with what they
// answer for an enabled key of a usage.
func refusals(usage types.KeyUsageType, arn string) map[string]string {
	answers := map[string]string{
		"Decrypt":                   "InvalidCiphertextException: ",
		"EnableKeyRotation":         "UnsupportedOperationException: ",
		"DisableKeyRotation":        "UnsupportedOperationException: ",
		"RotateKeyOnDemand":         "UnsupportedOperationException: ",
		"ListKeyRotations":          "UnsupportedOperationException: ",
		"GetParametersForImport":    "UnsupportedOperationException: " + arn + " origin is AWS_KMS which is not valid for this operation.",
		"ImportKeyMaterial":         "UnsupportedOperationException: " + arn + " origin is AWS_KMS which is not valid for this operation.",
		"DeleteImportedKeyMaterial": "UnsupportedOperationException: " + arn + " origin is AWS_KMS which is not valid for this operation.",
	}
	for _, op := range []string{"Encrypt", "ReEncrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair",
		"GenerateDataKeyPairWithoutPlaintext", "DeriveSharedSecret", "Encapsulate", "Decapsulate"} {
		answers[op] = wrongUsage(usage, arn, op)
	}
	if usage == types.KeyUsageTypeSignVerify {
		answers["GenerateMac"], answers["VerifyMac"] = wrongUsage(usage, arn, "GenerateMac"), wrongUsage(usage, arn, "VerifyMac")
		return answers
	}
	answers["GetPublicKey"] = "UnsupportedOperationException: "
	answers["Sign"], answers["Verify"] = wrongUsage(usage, arn, "Sign"), wrongUsage(usage, arn, "Verify")
	return answers
}

func wrongUsage(usage types.KeyUsageType, arn, op string) string {
	return "InvalidKeyUsageException: " + arn + " key usage is " + string(usage) + " which is not valid for " + op + "."
}

func TestOperationsForOtherKinds(t *testing.T) {
	c := newClient(t)
	for _, spec := range kinds {
		usage := usageOf(spec)
		key := mustCreate(t, c, spec)
		for op, want := range refusals(usage, *key.Arn) {
			for _, id := range []string{*key.KeyId, *key.Arn} {
				require.Equal(t, want, answerOf(t, c, op, id), op)
			}
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
			return
		}
		if algorithm := in.FieldByName("SigningAlgorithm"); algorithm.IsValid() {
			out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &keyID})
			if err == nil && len(out.KeyMetadata.SigningAlgorithms) > 0 {
				algorithm.Set(reflect.ValueOf(out.KeyMetadata.SigningAlgorithms[0]))
			}
		}
	})
	if err == nil {
		return "ok"
	}
	var api smithy.APIError
	require.ErrorAs(t, err, &api)
	return api.ErrorCode() + ": " + api.ErrorMessage()
}

var namesNoKey = map[string]bool{"CreateKey": true, "ListKeys": true, "GenerateRandom": true,
	"DeleteAlias": true, "ListRetirableGrants": true, "LookupEvents": true}

// cell is a row of the state table: the answer in each state.
type cell struct{ enabled, disabled, pending string }

// stateTable is the state table (AWS KMS developer guide, "Key states") of a kind of key: every state that can be reached and
// every operation on a key, the exact answer in each cell.
func stateTable(usage types.KeyUsageType) map[string]cell {
	const ok, off, pend, notPend = "ok", "DisabledException: %ARN% is disabled.", "KMSInvalidStateException: %ARN% is pending deletion.",
		"KMSInvalidStateException: %ARN% is not pending deletion."
	const noGrant = "NotFoundException: Grant ID g not found"
	table := map[string]cell{
		"GenerateMac":          {ok, off, pend},
		"VerifyMac":            {"KMSInvalidMacException: ", off, pend},
		"Sign":                 {ok, off, pend},
		"Verify":               {"KMSInvalidSignatureException: ", off, pend},
		"GetPublicKey":         {ok, off, pend},
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
		"CreateGrant":          {ok, off, pend},
		"ListGrants":           {ok, ok, ok},
		"RetireGrant":          {noGrant, noGrant, noGrant},
		"RevokeGrant":          {noGrant, noGrant, noGrant},
	}
	for op, answer := range refusals(usage, "%ARN%") {
		table[op] = cell{answer, off, pend}
	}
	for _, op := range []string{"ListKeyRotations", "GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"} {
		answer := refusals(usage, "%ARN%")[op]
		table[op] = cell{answer, answer, answer}
	}
	return table
}

func TestStateTable(t *testing.T) {
	c := newClient(t)
	for _, spec := range kinds {
		usage := usageOf(spec)
		table := stateTable(usage)
		for _, op := range operations() {
			if namesNoKey[op] {
				continue
			}
			row, known := table[op]
			require.True(t, known, "%s has no row in the table", op)
			states := map[string]string{"Enabled": row.enabled, "Disabled": row.disabled, "PendingDeletion": row.pending, "Unavailable": row.enabled}
			if needsObject[usage][op] {
				states["Unavailable"] = "KeyUnavailableException: %ARN% is unavailable."
			}
			for state, want := range states {
				requireCell(t, c, spec, op, state, want)
			}
		}
	}
}

// needsObject are the operations that use the token's object. The public key of a signing key is in its record.
var needsObject = map[types.KeyUsageType]map[string]bool{
	types.KeyUsageTypeGenerateVerifyMac: {"GenerateMac": true, "VerifyMac": true},
	types.KeyUsageTypeSignVerify:        {"Sign": true},
}

// requireCell calls an operation on a new key in the state.
func requireCell(t *testing.T, c *Client, spec types.KeySpec, op, state, want string) {
	t.Helper()
	key := mustCreate(t, c, spec)
	if op == "UpdateAlias" {
		createAlias(t, c, "alias/minimal", mustCreate(t, c, spec).KeyId)
	}
	switch state {
	case "Disabled":
		require.NoError(t, toggle(t.Context(), c, key.KeyId, false))
	case "PendingDeletion":
		schedule(t, c, key.KeyId, 7)
	case "Unavailable": // the token has lost the object
		record, _ := storedKey(t, c, key.KeyId)
		destroy := c.region.Token.DestroyKey
		if keyring.MACSpecOf(spec) == nil {
			destroy = c.region.Token.DestroyKeyPair
		}
		require.NoError(t, destroy(t.Context(), record.CKAID, record.ID))
	}
	got := answerOf(t, c, op, *key.KeyId)
	require.Equal(t, strings.ReplaceAll(want, "%ARN%", *key.Arn), got, "%s of a %s key in the state %s", op, spec, state)
	if strings.HasSuffix(op, "Alias") && (got == "ok" || op == "UpdateAlias") {
		require.Equal(t, "ok", answerOf(t, c, "DeleteAlias", *key.KeyId))
	}
}

// An alias is taken where AWS KMS takes one, by name and by ARN, and nowhere else.
func TestWhereAnAliasIsTaken(t *testing.T) {
	c := newClient(t)
	taken := map[string]bool{}
	for _, op := range []string{"DescribeKey", "GetPublicKey", "GenerateMac", "VerifyMac", "Sign", "Verify", "Encrypt", "Decrypt", "ReEncrypt",
		"GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
		"DeriveSharedSecret", "Encapsulate", "Decapsulate"} {
		taken[op] = true
	}
	for _, spec := range kinds {
		key := mustCreate(t, c, spec)
		name := "alias/" + string(spec)
		createAlias(t, c, name, key.KeyId)
		for _, op := range operations() {
			if namesNoKey[op] {
				continue
			}
			for _, alias := range []string{name, "arn:aws:kms:us-west-2:111122223333:" + name} {
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
}
