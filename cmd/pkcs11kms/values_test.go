package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func tempFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestBlobs(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"base64", "AP8=", "\x00\xff"},
		{"empty", "", ""},
		{"bytes of a file", "fileb://" + tempFile(t, "\x00\xff\n"), "\x00\xff\n"},
		{"base64 of a file", "file://" + tempFile(t, "AP8=\n"), "\x00\xff"},
		{"wrapped base64 of a file", "file://" + tempFile(t, "QUJD\nREVG\n"), "ABCDEF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := loadBlob(tc.value)
			require.NoError(t, err)
			assert.Equal(t, tc.want, string(got))
		})
	}
}

func TestBlobsThatAreNone(t *testing.T) {
	for _, value := range []string{"hello!", "AP8", "AP9=", "_-8=", "AP8=AP8=", " AP8=", "file://" + tempFile(t, "secret!"),
		"file:///nonexistent", "fileb:///nonexistent", "fileb://" + t.TempDir()} {
		_, err := loadBlob(value)
		require.Error(t, err, value)
		assert.NotContains(t, err.Error(), "hello")
		assert.NotContains(t, err.Error(), "secret")
	}
	_, err := loadBlob("hello!")
	assert.Contains(t, hintOf(err), "fileb://")
}

func TestEndlessFileIsCut(t *testing.T) {
	got, err := loadBlob("fileb:///dev/zero")
	require.NoError(t, err)
	assert.Len(t, got, maxFile)
}

func TestTexts(t *testing.T) {
	got, err := loadText("plain")
	require.NoError(t, err)
	assert.Equal(t, "plain", got)
	got, err = loadText("file://" + tempFile(t, "tëxt\n"))
	require.NoError(t, err)
	assert.Equal(t, "tëxt\n", got)
	for _, value := range []string{"file:///nonexistent", "file://" + tempFile(t, "\xff"), "fileb://" + tempFile(t, "x")} {
		_, err := loadText(value)
		assert.Error(t, err, value)
	}
}

func TestSpreadLists(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"describe-key --grant-tokens a b --key-id k", "describe-key --grant-tokens=a --grant-tokens=b --key-id k"},
		{"create-key --tags A=1", "create-key --tags=A=1"},
		{"create-key --tags", "create-key --tags"},
		{"create-key --tags --key-spec X", "create-key --tags --key-spec X"},
		{"create-key --tags=a b", "create-key --tags=a b"},
		{"mac -- --tags a b", "mac -- --tags a b"},
		{"list-keys", "list-keys"},
	} {
		assert.Equal(t, strings.Fields(tc.want), spreadLists(strings.Fields(tc.args)))
	}
	assert.Empty(t, spreadLists(nil))
}

func TestTags(t *testing.T) {
	tag := func(key, value string) types.Tag {
		return types.Tag{TagKey: aws.String(key), TagValue: aws.String(value)}
	}
	for _, tc := range []struct {
		raw  []string
		want []types.Tag
	}{
		{[]string{"TagKey=a,TagValue=b"}, []types.Tag{tag("a", "b")}},
		{[]string{"TagKey=a,TagValue=b", "TagValue=,TagKey=c"}, []types.Tag{tag("a", "b"), tag("c", "")}},
		{[]string{"TagKey=a=b,TagValue=c=d"}, []types.Tag{tag("a=b", "c=d")}},
		{[]string{"TagKey=a"}, []types.Tag{{TagKey: aws.String("a")}}},
		{[]string{` [{"TagKey":"a,b","TagValue":"c"}]`}, []types.Tag{tag("a,b", "c")}},
		{[]string{"file://" + tempFile(t, `[{"TagKey":"a","TagValue":"b"}]`)}, []types.Tag{tag("a", "b")}},
		{[]string{"[]"}, []types.Tag{}},
		{[]string{`TagKey=a,TagValue="c, d"`}, []types.Tag{tag("a", "c, d")}},
		{[]string{`TagKey='a "b"',TagValue=c\,d`}, []types.Tag{tag(`a "b"`, "c,d")}},
		{[]string{`TagValue="it\"s",TagKey="C:\"`}, []types.Tag{tag(`C:\`, `it"s`)}},
		{[]string{`TagKey="C:\",TagValue="a"`}, nil}, // as with the aws CLI
		{[]string{"TagKey = a , TagValue = b "}, []types.Tag{tag("a", "b")}},
		{[]string{"TagKey=a,TagValue@=file://" + tempFile(t, "b, c")}, []types.Tag{tag("a", "b, c")}},
		{[]string{"TagKey=a,TagValue=file://b"}, []types.Tag{tag("a", "file://b")}},
		{[]string{"file://" + tempFile(t, `TagKey=a,TagValue="b, c"`)}, []types.Tag{tag("a", "b, c")}},
		{[]string{`{"TagKey":"a","TagValue":"b"}`}, []types.Tag{tag("a", "b")}},
		{[]string{`{"TagKey":"a","TagValue":"b"}`, `TagKey=c,TagValue={`, ` {"TagKey":"e"}`}, nil},
		{[]string{`{"TagKey":"a","TagValue":"b"}`, `TagKey=c,TagValue=d`}, []types.Tag{tag("a", "b"), tag("c", "d")}},
	} {
		got, err := parseTags(tc.raw)
		if tc.want == nil {
			assert.Error(t, err, "%q", tc.raw)
			continue
		}
		require.NoError(t, err, "%q", tc.raw)
		assert.Equal(t, tc.want, got)
	}
	for _, raw := range []string{"", "a", "TagKey=a,TagValue=b,TagKey=c", "Key=a,Value=b", "TagKey=a,TagValue=b,c", "TagKey=a,TagValue={b=c}",
		"TagKey=a,TagValue=[b]", `TagKey="a`, "TagKey=a,TagValue@=file:///nonexistent", `{"Key":"a"}`, `{"TagKey":"a"}x`,
		`[{"Key":"a"}]`, `[]x`, "[", "file:///nonexistent"} {
		_, err := parseTags([]string{raw})
		assert.Error(t, err, raw)
	}
}

func TestLists(t *testing.T) {
	for _, tc := range []struct{ raw, want []string }{
		{[]string{"a", "b"}, []string{"a", "b"}},
		{[]string{"a,b"}, []string{"a,b"}},
		{[]string{`["a","b"]`}, []string{"a", "b"}},
		{[]string{`[]`}, []string{}},
	} {
		got, err := parseList(tc.raw)
		require.NoError(t, err)
		assert.Equal(t, tc.want, got)
	}
	_, err := parseList([]string{`[1]`})
	assert.Error(t, err)
}

// flagsOf parses a command line for the flags that define declares.
func flagsOf(t *testing.T, define func(*input), args ...string) error {
	t.Helper()
	cmd := &cobra.Command{Use: "verb"}
	in := newInput(cmd)
	define(in)
	require.NoError(t, cmd.ParseFlags(args))
	return in.parse()
}

func TestFlagsThatAreNotGivenLeaveTheirMembersAlone(t *testing.T) {
	var text *string
	var blob []byte
	var spec types.KeySpec
	var number *int32
	var list []string
	calls := 0
	define := func(in *input) {
		in.text(&text, "text", "")
		in.blob(&blob, "blob", "")
		enum(in, &spec, "spec", "", spec.Values())
		in.number(&number, "number", "")
		in.list(&list, "list", "")
		in.boolean(func(bool) { calls++ }, "on", "")
	}
	require.NoError(t, flagsOf(t, define))
	assert.Nil(t, text)
	assert.Nil(t, blob)
	assert.Empty(t, spec)
	assert.Nil(t, number)
	assert.Nil(t, list)
	assert.Zero(t, calls)

	require.NoError(t, flagsOf(t, define, "--text", "", "--blob", "", "--spec=NONE", "--number=0", "--list=a", "--list=b", "--on"))
	assert.Equal(t, aws.String(""), text, "given, though empty: the service decides")
	assert.NotNil(t, blob)
	assert.Equal(t, types.KeySpec("NONE"), spec, "unknown values are the service's to refuse")
	assert.Equal(t, aws.Int32(0), number)
	assert.Equal(t, []string{"a", "b"}, list)
	assert.Equal(t, 1, calls)
}

func TestPairsOfBooleans(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want bool
	}{
		{[]string{"--dry-run"}, true}, {[]string{"--no-dry-run"}, false},
		{[]string{"--dry-run=false"}, false}, {[]string{"--no-dry-run=false"}, true},
	} {
		var got *bool
		require.NoError(t, flagsOf(t, func(in *input) { in.boolean(func(on bool) { got = &on }, "dry-run", "") }, tc.args...))
		assert.Equal(t, aws.Bool(tc.want), got, "%q", tc.args)
	}
	err := flagsOf(t, func(in *input) { in.boolean(func(bool) {}, "dry-run", "") }, "--dry-run", "--no-dry-run")
	assert.EqualError(t, err, "argument --dry-run: cannot be given together with --no-dry-run")
}

func TestErrorsOfFlagsShowNoValue(t *testing.T) {
	var blob []byte
	err := flagsOf(t, func(in *input) { in.blob(&blob, "message", "") }, "--message", "hello!")
	assert.EqualError(t, err, "argument --message: is not base64")
}

func TestMissingFlagsAreNamedTogether(t *testing.T) {
	var a, b, c *string
	err := flagsOf(t, func(in *input) {
		in.text(&a, "one", "")
		in.text(&b, "two", "")
		in.text(&c, "three", "")
		in.require("three", "one", "two")
	}, "--one=1")
	assert.EqualError(t, err, "the following arguments are required: --three, --two")
}

func TestRecipients(t *testing.T) {
	want := types.RecipientInfo{KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_256", AttestationDocument: []byte{0, 0, 0}}
	for _, text := range []string{
		"KeyEncryptionAlgorithm=RSAES_OAEP_SHA_256,AttestationDocument=AAAA",
		"AttestationDocument=AAAA,KeyEncryptionAlgorithm=RSAES_OAEP_SHA_256",
		`{"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": "AAAA"}`,
		`KeyEncryptionAlgorithm="RSAES_OAEP_SHA_256",AttestationDocument='AAAA'`,
		"KeyEncryptionAlgorithm=RSAES_OAEP_SHA_256,AttestationDocument@=fileb://" + tempFile(t, "\x00\x00\x00"),
		"file://" + tempFile(t, "KeyEncryptionAlgorithm=RSAES_OAEP_SHA_256,AttestationDocument=AAAA"),
	} {
		got, err := parseRecipient(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, *got, text)
	}
	for _, text := range []string{"", "AAAA", "Algorithm=x", "AttestationDocument=!", "AttestationDocument=AAAA,AttestationDocument=AAAA",
		"AttestationDocument=AAAA,AAAA", `{"Other": 1}`, "file:///no/such/file"} {
		_, err := parseRecipient(text)
		assert.Error(t, err, text)
	}
}

func TestTagsOfIAM(t *testing.T) {
	want := []keystore.Tag{{Key: "a", Value: "b=c"}, {Key: "d", Value: ""}}
	for _, raw := range [][]string{{"Key=a,Value=b=c", "Value=,Key=d"}, {`Key="a",Value='b=c'`, `{"Value": "", "Key": "d"}`},
		{`[{"Key": "a", "Value": "b=c"}, {"Value": "", "Key": "d"}]`}} {
		got, err := parseIAMTags(raw)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	for _, raw := range []string{"", "a", "Key=a", "Value=b", "Key=a,Value=b,Key=c", "TagKey=a,TagValue=b", `[{"Key": "a"}]`,
		`[{"Value": "b"}]`, `[{"Key": "a", "Value": "b", "More": "c"}]`, `[null]`, `[`} {
		_, err := parseIAMTags([]string{raw})
		assert.Error(t, err, raw)
	}
}
