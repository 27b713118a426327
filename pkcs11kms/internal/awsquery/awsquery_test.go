package awsquery_test

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/awsquery"
)

type tag struct {
	Key   *string `query:"required"`
	Value *string
}

type page struct{ MaxItems *int32 }

type input struct {
	Name *string `query:"required"`
	On   *bool
	Tags []tag
	Keys []string
	ARN  *string `query:"arn"`
	page
}

func read(t *testing.T, form string) (in input, err error) {
	t.Helper()
	call, err := awsquery.Parse([]byte(form))
	if err == nil {
		err = call.Decode(&in)
	}
	return in, err
}

func ptr[T any](v T) *T { return &v }

// Forms as botocore sends them (its tests of the query protocol), and what AWS does with what it does not send.
func TestDecode(t *testing.T) {
	for form, want := range map[string]input{
		"Action=X&Version=1&Name=a%2Bb+c%C3%BC": {Name: ptr("a+b cü")},
		"Name=":                                 {Name: ptr("")},
		"Name=a&Name=b&Other=1":                 {Name: ptr("a")},
		"Name=a&arn=x&ARN=y":                    {Name: ptr("a"), ARN: ptr("x")},
		"Name=a&On=TRUE&MaxItems=7":             {Name: ptr("a"), On: ptr(true), page: page{ptr(int32(7))}},
		"Name=a&Tags=&Keys=":                    {Name: ptr("a"), Tags: []tag{}, Keys: []string{}},
		"Name=a&Keys.member.2=y&Keys.member.1=x&Keys.member.10=z": {Name: ptr("a"), Keys: []string{"x", "y", "z"}},
		"Name=a&Tags.member.1.Key=k&Tags.member.1.Value=&Tags.member.3.Key=l": {Name: ptr("a"),
			Tags: []tag{{ptr("k"), ptr("")}, {ptr("l"), nil}}},
	} {
		in, err := read(t, form)
		require.NoError(t, err, form)
		require.Equal(t, want, in, form)
	}
}

func TestMissingMembers(t *testing.T) {
	_, err := read(t, "Tags.member.1.Value=v&Tags.member.2.Key=k")
	missing, ok := errors.AsType[*awsquery.MissingError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, []string{"name", "tags.1.member.key"}, missing.Members)
}

func TestWrongValues(t *testing.T) {
	for form, parameter := range map[string]string{
		"Name=a&MaxItems=": "MaxItems", "Name=a&MaxItems=x": "MaxItems", "Name=a&MaxItems=99999999999": "MaxItems", "Name=a&On=1": "On",
		"Name=a&Keys.member.0=x": "Keys.member.0", "Name=a&Keys.member.x=x": "Keys.member.x", "Name=a&Keys.member.-1=x": "Keys.member.-1",
	} {
		_, err := read(t, form)
		wrong, ok := errors.AsType[*awsquery.ValueError](err)
		require.True(t, ok, "%s: %v", form, err)
		require.Equal(t, parameter, wrong.Parameter)
	}
	for _, form := range []string{"Name=%zz", "%f=a", "Name=%ff", strings.Repeat("a&", 3) + manyParameters()} {
		_, err := read(t, form)
		require.ErrorIs(t, err, awsquery.ErrMalformed)
	}
}

func manyParameters() string {
	var b strings.Builder
	for i := range 1001 {
		b.WriteString("&Keys.member.")
		b.WriteString(strings.Repeat("1", 1+i%7))
		b.WriteString(strings.Repeat("0", i/7))
		b.WriteString("=x")
	}
	return b.String()
}

// The sample answer to CreateUser of the IAM API reference, without the blanks between its elements.
func TestEncode(t *testing.T) {
	type user struct {
		Path, UserName, UserId, Arn string
		CreateDate                  time.Time
		Tags                        []tag
	}
	out := struct{ User *user }{&user{Path: "/division_abc/subdivision_xyz/", UserName: "Bob", UserId: "AIDACKCEVSQ6C2EXAMPLE",
		Arn: "arn:aws:iam::123456789012:user/division_abc/subdivision_xyz/Bob"}}
	const begin = `<CreateUserResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><CreateUserResult><User>` +
		`<Path>/division_abc/subdivision_xyz/</Path><UserName>Bob</UserName><UserId>AIDACKCEVSQ6C2EXAMPLE</UserId>` +
		`<Arn>arn:aws:iam::123456789012:user/division_abc/subdivision_xyz/Bob</Arn>`
	const end = `</User></CreateUserResult><ResponseMetadata><RequestId>7a62c49f-347e-4fc4-9331-6e8eEXAMPLE</RequestId>` +
		`</ResponseMetadata></CreateUserResponse>`
	encode := func() string {
		return string(awsquery.Encode("CreateUser", "https://iam.amazonaws.com/doc/2010-05-08/", "7a62c49f-347e-4fc4-9331-6e8eEXAMPLE", &out))
	}
	require.Equal(t, begin+end, encode())
	out.User.CreateDate = time.Date(2011, 9, 1, 23, 59, 59, 0, time.FixedZone("", 3600))
	out.User.Tags = []tag{{ptr("<k>&"), ptr("")}}
	require.Equal(t, begin+`<CreateDate>2011-09-01T22:59:59Z</CreateDate>`+
		`<Tags><member><Key>&lt;k&gt;&amp;</Key><Value></Value></member></Tags>`+end, encode())
	require.Equal(t, `<DeleteUserResponse xmlns="n"><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></DeleteUserResponse>`,
		string(awsquery.Encode[input]("DeleteUser", "n", "r", nil)))
	list := struct {
		Names       []string
		IsTruncated bool
		page
	}{Names: []string{"a", ""}, page: page{ptr(int32(3))}}
	require.Equal(t, `<XResponse xmlns="n"><XResult><Names><member>a</member><member></member></Names><IsTruncated>false</IsTruncated>`+
		`<MaxItems>3</MaxItems></XResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></XResponse>`,
		string(awsquery.Encode("X", "n", "r", &list)))
}

func TestEncodeError(t *testing.T) {
	require.Equal(t, `<ErrorResponse xmlns="n"><Error><Type>Sender</Type><Code>C</Code><Message>&lt;m&gt;</Message></Error><RequestId>r`+
		`</RequestId></ErrorResponse>`, string(awsquery.EncodeError("n", "r", true, "C", ptr("<m>"))))
	require.Equal(t, `<ErrorResponse xmlns="n"><Error><Type>Receiver</Type><Code>C</Code></Error><RequestId>r</RequestId></ErrorResponse>`,
		string(awsquery.EncodeError("n", "r", false, "C", nil)))
}

// Whatever is read can be written, as XML that is well-formed.
func FuzzQuery(f *testing.F) {
	for _, form := range []string{"Action=X&Version=1&Name=a%2Bb", "Name=a&Tags.member.1.Key=k&Keys.member.2=y", "Name=%00&Keys=", "Name=%zz",
		"Tags.member.1.member.1.Key=x&Name.member.1=a"} {
		f.Add(form)
	}
	f.Fuzz(func(t *testing.T, form string) {
		call, err := awsquery.Parse([]byte(form))
		if err != nil {
			return
		}
		var in input
		if call.Decode(&in) != nil {
			return
		}
		text := awsquery.Encode("X", "n", "r", &in)
		for dec := xml.NewDecoder(strings.NewReader(string(text))); ; {
			if _, err := dec.Token(); err != nil {
				assert.ErrorIs(t, err, io.EOF, "%s", text)
				return
			}
		}
	})
}
