package keyid_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/keyid"
)

const (
	uuid = "1234abcd-12ab-34cd-56ef-1234567890ab"
	mrk  = "mrk-1234abcd12ab34cd56ef1234567890ab"
	here = "arn:aws:kms:us-west-2:111122223333:"
)

var home = keyid.Home{Partition: "aws", Region: "us-west-2", Account: "111122223333"}

func TestParse(t *testing.T) {
	at := func(account, key, alias string) keyid.ID {
		return keyid.ID{Region: home.Region, Account: account, Key: key, Alias: alias}
	}
	for text, want := range map[string]keyid.ID{
		uuid:                          at(home.Account, uuid, ""),
		mrk:                           at(home.Account, mrk, ""),
		here + "key/" + uuid:          at(home.Account, uuid, ""),
		here + "key/" + mrk:           at(home.Account, mrk, ""),
		"alias/a/b":                   at(home.Account, "", "alias/a/b"),
		here + "alias/name":           at(home.Account, "", "alias/name"),
		here + "alias/with:colon/and": at(home.Account, "", "alias/with:colon/and"),
		"arn:aws:kms:us-west-2:000000000001:key/" + uuid: at("000000000001", uuid, ""),
	} {
		got, err := keyid.Parse(text, home, true)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
	}
}

func TestRefusals(t *testing.T) {
	for text, arn := range map[string]bool{
		"": false, " ": false, uuid + " ": false, uuid + "\n": false, "1234ABCD-12ab-34cd-56ef-1234567890ab": false, "mrk-" + uuid: false,
		"key/" + uuid: false, here + "key/": false, here + "key/" + uuid + ":x": false, "Arn:aws:kms:us-west-2:111122223333:key/" + uuid: false,
		"arn:aws:kms:eu-west-1:111122223333:key/" + uuid: false, // NotFoundException, as recorded
		"arn:": true, "arn:aws:kms": true, "arn:aws:kms:us-west-2:111122223333": true, "arn:aws:kms:us-west-2:11112222333:key/" + uuid: true,
		here + uuid: true, here + "grant/x": true, "arn:aws-cn:kms:us-west-2:111122223333:key/" + uuid: true,
		"arn:aws:s3:us-west-2:111122223333:key/" + uuid: true,
	} {
		_, err := keyid.Parse(text, home, true)
		var refused *keyid.Error
		require.ErrorAs(t, err, &refused, "%q", text)
		require.Equal(t, arn, refused.ARN, "%q", text)
		require.NotEmpty(t, refused.Text)
	}
	for _, alias := range []string{"alias/name", here + "alias/name"} {
		_, err := keyid.Parse(alias, home, false)
		require.EqualError(t, err, "Invalid keyId '"+alias+"'", "where no alias is taken")
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{uuid, mrk, here + "key/" + uuid, "alias/x", here + "alias/x", "arn:aws:kms:::", "mrk-", "arn:", "alias/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := keyid.Parse(text, home, true)
		if err != nil {
			var refused *keyid.Error
			require.ErrorAs(t, err, &refused)
			return
		}
		again, err := keyid.Parse(id.ARN(home.Partition), home, true)
		require.NoError(t, err)
		require.Equal(t, id, again, "the ARN of what was read means the same")
	})
}
