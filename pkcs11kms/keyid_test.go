package pkcs11kms

import (
	"testing"

	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"
)

func offlineClient() *Client {
	b := &Bridge{cfg: Config{AccountID: testAccount, Partition: "aws"}}
	return &Client{bridge: b, region: &region{name: testRegion}, caller: b.Root()}
}

func TestParseKeyID(t *testing.T) {
	c := offlineClient()
	const mrk = "mrk-1234abcd12ab34cd56ef1234567890ab"
	local := keyID{region: testRegion, account: testAccount}
	key := func(id string) keyID { k := local; k.id = id; return k }
	alias := func(name string) keyID { k := local; k.alias = name; return k }
	for text, want := range map[string]keyID{
		unknownID:        key(unknownID),
		mrk:              key(mrk),
		arnOf(unknownID): key(unknownID),
		arnOf(mrk):       key(mrk),
		"alias/a/b":      alias("alias/a/b"),
		"arn:aws:kms:us-west-2:111122223333:alias/name":           alias("alias/name"),
		"arn:aws:kms:us-west-2:000000000001:key/" + unknownID:     {region: testRegion, account: "000000000001", id: unknownID},
		"arn:aws:kms:us-west-2:111122223333:alias/with:colon/and": alias("alias/with:colon/and"),
	} {
		got, err := c.parseKeyID(text, true)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
	}
	for _, text := range []string{"", " ", unknownID + " ", unknownID + "\n", "1234ABCD-12ab-34cd-56ef-1234567890ab", "mrk-" + unknownID, "key/" + unknownID,
		"arn:", "arn:aws:kms", "arn:aws:kms:us-west-2:111122223333", "arn:aws:kms:us-west-2:11112222333:key/" + unknownID,
		"arn:aws:kms:us-west-2:111122223333:key/", "arn:aws:kms:us-west-2:111122223333:key/" + unknownID + ":x",
		"arn:aws:kms:us-west-2:111122223333:" + unknownID, "Arn:aws:kms:us-west-2:111122223333:key/" + unknownID} {
		_, err := c.parseKeyID(text, true)
		require.Error(t, err, "%q", text)
	}
}

func FuzzParseKeyID(f *testing.F) {
	for _, seed := range []string{unknownID, arnOf(unknownID), "alias/x", "arn:aws:kms:us-west-2:111122223333:alias/x", "arn:aws:kms:::", "mrk-"} {
		f.Add(seed)
	}
	c := offlineClient()
	f.Fuzz(func(t *testing.T, text string) {
		id, err := c.parseKeyID(text, true)
		if err != nil {
			var api smithy.APIError
			require.ErrorAs(t, err, &api)
			return
		}
		again, err := c.parseKeyID(c.arn(id), true)
		require.NoError(t, err)
		require.Equal(t, id, again, "the ARN of what was read means the same")
	})
}

func TestMarker(t *testing.T) {
	want := marker{Op: "ListKeys", Region: testRegion, Account: testAccount}
	m := want
	m.After = unknownID
	got, err := parseMarker(m.String(), want)
	require.NoError(t, err)
	require.Equal(t, m, got)
	text := m.String()
	for i := range text {
		damaged := []byte(text)
		damaged[i] ^= 1
		_, err := parseMarker(string(damaged), want)
		requireAPIError(t, err, "InvalidMarkerException", "The marker is not one that this operation returned.")
	}
	for _, other := range []marker{{Op: "ListAliases", Region: testRegion, Account: testAccount}, {Op: "ListKeys", Region: "us-east-1", Account: testAccount},
		{Op: "ListKeys", Region: testRegion, Account: "999999999999"}} {
		_, err := parseMarker(text, other)
		require.Error(t, err, "the marker of another list")
	}
	for _, junk := range []string{"", "A", text + "=", text + "AAAA", text[:len(text)-2]} {
		_, err := parseMarker(junk, want)
		require.Error(t, err)
	}
}
