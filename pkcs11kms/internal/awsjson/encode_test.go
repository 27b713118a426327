package awsjson_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsjson"
)

// sampleMetadata is the key of the CreateKey answer that sampleMetadataBody holds.
func sampleMetadata() *types.KeyMetadata {
	return &types.KeyMetadata{
		AWSAccountId: aws.String("111122223333"),
		KeyId:        aws.String("1234abcd-12ab-34cd-56ef-1234567890ab"),
		Arn:          aws.String(keyArn),
		CreationDate: aws.Time(time.UnixMilli(1669973196214)),
		Enabled:      true,
		Description:  aws.String("d"),
		KeyUsage:     types.KeyUsageTypeGenerateVerifyMac,
		KeyState:     types.KeyStateEnabled,
		Origin:       types.OriginTypeAwsKms,
		KeyManager:   types.KeyManagerTypeCustomer,
		//lint:ignore SA1019 the service sends both names of the spec
		CustomerMasterKeySpec: types.CustomerMasterKeySpecHmac256,
		KeySpec:               types.KeySpecHmac256,
		MacAlgorithms:         []types.MacAlgorithmSpec{types.MacAlgorithmSpecHmacSha256},
		MultiRegion:           aws.Bool(false),
	}
}

const sampleMetadataBody = `{"AWSAccountId":"111122223333","KeyId":"1234abcd-12ab-34cd-56ef-1234567890ab",` +
	`"Arn":"` + keyArn + `","CreationDate":1669973196.214,"Enabled":true,"Description":"d",` +
	`"KeyUsage":"GENERATE_VERIFY_MAC","KeyState":"Enabled","Origin":"AWS_KMS","KeyManager":"CUSTOMER",` +
	`"CustomerMasterKeySpec":"HMAC_256","KeySpec":"HMAC_256","MacAlgorithms":["HMAC_SHA_256"],"MultiRegion":false}`

func TestEncodeRecorded(t *testing.T) {
	var metadata middleware.Metadata
	metadata.Set("a", "b")
	cases := map[string]struct {
		out  any
		want string
	}{
		"CreateKey": {
			&kms.CreateKeyOutput{KeyMetadata: sampleMetadata(), ResultMetadata: metadata},
			`{"KeyMetadata":` + sampleMetadataBody + `}`,
		},
		"GenerateMac": {
			generateMacOutput(),
			`{"KeyId":"` + keyArn + `","Mac":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","MacAlgorithm":"HMAC_SHA_256"}`,
		},
		"VerifyMac": {
			&kms.VerifyMacOutput{KeyId: aws.String(keyArn), MacValid: true, MacAlgorithm: "HMAC_SHA_256"},
			`{"KeyId":"` + keyArn + `","MacValid":true,"MacAlgorithm":"HMAC_SHA_256"}`,
		},
		"empty list": {
			&kms.ListAliasesOutput{Aliases: []types.AliasListEntry{}},
			`{"Aliases":[],"Truncated":false}`,
		},
		"nested empty list": {
			&types.MultiRegionConfiguration{
				MultiRegionKeyType: "PRIMARY", PrimaryKey: &types.MultiRegionKey{Region: aws.String("us-east-1")},
				ReplicaKeys: []types.MultiRegionKey{},
			},
			`{"MultiRegionKeyType":"PRIMARY","PrimaryKey":{"Region":"us-east-1"},"ReplicaKeys":[]}`,
		},
		"list of structures": {
			&kms.ListKeysOutput{
				Keys: []types.KeyListEntry{{KeyId: aws.String("a")}, {KeyId: aws.String("b")}}, NextMarker: aws.String("m"),
				Truncated: true,
			},
			`{"Keys":[{"KeyId":"a"},{"KeyId":"b"}],"NextMarker":"m","Truncated":true}`,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) { assert.Equal(t, c.want, encode(t, c.out)) })
	}
}

func encode(t *testing.T, out any) string {
	t.Helper()
	body, err := awsjson.Encode(out)
	require.NoError(t, err)
	return string(body)
}

func TestEncodeAbsence(t *testing.T) {
	cases := []struct {
		name string
		out  any
		want string
	}{
		{"nothing set", &kms.GenerateMacOutput{}, `{}`},
		{"output without members", &kms.EnableKeyOutput{}, `{}`},
		{"plain bool", &kms.VerifyMacOutput{}, `{"MacValid":false}`},
		{"plain bool in a structure", &types.KeyMetadata{}, `{"Enabled":false}`},
		{"nil list", &kms.ListKeysOutput{}, `{"Truncated":false}`},
		{"empty string behind a pointer", &kms.GenerateMacOutput{KeyId: aws.String("")}, `{"KeyId":""}`},
		{"empty blob", &kms.GenerateMacOutput{Mac: []byte{}}, `{"Mac":""}`},
		{"false and zero behind pointers", &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(0)}, `{"NumberOfBytes":0}`},
		{"empty map", &kms.EncryptInput{EncryptionContext: map[string]string{}}, `{"EncryptionContext":{}}`},
		{"empty structure", &kms.DescribeKeyOutput{KeyMetadata: nil}, `{}`},
		{
			"map in order of its keys",
			&types.GrantConstraints{EncryptionContextEquals: map[string]string{"b": "2", "": "", "a": "1"}},
			`{"EncryptionContextEquals":{"":"","a":"1","b":"2"}}`,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, encode(t, c.out)) })
	}
}

func TestEncodeText(t *testing.T) {
	cases := []struct{ name, text, want string }{
		{"plain", "alias/app", `"alias/app"`},
		{"no HTML escapes", "<a href='x'>&</a>", `"<a href='x'>&</a>"`},
		{"quote and backslash", `"\`, `"\"\\"`},
		{"short escapes", "\b\f\n\r\t", `"\b\f\n\r\t"`},
		{"control characters", "\x00\x1f\x7f", `"\u0000\u001F` + "\x7f" + `"`},
		{"beyond ASCII", "ü€😀\u2028", `"ü€😀` + "\u2028" + `"`},
		{"invalid UTF-8", "a\xffb\xc3", `"a` + "\uFFFD" + `b` + "\uFFFD" + `"`},
		{"encoded surrogate", "\xed\xa0\x80", "\"\uFFFD\uFFFD\uFFFD\""},
		{"replacement character itself", "\uFFFD", "\"\uFFFD\""},
		{"policy document", "{\n  \"Version\" : \"2012-10-17\"\n}", `"{\n  \"Version\" : \"2012-10-17\"\n}"`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			body := encode(t, &kms.GetKeyPolicyOutput{Policy: &c.text})
			assert.Equal(t, `{"Policy":`+c.want+`}`, body)
			assert.True(t, json.Valid([]byte(body)))
		})
	}
}

func TestEncodeTime(t *testing.T) {
	cases := []struct {
		at   time.Time
		want string
	}{
		{time.UnixMilli(1669973196214), "1669973196.214"},
		{time.UnixMilli(1669973196210), "1669973196.21"},
		{time.UnixMilli(1669973196200), "1669973196.2"},
		{time.UnixMilli(1669973196004), "1669973196.004"},
		{time.UnixMilli(1669973200000), "1669973200"},
		{time.Unix(1669973196, 214999999), "1669973196.214"},
		{time.Unix(0, 0).In(time.FixedZone("", 3600)), "0"},
		{time.UnixMilli(-1500), "-1.5"},
		{time.UnixMilli(-1), "-0.001"},
		{time.Time{}, "-62135596800"},
	}
	for _, c := range cases {
		assert.Equal(t, `{"ValidTo":`+c.want+`}`, encode(t, &kms.ImportKeyMaterialInput{ValidTo: &c.at}))
	}
}

func TestAppendKeepsWhatIsThere(t *testing.T) {
	body, err := awsjson.Append([]byte("["), &kms.VerifyMacOutput{})
	require.NoError(t, err)
	assert.Equal(t, `[{"MacValid":false}`, string(body))
}

func TestEncodeError(t *testing.T) {
	assert.Equal(t, `{"__type":"KMSInvalidMacException"}`, string(awsjson.EncodeError("KMSInvalidMacException", nil)))
	assert.Equal(t, `{"__type":"X","message":""}`, string(awsjson.EncodeError("X", aws.String(""))))
	assert.Equal(t, `{"__type":"NotFoundException","message":"Alias \"<ü>\n\" is not found."}`,
		string(awsjson.EncodeError("NotFoundException", aws.String("Alias \"<ü>\n\" is not found."))))
}

// TestUnsuitableTargets holds what only a mistake in this program can cause: none of it is the client's error.
func TestUnsuitableTargets(t *testing.T) {
	type loop struct{ Loop []loop }
	cases := map[string]any{
		"nil":              nil,
		"struct":           kms.GenerateMacInput{},
		"nil pointer":      (*kms.GenerateMacInput)(nil),
		"pointer to text":  aws.String(""),
		"type without end": &loop{},
		"float":            &struct{ X float64 }{},
		"list of floats":   &struct{ X []float64 }{},
		"pointer to float": &struct{ X *float64 }{},
		"map of integers":  &struct{ X map[string]int32 }{},
	}
	for name, v := range cases {
		t.Run(name, func(t *testing.T) {
			var client *awsjson.SerializationError
			err := awsjson.Decode([]byte(`{}`), v)
			require.Error(t, err)
			assert.NotErrorAs(t, err, &client)
			_, err = awsjson.Encode(v)
			assert.Error(t, err)
		})
	}
}
