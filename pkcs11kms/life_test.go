package pkcs11kms

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func createAlias(t testing.TB, c *Client, name string, keyID *string) {
	t.Helper()
	_, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: keyID})
	require.NoError(t, err)
}

// aliasesOf returns the names of a key's aliases; of all when keyID is nil.
func aliasesOf(t testing.TB, c *Client, keyID *string) []string {
	t.Helper()
	out, err := c.ListAliases(t.Context(), &kms.ListAliasesInput{KeyId: keyID, Limit: aws.Int32(100)})
	require.NoError(t, err)
	names := []string{}
	for _, a := range out.Aliases {
		names = append(names, *a.AliasName)
	}
	return names
}

func tag(t testing.TB, c *Client, keyID *string, pairs ...string) {
	t.Helper()
	var tags []types.Tag
	for i := 0; i < len(pairs); i += 2 {
		tags = append(tags, types.Tag{TagKey: &pairs[i], TagValue: &pairs[i+1]})
	}
	_, err := c.TagResource(t.Context(), &kms.TagResourceInput{KeyId: keyID, Tags: tags})
	require.NoError(t, err)
}

func tagsOf(t testing.TB, c *Client, keyID *string) []string {
	t.Helper()
	out, err := c.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: keyID})
	require.NoError(t, err)
	require.False(t, out.Truncated)
	tags := []string{}
	for _, tag := range out.Tags {
		tags = append(tags, *tag.TagKey+"="+*tag.TagValue)
	}
	return tags
}

func describe(t testing.TB, c *Client, keyID *string) *types.KeyMetadata {
	t.Helper()
	out, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: keyID})
	require.NoError(t, err)
	return out.KeyMetadata
}

// The documented way to rotate by hand: callers by the alias use the new key at once, old tags verify by the old id.
func TestRotationByAlias(t *testing.T) {
	c := newClient(t)
	first, second := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/tokens", first.Arn)
	byName, byARN := ptr("alias/tokens"), ptr("arn:aws:kms:us-west-2:111122223333:alias/tokens")
	old, err := generate(t.Context(), c, byName, []byte("m"))
	require.NoError(t, err)
	require.NoError(t, verify(t.Context(), c, byARN, []byte("m"), old))
	require.Equal(t, *first.KeyId, *describe(t, c, byName).KeyId)

	_, err = c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: byName, TargetKeyId: second.KeyId})
	require.NoError(t, err)
	out, err := c.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: byName, MacAlgorithm: "HMAC_SHA_256", Message: []byte("m")})
	require.NoError(t, err)
	require.Equal(t, *second.Arn, *out.KeyId)
	requireAPIError(t, verify(t.Context(), c, byName, []byte("m"), old), "KMSInvalidMacException", "")
	require.NoError(t, verify(t.Context(), c, first.KeyId, []byte("m"), old))
	require.Empty(t, aliasesOf(t, c, first.KeyId))
	require.Equal(t, []string{"alias/tokens"}, aliasesOf(t, c, second.KeyId))
}

func TestAliasAnswers(t *testing.T) {
	cfg := newConfig(t)
	cfg.Quotas.AliasesPerKey = 3
	clk := newClock()
	cfg.Now = clk.Now
	c := openClient(t, cfg)
	key, other := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac512)
	create := func(name, target string) error {
		_, err := c.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &target})
		return err
	}
	update := func(name, target string) error {
		_, err := c.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: &name, TargetKeyId: &target})
		return err
	}
	drop := func(name string) error {
		_, err := c.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: &name})
		return err
	}
	const arn = "arn:aws:kms:us-west-2:111122223333:alias/"
	prefix := `Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`
	requireAPIError(t, create("name", *key.KeyId), "ValidationException", prefix)
	requireAPIError(t, create("alias/", *key.KeyId), "ValidationException", prefix)
	requireAPIError(t, create(arn+"x", *key.KeyId), "ValidationException", prefix)
	requireAPIError(t, create("alias/aws/x", *key.KeyId), "NotAuthorizedException", "")
	requireAPIError(t, create("alias/a:b", *key.KeyId), "ValidationException", "alias/a:b contains invalid characters for an alias")
	requireAPIError(t, create("alias/a b", *key.KeyId), "ValidationException",
		"1 validation error detected: Value 'alias/a b' at 'aliasName' failed to satisfy constraint: "+
			"Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$")
	requireAPIError(t, create("alias/x", "alias/y"), "ValidationException", "Aliases must refer to keys. Not aliases")
	requireAPIError(t, create("alias/x", unknownID), "NotFoundException", "Key '"+arnOf(unknownID)+"' does not exist")
	requireAPIError(t, update("alias/x", *key.KeyId), "NotFoundException", "Alias "+arn+"x is not found.")
	requireAPIError(t, drop("alias/x"), "NotFoundException", "Alias "+arn+"x is not found.")

	require.NoError(t, create("alias/x", *key.Arn))
	requireAPIError(t, create("alias/x", *other.KeyId), "AlreadyExistsException", "An alias with the name "+arn+"x already exists")
	require.NoError(t, create("alias/X", *other.KeyId), "names are case-sensitive")
	made := c.aliasEntryOf(t, "alias/x")
	require.Equal(t, *key.KeyId, *made.TargetKeyId, "the bare id, although the ARN was sent")
	require.Equal(t, arn+"x", *made.AliasArn)
	clk.Advance(time.Hour)
	require.NoError(t, update("alias/x", *other.KeyId), "another spec of the same kind")
	moved := c.aliasEntryOf(t, "alias/x")
	require.Equal(t, *made.CreationDate, *moved.CreationDate)
	require.Equal(t, time.Hour, moved.LastUpdatedDate.Sub(*made.LastUpdatedDate))

	require.NoError(t, create("alias/z", *other.KeyId))
	limit := "The key has reached its limit of 3 aliases."
	requireAPIError(t, create("alias/w", *other.KeyId), "LimitExceededException", limit)
	require.NoError(t, create("alias/w", *key.KeyId))
	requireAPIError(t, update("alias/w", *other.KeyId), "LimitExceededException", limit)
	require.NoError(t, update("alias/x", *other.KeyId), "where it is already")
	require.NoError(t, drop("alias/X"))
	require.NoError(t, update("alias/w", *other.KeyId))
	require.Equal(t, []string{"alias/w", "alias/x", "alias/z"}, aliasesOf(t, c, nil))

	signing := putForeignKey(t, c)
	err := update("alias/w", signing)
	require.ErrorContains(t, err, "ValidationException")
}

func (c *Client) aliasEntryOf(t *testing.T, name string) types.AliasListEntry {
	out, err := c.ListAliases(t.Context(), nil)
	require.NoError(t, err)
	for _, entry := range out.Aliases {
		if *entry.AliasName == name {
			return entry
		}
	}
	t.Fatalf("no alias %s", name)
	return types.AliasListEntry{}
}

func TestTagAnswers(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	add := func(pairs ...string) error {
		tags := []types.Tag{}
		for i := 0; i < len(pairs); i += 2 {
			tags = append(tags, types.Tag{TagKey: &pairs[i], TagValue: &pairs[i+1]})
		}
		_, err := c.TagResource(t.Context(), &kms.TagResourceInput{KeyId: key.KeyId, Tags: tags})
		return err
	}
	requireAPIError(t, add("a", "1", "a", "2"), "TagException", "Duplicate tag keys")
	requireAPIError(t, add("AwS:x", "1"), "TagException", "Tags beginning with aws: are reserved")
	require.NoError(t, add("aws", "1", "e", ""))
	require.NoError(t, add("aws", "2"))
	require.Equal(t, []string{"aws=2", "e="}, tagsOf(t, c, key.KeyId))
	var many []string
	for i := range 48 {
		many = append(many, fmt.Sprintf("t%02d", i), "v")
	}
	require.NoError(t, add(many...))
	requireAPIError(t, add("one more", ""), "TagException", "Too many tags")
	require.NoError(t, add("t00", "changed"), "at the limit, a tag can be changed")
	_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC",
		Tags: []types.Tag{{TagKey: ptr("aws:x"), TagValue: ptr("")}}})
	requireAPIError(t, err, "TagException", "Tags beginning with aws: are reserved")

	var got []string
	var marker *string
	for {
		out, err := c.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: key.KeyId, Limit: aws.Int32(7), Marker: marker})
		require.NoError(t, err)
		for _, tag := range out.Tags {
			got = append(got, *tag.TagKey)
		}
		if marker = out.NextMarker; !out.Truncated {
			break
		}
	}
	require.Len(t, got, 50)
	require.IsIncreasing(t, got)
}

func TestKeyQuota(t *testing.T) {
	cfg := newConfig(t)
	cfg.Quotas.Keys = 2
	c := openClient(t, cfg)
	mustCreate(t, c, types.KeySpecHmac256)
	mustCreate(t, c, types.KeySpecHmac256)
	_, err := createHMAC256(t.Context(), c)
	requireAPIError(t, err, "LimitExceededException", "The account has reached its limit of 2 keys in the region.")
	requireNothingHalfMade(t, c, 2)
	rec, err := c.bridge.core.Store.Get(t.Context(), keystore.CounterRef(testRegion, testAccount, keystore.CounterKeys))
	require.NoError(t, err)
	counter, err := keystore.DecodeCounter(rec)
	require.NoError(t, err)
	require.Equal(t, 2, counter.N)
}

func TestRates(t *testing.T) {
	cfg := newConfig(t)
	clk := newClock()
	cfg.Now = clk.Now
	cfg.Quotas.NoRates = false
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	for range 4 {
		mustCreate(t, c, types.KeySpecHmac256)
	}
	_, err := createHMAC256(t.Context(), c)
	requireAPIError(t, err, "ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.")
	require.NoError(t, toggle(t.Context(), c, key.KeyId, false), "another bucket")
	clk.Advance(200 * time.Millisecond)
	mustCreate(t, c, types.KeySpecHmac256)
}

// A new tag is made of the characters that AWS documents for tags; what a key got before that rule was held stays readable, and
// can be removed.
func TestTagsAreMadeOfTheirCharacters(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	const text = "A tag has a character that tags may not have. Use letters, digits, blanks and + - = . _ : / @"
	for _, bad := range []string{"\x00", "a\x1b[31m", "a\nb", "a\tb", "*", "a*", "a,b", "(", "\"", "\\", "é\u0301", "\u200b", "\u202e",
		"\U0001f600", "a\r"} {
		requireAPIError(t, tagWith(t, c, key.KeyId, bad, "v"), "TagException", text)
		requireAPIError(t, tagWith(t, c, key.KeyId, "k", bad), "TagException", text)
		_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac,
			Tags: []types.Tag{{TagKey: ptr("k"), TagValue: &bad}}})
		requireAPIError(t, err, "TagException", text)
	}
	require.Empty(t, tagsOf(t, c, key.KeyId))
	for _, good := range []string{"Team 1", "a+b-c=d.e_f:g/h@i", "Übung", "部門", "٣", " "} {
		require.NoError(t, tagWith(t, c, key.KeyId, good, good))
	}

	record, version := storedKey(t, c, key.KeyId)
	record.Tags = []keystore.Tag{{Key: "esc\x1b", Value: "*"}, {Key: "k", Value: "v"}}
	_, err := c.bridge.core.Cache.Commit(t.Context(), record.Put(version))
	require.NoError(t, err)
	require.Equal(t, []string{"esc\x1b=*", "k=v"}, tagsOf(t, c, key.KeyId))
	require.NoError(t, tagWith(t, c, key.KeyId, "k", "w"))
	require.Equal(t, []string{"esc\x1b=*", "k=w"}, tagsOf(t, c, key.KeyId))
	_, err = c.UntagResource(t.Context(), &kms.UntagResourceInput{KeyId: key.KeyId, TagKeys: []string{"esc\x1b"}})
	require.NoError(t, err)
	require.Equal(t, []string{"k=w"}, tagsOf(t, c, key.KeyId))
}
