package main

import (
	"bytes"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// inZone makes the local time zone a fixed one for the test.
func inZone(t *testing.T, seconds int) {
	t.Helper()
	old := time.Local
	time.Local = time.FixedZone("test", seconds)
	t.Cleanup(func() { time.Local = old })
}

func TestResponseInTheOrderOfTheModel(t *testing.T) {
	inZone(t, 3600)
	metadata := types.KeyMetadata{
		AWSAccountId: aws.String("111122223333"), KeyId: aws.String("1234abcd"), Description: aws.String(""),
		Arn: aws.String("arn:aws:kms:us-west-2:111122223333:key/1234abcd"), KeyUsage: types.KeyUsageTypeGenerateVerifyMac,
		CreationDate: aws.Time(time.UnixMilli(1669971596214)), KeyState: types.KeyStateDisabled, KeySpec: types.KeySpecHmac256,
		Origin: types.OriginTypeAwsKms, KeyManager: types.KeyManagerTypeCustomer,
		MacAlgorithms: []types.MacAlgorithmSpec{types.MacAlgorithmSpecHmacSha256}, MultiRegion: aws.Bool(false),
	}
	//lint:ignore SA1019 the service sends both names of the spec
	metadata.CustomerMasterKeySpec = types.CustomerMasterKeySpecHmac256
	out := &kms.DescribeKeyOutput{KeyMetadata: &metadata}
	var got bytes.Buffer
	a := &app{output: "json", stdout: &got}
	require.NoError(t, a.print("DescribeKey", newDocument(out)))
	assert.Equal(t, `{
    "KeyMetadata": {
        "AWSAccountId": "111122223333",
        "KeyId": "1234abcd",
        "Arn": "arn:aws:kms:us-west-2:111122223333:key/1234abcd",
        "CreationDate": "2022-12-02T09:59:56.214000+01:00",
        "Enabled": false,
        "Description": "",
        "KeyUsage": "GENERATE_VERIFY_MAC",
        "KeyState": "Disabled",
        "Origin": "AWS_KMS",
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "HMAC_256",
        "KeySpec": "HMAC_256",
        "MultiRegion": false,
        "MacAlgorithms": [
            "HMAC_SHA_256"
        ]
    }
}
`, got.String())
}

func TestEveryMemberHasItsPlace(t *testing.T) {
	of := []any{types.KeyMetadata{}, kms.GenerateMacOutput{}, kms.VerifyMacOutput{}, kms.SignOutput{}, kms.VerifyOutput{},
		kms.ListKeysOutput{}, types.KeyListEntry{}, kms.ListAliasesOutput{}, types.AliasListEntry{}, kms.ListResourceTagsOutput{},
		types.Tag{}, kms.ScheduleKeyDeletionOutput{}, kms.GetKeyPolicyOutput{}, kms.ListKeyPoliciesOutput{},
		kms.GetParametersForImportOutput{}, kms.ImportKeyMaterialOutput{}, kms.DeleteImportedKeyMaterialOutput{},
		kms.GetKeyRotationStatusOutput{}, kms.ListKeyRotationsOutput{}, types.RotationsListEntry{}, kms.GetPublicKeyOutput{},
		kms.GenerateRandomOutput{}}
	require.Len(t, of, len(memberOrder))
	for _, of := range of {
		var members []string
		for _, field := range reflect.VisibleFields(reflect.TypeOf(of)) {
			if field.IsExported() && field.Name != "ResultMetadata" {
				members = append(members, field.Name)
			}
		}
		name := reflect.TypeOf(of).Name()
		assert.ElementsMatch(t, members, memberOrder[name], name)
	}
}

func TestAbsentAndPresentMembers(t *testing.T) {
	blob := newDocument(&kms.GenerateMacOutput{Mac: []byte{0, 255}})
	assert.Equal(t, map[string]any{"Mac": "AP8="}, blob.root)

	page := newDocument(&kms.ListKeysOutput{Keys: []types.KeyListEntry{}})
	assert.Equal(t, map[string]any{"Keys": []any{}, "Truncated": false}, page.root)

	assert.Equal(t, map[string]any{}, newDocument(&kms.EnableKeyOutput{}).root)

	number := newDocument(&types.KeyMetadata{PendingDeletionWindowInDays: aws.Int32(7)})
	assert.Equal(t, map[string]any{"Enabled": false, "PendingDeletionWindowInDays": float64(7)}, number.root)
}

func TestMemberThatIsNewInTheSDKComesLast(t *testing.T) {
	memberOrder["sample"] = []string{"B"}
	t.Cleanup(func() { delete(memberOrder, "sample") })
	type sample struct{ A, B *string }
	d := newDocument(sample{aws.String("a"), aws.String("b")})
	root := d.root.(map[string]any)
	assert.Equal(t, []string{"B", "A"}, d.keys(root))
	assert.True(t, slices.IsSorted(d.keys(map[string]any{"z": 1, "a": 2})))
}

func TestTimestamps(t *testing.T) {
	inZone(t, -19800)
	assert.Equal(t, "1970-01-01T00:00:00-05:30", timestamp(time.Unix(19800, 0)))
	assert.Equal(t, "1970-01-01T00:00:00.001000-05:30", timestamp(time.UnixMilli(19800001)))
	inZone(t, 0)
	assert.Equal(t, "1970-01-01T00:00:00+00:00", timestamp(time.Unix(0, 0)))
}

// A document inside a response keeps the order of its members; what is no JSON stays text.
func TestDocumentInAResponse(t *testing.T) {
	type answer struct{ Given, Broken, Absent jsonText }
	d := newDocument(&answer{Given: `{"b": [1, {"z": null, "a": true}], "a": "x", "c": {}, "d": 1.5}`, Broken: `{"a"`})
	var got bytes.Buffer
	require.NoError(t, (&app{output: "json", stdout: &got}).print("Get", d))
	assert.Equal(t, `{
    "Given": {
        "b": [
            1,
            {
                "z": null,
                "a": true
            }
        ],
        "a": "x",
        "c": {},
        "d": 1.5
    },
    "Broken": "{\"a\""
}
`, got.String())
}
