package pkcs11kms

import (
	"context"
	"reflect"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
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
		"NumberOfBytes": ptrTo(int32(8)),
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
	return names
}

func TestNobodyIsDeniedEverything(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	nobody, err := c.bridge.Client("")
	require.NoError(t, err)
	for _, op := range operations() {
		for _, id := range []string{*key.KeyId, *key.Arn, unknownID, "nonsense"} {
			err := invoke(t, t.Context(), nobody, op, func(in reflect.Value) {
				minimal(id)(in)
				if policy := in.FieldByName("Policy"); policy.IsValid() && op == "PutKeyPolicy" {
					policy.Set(reflect.ValueOf(ptr(c.defaultPolicy())))
				}
			})
			require.ErrorContains(t, err, "AccessDeniedException: User: anonymous is not authorized to perform: kms:"+op+" on resource", "%s of %s", op, id)
		}
	}
	_, err = nobody.NewMAC(t.Context(), *key.KeyId, "HMAC_SHA_256")
	require.ErrorContains(t, err, "AccessDeniedException")
}
