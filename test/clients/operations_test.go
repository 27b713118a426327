package clients

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// withoutVerb are the operations that the product's own command has no verb for, and why: they refuse whatever they are
// asked.
var withoutVerb = func() map[string]string {
	reasons := map[string]string{}
	for reason, operations := range map[string][]string{
		"there are no keys that encrypt": {"Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyPair",
			"GenerateDataKeyPairWithoutPlaintext", "GenerateDataKeyWithoutPlaintext", "ReEncrypt"},
		"there are no keys that agree on others": {"Decapsulate", "DeriveSharedSecret", "Encapsulate"},
		"there are no key stores but the tokens": {"ConnectCustomKeyStore", "CreateCustomKeyStore", "DeleteCustomKeyStore",
			"DescribeCustomKeyStores", "DisconnectCustomKeyStore", "UpdateCustomKeyStore"},
		"a key is of one region": {"ReplicateKey", "UpdatePrimaryRegion"},
	} {
		for _, operation := range operations {
			reasons[operation] = reason
		}
	}
	return reasons
}()

// everyOperation has a call of each operation of the API, in an order in which they can be made by one client. The keys
// are its own. Those that make something are shown in full by the other tests: here it counts that they succeed.
func everyOperation(t *testing.T, library *pkcs11kms.Client, name string) []call {
	key, other, alias := newKey(t, library, "HMAC_256"), newKey(t, library, "HMAC_256"), "alias/"+name
	policy, err := library.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &key})
	require.NoError(t, err)
	blob := base64Of(message)
	of := func(more members) members {
		more["KeyId"] = key
		return more
	}
	mac := of(members{"MacAlgorithm": "HMAC_SHA_256", "Message": blob})
	var in kms.GenerateMacInput
	require.NoError(t, translate(mac, &in))
	made, err := library.GenerateMac(t.Context(), &in)
	require.NoError(t, err)

	signer := newSigningKey(t, library, "ECC_NIST_P256")
	signing := func(more members) members {
		more["KeyId"], more["SigningAlgorithm"], more["Message"] = signer, "ECDSA_SHA_256", blob
		return more
	}
	var toSign kms.SignInput
	require.NoError(t, translate(signing(members{}), &toSign))
	signed, err := library.Sign(t.Context(), &toSign)
	require.NoError(t, err)

	calls := []call{
		{operation: "CreateKey", input: members{"KeySpec": "HMAC_512", "KeyUsage": "GENERATE_VERIFY_MAC"}},
		{operation: "DescribeKey", input: of(members{})},
		{operation: "GetKeyLastUsage", input: of(members{})},
		{operation: "UpdateKeyDescription", input: of(members{"Description": "text"})},
		{operation: "ListKeys", input: members{}},
		{operation: "CreateAlias", input: members{"AliasName": alias, "TargetKeyId": key}},
		{operation: "UpdateAlias", input: members{"AliasName": alias, "TargetKeyId": other}},
		{operation: "ListAliases", input: members{"KeyId": other}},
		{operation: "DeleteAlias", input: members{"AliasName": alias}},
		{operation: "TagResource", input: of(members{"Tags": []members{{"TagKey": "a", "TagValue": "b"}}})},
		{operation: "ListResourceTags", input: of(members{})},
		{operation: "UntagResource", input: of(members{"TagKeys": []string{"a"}})},
		{operation: "GetKeyPolicy", input: of(members{"PolicyName": "default"})},
		{operation: "PutKeyPolicy", input: of(members{"PolicyName": "default", "Policy": *policy.Policy})},
		{operation: "ListKeyPolicies", input: of(members{})},
		{operation: "GenerateMac", input: mac},
		{operation: "VerifyMac", input: of(members{"MacAlgorithm": "HMAC_SHA_256", "Message": blob, "Mac": base64Of(made.Mac)})},
		{operation: "Sign", input: signing(members{})},
		{operation: "Verify", input: signing(members{"Signature": base64Of(signed.Signature)})},
		{operation: "GetPublicKey", input: members{"KeyId": signer}},
		{operation: "GenerateRandom", input: members{"NumberOfBytes": 16}},
		{operation: "DisableKey", input: of(members{})},
		{operation: "EnableKey", input: of(members{})},
		{operation: "GetKeyRotationStatus", input: of(members{})},
	}
	calls = append(calls, operationsOfOtherKinds(key, blob)...)
	calls = append(calls, operationsOnGrants(t, library, key)...)
	calls = append(calls, operationsNotDone(key)...)
	return append(calls,
		call{operation: "ScheduleKeyDeletion", input: of(members{"PendingWindowInDays": 7})},
		call{operation: "CancelKeyDeletion", input: of(members{})})
}

// operationsOfOtherKinds find the key, and refuse it because it is an HMAC key.
func operationsOfOtherKinds(key, blob string) []call {
	usage := func(operation string, input members) call {
		if operation != "ReEncrypt" {
			input["KeyId"] = key
		}
		return call{operation, input, "InvalidKeyUsageException",
			key + " key usage is GENERATE_VERIFY_MAC which is not valid for " + operation + "."}
	}
	external := func(operation string, input members) call {
		input["KeyId"] = key
		return call{operation, input, "UnsupportedOperationException", key + " origin is AWS_KMS which is not valid for this operation."}
	}
	calls := []call{
		usage("Encrypt", members{"Plaintext": blob}),
		usage("ReEncrypt", members{"CiphertextBlob": blob, "DestinationKeyId": key}),
		usage("GenerateDataKey", members{"KeySpec": "AES_256"}),
		usage("GenerateDataKeyWithoutPlaintext", members{"KeySpec": "AES_256"}),
		usage("GenerateDataKeyPair", members{"KeyPairSpec": "RSA_2048"}),
		usage("GenerateDataKeyPairWithoutPlaintext", members{"KeyPairSpec": "RSA_2048"}),
		usage("DeriveSharedSecret", members{"KeyAgreementAlgorithm": "ECDH", "PublicKey": blob}),
		usage("Encapsulate", members{"EncapsulationAlgorithm": "ML_KEM"}),
		usage("Decapsulate", members{"EncapsulationAlgorithm": "ML_KEM", "SharedSecretCiphertextBlob": blob}),
		{"Decrypt", members{"CiphertextBlob": blob, "KeyId": key}, "InvalidCiphertextException", ""},
		external("GetParametersForImport", members{"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}),
		external("ImportKeyMaterial", members{"ImportToken": blob, "EncryptedKeyMaterial": blob,
			"ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}),
		external("DeleteImportedKeyMaterial", members{}),
	}
	for _, operation := range []string{"EnableKeyRotation", "DisableKeyRotation", "RotateKeyOnDemand", "ListKeyRotations"} {
		calls = append(calls, call{operation, members{"KeyId": key}, "UnsupportedOperationException", ""})
	}
	return calls
}

// operationsOnGrants make a grant, look at it, and end others, which were made before.
func operationsOnGrants(t *testing.T, library *pkcs11kms.Client, key string) []call {
	const root = "arn:aws:iam::000000000000:root"
	asked := members{"KeyId": key, "GranteePrincipal": root, "RetiringPrincipal": root, "Operations": []string{"GenerateMac", "DescribeKey"}}
	make := func() *kms.CreateGrantOutput {
		var in kms.CreateGrantInput
		require.NoError(t, translate(asked, &in))
		out, err := library.CreateGrant(t.Context(), &in)
		require.NoError(t, err)
		return out
	}
	retired, revoked := make(), make()
	return []call{
		{operation: "CreateGrant", input: asked},
		{operation: "ListGrants", input: members{"KeyId": key}},
		{operation: "ListRetirableGrants", input: members{"RetiringPrincipal": root}},
		{operation: "RetireGrant", input: members{"GrantToken": *retired.GrantToken}},
		{operation: "RevokeGrant", input: members{"KeyId": key, "GrantId": *revoked.GrantId}},
	}
}

// operationsNotDone are those that the service does not have.
func operationsNotDone(key string) (calls []call) {
	const store = "cks-1234567890abcdef0"
	for operation, input := range map[string]members{
		"ConnectCustomKeyStore":    {"CustomKeyStoreId": store},
		"CreateCustomKeyStore":     {"CustomKeyStoreName": "store"},
		"DeleteCustomKeyStore":     {"CustomKeyStoreId": store},
		"DescribeCustomKeyStores":  {},
		"DisconnectCustomKeyStore": {"CustomKeyStoreId": store},
		"ReplicateKey":             {"KeyId": key, "ReplicaRegion": "eu-west-1"},
		"UpdateCustomKeyStore":     {"CustomKeyStoreId": store},
		"UpdatePrimaryRegion":      {"KeyId": key, "PrimaryRegion": "eu-west-1"},
	} {
		calls = append(calls, call{operation, input, "UnsupportedOperationException", "This service does not support the operation."})
	}
	return calls
}

// TestEveryOperation: every client makes every operation that its model of the API has, and is answered as every other
// is. What its model lacks is printed.
func TestEveryOperation(t *testing.T) {
	srv := newServer(t)
	to := targetOf(srv)
	onEachClient(t, func(t *testing.T, c client) {
		model := c.model(t, to)
		var invoked, lacking, called []string
		for _, call := range everyOperation(t, inProcess(t, srv), t.Name()) {
			called = append(called, call.operation)
			got := c.do(t, to, call.operation, call.input)
			if !slices.Contains(model, call.operation) {
				require.True(t, got.Unknown, "%s is not in the model", call.operation)
				lacking = append(lacking, call.operation)
				continue
			}
			require.False(t, got.Unknown, "%s is in the model", call.operation)
			invoked = append(invoked, call.operation)
			if call.code != "" {
				require.NotNil(t, got.Refusal, call.operation)
				c.refused(t, got, call.code, call.text)
			} else {
				require.Nil(t, got.Refusal, call.operation)
			}
			if call.operation == "GetKeyRotationStatus" {
				require.Equal(t, false, got.Output["KeyRotationEnabled"])
			}
		}
		require.ElementsMatch(t, goModel(), called, "every operation of the API, once")
		require.Subset(t, invoked, model, "what the client has beyond that is not known to the Go SDK")
		slices.Sort(lacking)
		t.Logf("invoked %d operations; its model lacks %d: %s", len(invoked), len(lacking), strings.Join(lacking, ", "))
	})
}
