package awsjson_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsjson"
)

func TestDecodeRecorded(t *testing.T) {
	cases := []struct {
		name, body string
		into, want any
	}{
		{
			"CreateKey", `{"KeySpec":"HMAC_256","KeyUsage":"GENERATE_VERIFY_MAC","Description":"d"}`,
			&kms.CreateKeyInput{},
			&kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC", Description: aws.String("d")},
		},
		{
			"GenerateMac", generateMacBody, &kms.GenerateMacInput{},
			&kms.GenerateMacInput{KeyId: aws.String("alias/app"), Message: []byte("Hello"), MacAlgorithm: "HMAC_SHA_256"},
		},
		{
			"VerifyMac", `{"KeyId":"k","Message":"SGVsbG8=","MacAlgorithm":"HMAC_SHA_256","Mac":"AP8="}`,
			&kms.VerifyMacInput{},
			&kms.VerifyMacInput{
				KeyId: aws.String("k"), Message: []byte("Hello"), Mac: []byte{0, 255}, MacAlgorithm: "HMAC_SHA_256",
			},
		},
		{
			"white space everywhere",
			" {\n\t\"Tags\" : [ { \"TagKey\" : \"k\" , \"TagValue\" : \"\" } , { } ] ,\r\n \"KeyId\" : \"k\" } ",
			&kms.TagResourceInput{},
			&kms.TagResourceInput{
				KeyId: aws.String("k"), Tags: []types.Tag{{TagKey: aws.String("k"), TagValue: aws.String("")}, {}},
			},
		},
		{
			"grant",
			`{"Constraints":{"EncryptionContextSubset":{"a":"1","b":""}},"Operations":["GenerateMac","Fly"],"DryRun":true}`,
			&kms.CreateGrantInput{},
			&kms.CreateGrantInput{
				Constraints: &types.GrantConstraints{EncryptionContextSubset: map[string]string{"a": "1", "b": ""}},
				Operations:  []types.GrantOperation{"GenerateMac", "Fly"}, DryRun: aws.Bool(true),
			},
		},
		{"KeyMetadata", sampleMetadataBody, &types.KeyMetadata{}, utc(sampleMetadata())},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, awsjson.Decode([]byte(c.body), c.into))
			assert.Equal(t, c.want, c.into)
		})
	}
}

func utc(m *types.KeyMetadata) *types.KeyMetadata {
	m.CreationDate = aws.Time(m.CreationDate.UTC())
	return m
}

// everything has a member of each kind that the model knows. KeyId and Blob stand for what decoding must not confuse.
type everything struct {
	KeyId   *string
	Spec    types.KeySpec
	Blob    []byte
	Flag    *bool
	Plain   bool
	Number  *int32
	Time    *time.Time
	Names   []string
	Tags    []types.Tag
	Context map[string]string
	Nested  *types.GrantConstraints

	Recipient *types.RecipientInfo
	Modifiers []types.DryRunModifierType
}

func TestDecodeAccepts(t *testing.T) {
	text := func(s string) everything { return everything{KeyId: &s} }
	number := func(n int32) everything { return everything{Number: &n} }
	at := func(millis int64) everything { return everything{Time: aws.Time(time.UnixMilli(millis).UTC())} }
	cases := []struct {
		name, body string
		want       everything
	}{
		{"no body", ``, everything{}},
		{"empty object", `{}`, everything{}},
		{"names differ in case", `{"keyId":"a","KEYID":"b","keyid":5}`, everything{}},
		{"unknown members", `{"X":[1,-2.5e+3,{"y":[null,true,false]},"\u0000"],"KeyId":"a","Y":{}}`, text("a")},
		{"escaped name", `{"Key\u0049d":"a"}`, text("a")},
		{"escapes", `{"KeyId":"\"\\\/\b\f\n\r\t\u00e9\u20AC\ud83d\uDE00"}`, text("\"\\/\b\f\n\r\té€😀")},
		{"raw UTF-8", `{"KeyId":"é€😀` + "\x7f" + `"}`, text("é€😀\x7f")},
		{"zero character", `{"KeyId":"a\u0000b"}`, text("a\x00b")},
		{"nulls", `{"KeyId":null,"Spec":null,"Blob":null,"Flag":null,"Plain":null,"Number":null,"Time":null,"Names":null,` +
			`"Tags":null,"Context":null,"Nested":null}`, everything{}},
		{"last wins", `{"KeyId":"a","KeyId":"b"}`, text("b")},
		{"last null wins", `{"KeyId":"a","KeyId":null}`, everything{}},
		{"last list wins whole", `{"Names":["a","b","c"],"Names":["d"]}`, everything{Names: []string{"d"}}},
		{"last structures win whole", `{"Tags":[{"TagKey":"a"}],"Tags":[{"TagValue":"b"}]}`,
			everything{Tags: []types.Tag{{TagValue: aws.String("b")}}}},
		{"last map wins whole", `{"Context":{"a":"1"},"Context":{"b":"2","b":"3"}}`,
			everything{Context: map[string]string{"b": "3"}}},
		{"last structure wins whole", `{"Nested":{"SourceArn":"a"},"Nested":{}}`,
			everything{Nested: &types.GrantConstraints{}}},
		{"empty values", `{"Blob":"","Names":[],"Tags":[],"Context":{},"Nested":{},"KeyId":""}`, everything{
			Blob: []byte{}, Names: []string{}, Tags: []types.Tag{}, Context: map[string]string{},
			Nested: &types.GrantConstraints{}, KeyId: aws.String(""),
		}},
		{"known and unknown enumeration values", `{"Spec":"HMAC_256","Spec":"HMAC_random"}`, everything{Spec: "HMAC_random"}},
		{"bools", `{"Flag":false,"Plain":true}`, everything{Flag: aws.Bool(false), Plain: true}},
		{"integer limits", `{"Number":-2147483648,"Number":2147483647}`, number(2147483647)},
		{"lowest integer", `{"Number":-2147483648}`, number(-2147483648)},
		{"negative zero", `{"Number":-0}`, number(0)},
		{"integer with fraction", `{"Number":10.0}`, number(10)},
		{"integer with exponent", `{"Number":1.5E1}`, number(15)},
		{"timestamp", `{"Time":1669973196.214}`, at(1669973196214)},
		{"whole timestamp", `{"Time":1669973196}`, at(1669973196000)},
		{"timestamp with exponent", `{"Time":1.669973196214E9}`, at(1669973196214)},
		{"timestamp finer than a millisecond", `{"Time":0.0006}`, at(1)},
		{"negative timestamp", `{"Time":-1.5}`, at(-1500)},
		{"base64 with the alphabet's end", `{"Blob":"+/+/"}`, everything{Blob: []byte{0xfb, 0xff, 0xbf}}},
		// PHP's json_encode writes each slash this way.
		{"base64 with escaped slashes", `{"Blob":"+\/+\/"}`, everything{Blob: []byte{0xfb, 0xff, 0xbf}}},
		{"many side by side", `{"X":[` + strings.Repeat(`{},[],`, 2*awsjson.MaxDepth) + `0]}`, everything{}},
		{"deepest", `{"X":` + nested(awsjson.MaxDepth-1) + `}`, everything{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var got everything
			require.NoError(t, awsjson.Decode([]byte(c.body), &got))
			assert.Equal(t, c.want, got)
		})
	}
}

// An enumeration's empty string is a value, which the SDK's structs cannot hold: it is told, by the path of the member.
func TestEmptyStringOfAnEnumerationIsTold(t *testing.T) {
	for body, want := range map[string][]string{
		`{"Spec":""}`:                                 {"Spec"},
		`{"Sp\u0065c":""}`:                            {"Spec"},
		`{"Spec":"HMAC_256","Spec":""}`:               {"Spec"},
		`{"Spec":"","Spec":""}`:                       {"Spec"},
		`{"Spec":"","Spec":"HMAC_256"}`:               nil,
		`{"Spec":"","Spec":null}`:                     nil,
		`{"spec":"","X":{"Spec":""}}`:                 nil,
		`{"KeyId":"","Blob":"","Names":[""]}`:         nil,
		`{"Modifiers":[""]}`:                          nil, // an element of a list is what it is
		`{"Recipient":{"KeyEncryptionAlgorithm":""}}`: {"Recipient.KeyEncryptionAlgorithm"},
		`{"Spec":"","Recipient":{"KeyEncryptionAlgorithm":""},"KeyId":"a"}`: {"Spec", "Recipient.KeyEncryptionAlgorithm"},
		`{"Recipient":{"KeyEncryptionAlgorithm":""},"Recipient":{}}`:        nil,
		`{"Recipient":{"KeyEncryptionAlgorithm":""},"Recipient":null}`:      nil,
		`{"Recipient":{"KeyEncryptionAlgorithm":""},"Spec":"","Spec":"x"}`:  {"Recipient.KeyEncryptionAlgorithm"},
	} {
		t.Run(body, func(t *testing.T) {
			var got everything
			err := awsjson.Decode([]byte(body), &got)
			if want == nil {
				require.NoError(t, err)
				return
			}
			var empty *awsjson.EmptyEnumError
			require.ErrorAs(t, err, &empty)
			assert.Equal(t, want, empty.Members)
			assert.Contains(t, err.Error(), want[0])
		})
	}
	var got everything
	var empty *awsjson.EmptyEnumError
	require.ErrorAs(t, awsjson.Decode([]byte(`{"Spec":"","KeyId":"a"}`), &got), &empty)
	assert.Equal(t, everything{KeyId: aws.String("a")}, got, "the rest is there")
	var bad *awsjson.SerializationError
	require.ErrorAs(t, awsjson.Decode([]byte(`{"Spec":""} x`), &got), &bad, "a body that is none is that first")
}

func nested(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }

// refusal is a body that Decode must refuse, with the error's whole text.
type refusal struct{ name, body, want string }

func refuse(t *testing.T, cases []refusal) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := awsjson.Decode([]byte(c.body), &everything{})
			var bad *awsjson.SerializationError
			require.ErrorAs(t, err, &bad)
			assert.EqualError(t, err, c.want)
			assert.LessOrEqual(t, bad.Offset, len(c.body))
		})
	}
}

func TestDecodeRefusesSyntax(t *testing.T) {
	refuse(t, []refusal{
		{"white space alone", " \n", "decode body: expected an object"},
		{"null", `null`, "decode body: expected an object"},
		{"list", `[]`, "decode body: expected an object"},
		{"text", `"a"`, "decode body: expected an object"},
		{"byte order mark", "\xef\xbb\xbf{}", "decode body: expected an object"},
		{"no end", `{`, "decode body: expected a member name"},
		{"no end after a value", `{"KeyId":"a"`, "decode body: expected a comma or the end of a list or object"},
		{"no value", `{"KeyId":`, "decode KeyId: expected a string"},
		{"no value for an unknown member", `{"X":}`, "decode body: expected a value"},
		{"no colon", `{"KeyId" "a"}`, "decode body: expected a colon after a member name"},
		{"no comma", `{"KeyId":"a" "X":1}`, "decode body: expected a comma or the end of a list or object"},
		{"comma at the end", `{"KeyId":"a",}`, "decode body: expected a value"},
		{"comma at the end of a list", `{"Names":["a",]}`, "decode Names: expected a value"},
		{"comma at the start", `{,"KeyId":"a"}`, "decode body: expected a member name"},
		{"name without quotes", `{KeyId:"a"}`, "decode body: expected a member name"},
		{"single quotes", `{'KeyId':'a'}`, "decode body: expected a member name"},
		{"comment", `{/**/}`, "decode body: expected a member name"},
		{"wrong bracket", `{"Names":["a"}`, "decode Names: expected a comma or the end of a list or object"},
		{"second object", `{}{}`, "decode body: data after the end of the object"},
		{"zero byte at the end", "{}\x00", "decode body: data after the end of the object"},
		{"words run on", `{"Flag":trueish}`, "decode body: expected a comma or the end of a list or object"},
		{"word in upper case", `{"Flag":TRUE}`, "decode Flag: expected true or false"},
		{"no colon in an unknown object", `{"X":{"a"}}`, "decode body: expected a colon after a member name"},
		{"no comma in a map", `{"Context":{"a":"b" "c"}}`, "decode Context: expected a comma or the end of a list or object"},
		{"no colon in a map", `{"Context":{"a"}}`, "decode Context: expected a colon after a member name"},
	})
}

func TestDecodeRefusesTypes(t *testing.T) {
	refuse(t, []refusal{
		{"number for text", `{"KeyId":5}`, "decode KeyId: expected a string"},
		{"object for text", `{"KeyId":{}}`, "decode KeyId: expected a string"},
		{"bool for an enumeration", `{"Spec":true}`, "decode Spec: expected a string"},
		{"text for a bool", `{"Flag":"true"}`, "decode Flag: expected true or false"},
		{"number for a bool", `{"Plain":1}`, "decode Plain: expected true or false"},
		{"text for a number", `{"Number":"5"}`, "decode Number: expected an integer of 32 bits"},
		{"text for a timestamp", `{"Time":"2022-12-02T09:26:36Z"}`, "decode Time: expected a timestamp in seconds"},
		{"number for a blob", `{"Blob":5}`, "decode Blob: expected a string"},
		{"list of numbers for a blob", `{"Blob":[1]}`, "decode Blob: expected a string"},
		{"text for a list", `{"Names":"a"}`, "decode Names: expected a list"},
		{"number in a list", `{"Names":["a",5]}`, "decode Names: expected a string"},
		{"list for a map", `{"Context":[]}`, "decode Context: expected an object"},
		{"number in a map", `{"Context":{"secret":5}}`, "decode Context: expected a string"},
		{"text for a structure", `{"Nested":"a"}`, "decode Nested: expected an object"},
		{"path", `{"Tags":[{"TagKey":"a"},{"TagValue":1}]}`, "decode Tags.TagValue: expected a string"},
		{"deep path", `{"Nested":{"EncryptionContextEquals":1}}`, "decode Nested.EncryptionContextEquals: expected an object"},
		{"null in a list", `{"Names":["a",null]}`, "decode Names: expected a value, found null"},
		{"null in a list of structures", `{"Tags":[null]}`, "decode Tags: expected a value, found null"},
		{"null in a map", `{"Context":{"a":null}}`, "decode Context: expected a value, found null"},
		{"wrong type in an early duplicate", `{"KeyId":5,"KeyId":"a"}`, "decode KeyId: expected a string"},
	})
}

func TestDecodeRefusesNumbers(t *testing.T) {
	refuse(t, []refusal{
		{"fraction", `{"Number":10.5}`, "decode Number: expected an integer of 32 bits"},
		{"one too many", `{"Number":2147483648}`, "decode Number: expected an integer of 32 bits"},
		{"one too few", `{"Number":-2147483649}`, "decode Number: expected an integer of 32 bits"},
		{"huge number", `{"Number":1` + strings.Repeat("0", 5000) + `}`, "decode Number: expected an integer of 32 bits"},
		{"beyond any float", `{"Number":1e400}`, "decode Number: expected an integer of 32 bits"},
		{"timestamp beyond any float", `{"Time":1e400}`, "decode Time: expected a timestamp in seconds"},
		{"timestamp in milliseconds", `{"Time":1669973196214}`, "decode Time: expected a timestamp in seconds"},
		{"timestamp before year 1", `{"Time":-62135596801}`, "decode Time: expected a timestamp in seconds"},
		{"NaN", `{"Time":NaN}`, "decode Time: expected a timestamp in seconds"},
		{"infinity", `{"Number":-Infinity}`, "decode Number: invalid number"},
		{"plus sign", `{"Number":+1}`, "decode Number: expected an integer of 32 bits"},
		{"leading zero", `{"Number":01}`, "decode body: expected a comma or the end of a list or object"},
		{"hexadecimal", `{"Number":0x10}`, "decode body: expected a comma or the end of a list or object"},
		{"no digit before the point", `{"Number":.5}`, "decode Number: expected an integer of 32 bits"},
		{"no digit after the point", `{"Number":5.}`, "decode Number: invalid number"},
		{"no exponent", `{"X":5e+}`, "decode body: invalid number"},
		{"number that ends with the body", `{"X":5`, "decode body: expected a comma or the end of a list or object"},
	})
}

func TestDecodeRefusesBase64(t *testing.T) {
	refuse(t, []refusal{
		{"base64 with a line break", `{"Blob":"SGVs\nbG8="}`, "decode Blob: invalid base64"},
		{"base64 with a carriage return", `{"Blob":"SGVsbG8=\r"}`, "decode Blob: invalid base64"},
		{"base64 with a space", `{"Blob":"SGVs bG8="}`, "decode Blob: invalid base64"},
		{"base64url", `{"Blob":"-_-_"}`, "decode Blob: invalid base64"},
		{"base64 without padding", `{"Blob":"SGVsbG8"}`, "decode Blob: invalid base64"},
		{"base64 with padding inside", `{"Blob":"SGU=SGVs"}`, "decode Blob: invalid base64"},
		{"base64 of padding only", `{"Blob":"===="}`, "decode Blob: invalid base64"},
		{"base64 with unused bits set", `{"Blob":"SGVsbG9="}`, "decode Blob: invalid base64"},
		{"unescaped line break", "{\"Blob\":\"SGVs\nbG8=\"}", "decode Blob: control character in a string"},
	})
}

func TestDecodeRefusesText(t *testing.T) {
	refuse(t, []refusal{
		{"text without an end", `{"KeyId":"a`, "decode KeyId: string without an end"},
		{"text that ends in a backslash", `{"KeyId":"a\`, "decode KeyId: string without an end"},
		{"unknown escape", `{"KeyId":"\x41"}`, "decode KeyId: invalid escape sequence"},
		{"short escape", `{"KeyId":"\u004"}`, "decode KeyId: invalid escape sequence"},
		{"escape with a sign", `{"KeyId":"\u+041"}`, "decode KeyId: invalid escape sequence"},
		{"high surrogate alone", `{"KeyId":"\ud83dx"}`, "decode KeyId: surrogate without its partner"},
		{"two high surrogates", `{"KeyId":"\ud83d\ud83d"}`, "decode KeyId: surrogate without its partner"},
		{"low surrogate alone", `{"X":"\ude00"}`, "decode body: surrogate without its partner"},
		{"surrogate in a name", `{"\ude00":1}`, "decode body: surrogate without its partner"},
		{"invalid UTF-8", "{\"X\":\"\xff\"}", "decode body: invalid UTF-8"},
		{"surrogate in UTF-8", "{\"X\":\"\xed\xa0\x80\"}", "decode body: invalid UTF-8"},
		{"control character", "{\"KeyId\":\"a\tb\"}", "decode KeyId: control character in a string"},
	})
}

func TestDecodeRefusesDepth(t *testing.T) {
	require.Equal(t, 32, awsjson.MaxDepth)
	refuse(t, []refusal{
		{"one level too deep", `{"X":` + nested(awsjson.MaxDepth) + `}`, "decode body: nested too deeply"},
		{"a hundred thousand levels", `{"X":` + strings.Repeat("[", 100_000), "decode body: nested too deeply"},
		{"a hundred thousand objects", strings.Repeat(`{"X":`, 100_000), "decode body: nested too deeply"},
	})
}

func TestErrorsQuoteNothing(t *testing.T) {
	const secret = "c2VjcmV0"
	for _, body := range []string{
		`{"Blob":"` + secret + `!"}`, `{"Number":"` + secret + `"}`, `{"` + secret + `":x}`, `{"Context":{"` + secret + `":5}}`,
		`{"KeyId":"` + secret + `\q"}`, `{"Flag":` + secret + `}`, `{} ` + secret,
	} {
		assert.NotContains(t, awsjson.Decode([]byte(body), &everything{}).Error(), secret)
	}
}

func TestDecodedValuesOutliveTheBody(t *testing.T) {
	body := []byte(`{"KeyId":"abc","Blob":"SGVsbG8=","Context":{"k":"v"},"Spec":"unlisted"}`)
	var got everything
	require.NoError(t, awsjson.Decode(body, &got))
	clear(body)
	assert.Equal(t, everything{
		KeyId: aws.String("abc"), Blob: []byte("Hello"), Context: map[string]string{"k": "v"}, Spec: "unlisted",
	}, got)
}

// TestFirstUseByMany lets many goroutines make the plan of a type that none has seen before.
func TestFirstUseByMany(t *testing.T) {
	type unseen struct {
		KeyId *string
		Tags  []types.Tag
	}
	want := unseen{KeyId: aws.String("a"), Tags: []types.Tag{{TagKey: aws.String("b")}}}
	got := make([]unseen, 16)
	var done sync.WaitGroup
	for i := range got {
		done.Go(func() {
			assert.NoError(t, awsjson.Decode([]byte(`{"KeyId":"a","Tags":[{"TagKey":"b"}]}`), &got[i]))
		})
	}
	done.Wait()
	for i := range got {
		assert.Equal(t, want, got[i])
	}
}

// TestTextOfAllLengths puts each special byte at each place of a machine word, among bytes one off from special ones.
func TestTextOfAllLengths(t *testing.T) {
	const around = "!#[]~ \x7féé!#[]~ \x7féé"
	decode := func(text string) (string, error) {
		var got everything
		err := awsjson.Decode([]byte(`{"KeyId":"`+text+`"}`), &got)
		return aws.ToString(got.KeyId), err
	}
	for n := range around {
		before, after := around[:n], around[n:]
		got, err := decode(before + `\"` + after)
		require.NoError(t, err)
		assert.Equal(t, before+`"`+after, got)
		for _, control := range []string{"\x00", "\n", "\x1f"} {
			_, err = decode(before + control + after)
			assert.EqualError(t, err, "decode KeyId: control character in a string")
		}
		_, err = decode(before + `"` + after)
		assert.Error(t, err, "a quote ends the text")
		got, err = decode(before)
		require.NoError(t, err)
		assert.Equal(t, before, got)
	}
}
