package pkcs11kms

import (
	"cmp"
	"context"
	"reflect"
	"slices"
	"testing"

	cttypes "github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// invoke calls an operation by its name with an input that fill has worked on.
func invoke(t testing.TB, ctx context.Context, c *Client, op string, fill func(reflect.Value)) error {
	t.Helper()
	method := reflect.ValueOf(c).MethodByName(op)
	require.True(t, method.IsValid(), op)
	in := reflect.New(method.Type().In(1).Elem())
	fill(in.Elem())
	out := method.Call([]reflect.Value{reflect.ValueOf(ctx), in})
	err, _ := out[1].Interface().(error)
	require.Equal(t, err != nil, out[0].IsNil(), "%s: an output or an error", op)
	return err
}

// minimal fills in whatever an operation needs to get past the checks of its form, for a key.
func minimal(keyID string) func(reflect.Value) {
	values := map[string]any{
		"KeyId": &keyID, "TargetKeyId": &keyID, "DestinationKeyId": &keyID, "AliasName": ptr("alias/minimal"),
		"Message": []byte("m"), "Mac": make([]byte, 32), "CiphertextBlob": []byte("c"),
		"MacAlgorithm": types.MacAlgorithmSpecHmacSha256, "SigningAlgorithm": types.SigningAlgorithmSpecEcdsaSha256,
		"Signature": []byte("s"), "KeyUsage": types.KeyUsageTypeGenerateVerifyMac,
		"Description": ptr("d"), "Tags": []types.Tag{{TagKey: ptr("k"), TagValue: ptr("v")}}, "TagKeys": []string{"k"},
		"NumberOfBytes": ptrTo(int32(8)), "GrantId": ptr("g"), "RetiringPrincipal": ptr("arn:aws:iam::111122223333:root"),
		"Plaintext": []byte("p"), "PublicKey": []byte("p"), "ImportToken": []byte("t"),
		"ExpirationModel": types.ExpirationModelTypeKeyMaterialDoesNotExpire, "EncryptedKeyMaterial": []byte("m"),
		"SharedSecretCiphertextBlob": []byte("c"), "KeyPairSpec": types.DataKeyPairSpecRsa2048,
		"KeyAgreementAlgorithm": types.KeyAgreementAlgorithmSpecEcdh, "EncapsulationAlgorithm": types.EncapsulationAlgorithmSpecMlKem,
		"LookupAttributes":  []cttypes.LookupAttribute{{AttributeKey: cttypes.LookupAttributeKeyUsername, AttributeValue: ptr("alice")}},
		"WrappingAlgorithm": types.AlgorithmSpecRsaesOaepSha256, "WrappingKeySpec": types.WrappingKeySpecRsa2048,
		"Operations": []types.GrantOperation{types.GrantOperationDescribeKey}, "GranteePrincipal": ptr("arn:aws:iam::111122223333:root"),
	}
	return func(in reflect.Value) {
		for name, value := range values {
			field := in.FieldByName(name)
			if field.IsValid() && field.Type() == reflect.TypeOf(value) {
				field.Set(reflect.ValueOf(value))
			}
		}
		if in.Type() == reflect.TypeFor[kms.CreateKeyInput]() {
			in.FieldByName("KeySpec").Set(reflect.ValueOf(types.KeySpecHmac256))
		}
	}
}

func ptrTo[T any](v T) *T { return &v }

// operations are the names of everything that there is.
func operations() (names []string) {
	surface := reflect.TypeFor[api]()
	for i := range surface.NumMethod() {
		names = append(names, surface.Method(i).Name)
	}
	for op := range ops.All {
		if op.Service == ops.LookupEvents.Service {
			names = append(names, op.Name)
		}
	}
	return names
}

// rowOf is the row of one of them.
func rowOf(name string) *ops.Operation {
	return cmp.Or(ops.Find(kmsService, name), ops.Find(ops.LookupEvents.Service, name))
}

// fillAll is minimal, with what else PutKeyPolicy needs.
func fillAll(op, keyID string, c *Client) func(reflect.Value) {
	return func(in reflect.Value) {
		minimal(keyID)(in)
		if policy := in.FieldByName("Policy"); policy.IsValid() && op == "PutKeyPolicy" {
			policy.Set(reflect.ValueOf(ptr(defaultPolicyOf(c.bridge.Root()))))
		}
	}
}

// namesKey tells whether an operation is decided on a key.
func namesKey(op string) bool {
	return !slices.Contains([]string{"CreateKey", "ListKeys", "ListAliases", "GenerateRandom", "DeleteAlias", "ListRetirableGrants",
		"LookupEvents"}, op)
}

func TestNobodyIsDeniedEverything(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	nobody, err := c.bridge.Client("")
	require.NoError(t, err)
	for _, op := range operations() {
		for _, id := range []string{*key.KeyId, *key.Arn, unknownID, "nonsense"} {
			err := invoke(t, t.Context(), nobody, op, fillAll(op, id, c))
			require.ErrorContains(t, err,
				"AccessDeniedException: User: anonymous is not authorized to perform: "+actionOf(op)+" on resource", "%s of %s", op, id)
		}
	}
	_, err = nobody.NewMAC(t.Context(), *key.KeyId, "HMAC_SHA_256")
	require.ErrorContains(t, err, "AccessDeniedException")
}

// actionOf is the action of policies that stands for an operation.
func actionOf(op string) string {
	if op == "ReEncrypt" {
		return "kms:ReEncryptTo"
	}
	return rowOf(op).Service + ":" + op
}

// Every operation is denied to a principal without the permission for it, and to nobody for want of another: a new operation
// without a check of its own, or with that of another operation, fails here.
func TestEveryOperationAsksForItsPermission(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	name := roleName("limited")
	limited := as(t, c, name)
	allowed := func(document string) {
		require.NoError(t, asRoot(c.bridge).PutPrincipalPolicy(t.Context(), name, "all", document))
	}
	for _, op := range operations() {
		call := func() error { return invoke(t, t.Context(), limited, op, fillAll(op, *key.KeyId, c)) }
		needed := []string{actionOf(op)}
		if op == "CreateKey" {
			needed = append(needed, "kms:TagResource")
		}
		for i, action := range needed {
			others := append([]string{"kms:None"}, slices.Delete(slices.Clone(needed), i, i+1)...)
			for _, document := range []string{allowAllBut(action), allow("*", others...)} {
				allowed(document)
				require.ErrorContains(t, call(),
					"AccessDeniedException: User: "+limited.caller.ARN()+" is not authorized to perform: "+action+" on resource", op)
			}
		}
		allowed(allow("*", needed...))
		if err := call(); err != nil {
			require.NotContains(t, err.Error(), "AccessDeniedException", op)
		}
		if describe(t, c, key.KeyId).DeletionDate != nil {
			_, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: key.KeyId})
			require.NoError(t, err)
		}
	}
}

// allowAllBut allows everything but one action.
func allowAllBut(action string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","NotAction":"` + action + `","Resource":"*"}]}`
}
