package main

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore/sqlite"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
	"github.com/pkcs11kms/bridge/softhsm"
)

// newClient opens a real client with some keys on a token of its own, and returns their ids in the order of the list.
func newClient(t *testing.T, keys int) (*pkcs11kms.Client, []string) {
	t.Helper()
	token := softhsm.NewToken(t)
	store := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(store))
	client, err := statedir.New(t.Context(), statedir.Config{StorePath: store, Config: pkcs11kms.Config{
		Audit:   audit.Discard,
		Quotas:  pkcs11kms.Quotas{NoRates: true},
		Regions: map[string]pkcs11kms.Region{"us-east-1": {Token: token.URI(token.PINFile), SoftHSMConfig: token.ConfigFile}}}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, client.Close()) })
	for range keys {
		_, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: types.KeySpecHmac256, KeyUsage: types.KeyUsageTypeGenerateVerifyMac})
		require.NoError(t, err)
	}
	page, err := client.ListKeys(t.Context(), &kms.ListKeysInput{})
	require.NoError(t, err)
	require.Len(t, page.Keys, keys)
	return client, idsOf(page.Keys)
}

func idsOf(entries []types.KeyListEntry) (ids []string) {
	for _, entry := range entries {
		ids = append(ids, aws.ToString(entry.KeyId))
	}
	return ids
}

// requirePieces walks a list by every pair of sizes. Each piece but the last has as many entries as were asked for, and
// only the last has no token.
func requirePieces[In, Out, Entry any](t *testing.T, client api, l list[In, Out, Entry], req In, all []Entry) {
	t.Helper()
	most := int32(len(all)) + 1
	for pageSize := int32(1); pageSize <= most; pageSize++ {
		for maxItems := int32(1); maxItems <= most; maxItems++ {
			t.Run(fmt.Sprintf("%s %d of pages of %d", l.operation, maxItems, pageSize), func(t *testing.T) {
				var walked []Entry
				pages := paging{maxItems: aws.Int32(maxItems), pageSize: aws.Int32(pageSize)}
				for {
					piece, next, err := l.collect(t.Context(), client, &req, pages)
					require.NoError(t, err)
					require.LessOrEqual(t, len(piece), int(maxItems))
					walked = append(walked, piece...)
					if next == nil {
						break
					}
					require.Len(t, piece, int(maxItems))
					pages.startingToken = next
				}
				assert.Equal(t, all, walked)
			})
		}
	}
	whole, next, err := l.collect(t.Context(), client, &req, paging{pageSize: aws.Int32(2)})
	require.NoError(t, err)
	assert.Equal(t, all, whole)
	assert.Nil(t, next)
}

// TestPiecesMakeTheWholeList: every list that has more than one entry, and the names of the policies, which are one.
func TestPiecesMakeTheWholeList(t *testing.T) {
	client, ids := newClient(t, 4)
	for i, id := range ids {
		_, err := client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String(fmt.Sprint("alias/", i)), TargetKeyId: &ids[i/2]})
		require.NoError(t, err)
		_, err = client.TagResource(t.Context(),
			&kms.TagResourceInput{KeyId: &ids[0], Tags: []types.Tag{{TagKey: aws.String(id), TagValue: aws.String("")}}})
		require.NoError(t, err)
	}
	keys, err := client.ListKeys(t.Context(), &kms.ListKeysInput{})
	require.NoError(t, err)
	require.Len(t, keys.Keys, 4)
	requirePieces(t, client, keyList, kms.ListKeysInput{}, keys.Keys)

	aliases, err := client.ListAliases(t.Context(), &kms.ListAliasesInput{})
	require.NoError(t, err)
	require.Len(t, aliases.Aliases, 4)
	requirePieces(t, client, aliasList, kms.ListAliasesInput{}, aliases.Aliases)
	requirePieces(t, client, aliasList, kms.ListAliasesInput{KeyId: &ids[0]}, aliases.Aliases[:2])

	tags, err := client.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: &ids[0]})
	require.NoError(t, err)
	require.Len(t, tags.Tags, 4)
	requirePieces(t, client, tagList, kms.ListResourceTagsInput{KeyId: &ids[0]}, tags.Tags)

	requirePieces(t, client, policyList, kms.ListKeyPoliciesInput{KeyId: &ids[0]}, []string{"default"})
}

// forgetful is a service that says there is more and not where.
type forgetful struct{ api }

func (f forgetful) ListKeys(ctx context.Context, in *kms.ListKeysInput, opts ...func(*kms.Options)) (*kms.ListKeysOutput, error) {
	out, err := f.api.ListKeys(ctx, in, opts...)
	if out != nil {
		out.Truncated, out.NextMarker = true, nil
	}
	return out, err
}

func TestListWithoutAMarkerEnds(t *testing.T) {
	client, all := newClient(t, 2)
	keys, next, err := keyList.collect(t.Context(), forgetful{client}, &kms.ListKeysInput{}, paging{})
	require.NoError(t, err)
	assert.Equal(t, all, idsOf(keys))
	assert.Nil(t, next)
}

// TestPagesLeaveTheInputAlone: the flags fill it once, and it is the same for all pages.
func TestPagesLeaveTheInputAlone(t *testing.T) {
	client, ids := newClient(t, 1)
	req := kms.ListAliasesInput{KeyId: &ids[0]}
	_, _, err := aliasList.collect(t.Context(), client, &req, paging{pageSize: aws.Int32(1)})
	require.NoError(t, err)
	assert.Equal(t, kms.ListAliasesInput{KeyId: &ids[0]}, req)
}

func TestResumeTokens(t *testing.T) {
	for _, token := range []resumeToken{{Printed: 3}, {Marker: aws.String("m")}, {Marker: aws.String("m"), Printed: 1}} {
		got, err := parseResumeToken(token.String())
		require.NoError(t, err)
		assert.Equal(t, token, got)
	}
	// What the aws CLI made of the same place.
	for text, token := range map[string]resumeToken{
		"eyJNYXJrZXIiOiBudWxsLCAiYm90b190cnVuY2F0ZV9hbW91bnQiOiAxfQ==": {Printed: 1},
		"eyJNYXJrZXIiOiAiQUFFQyJ9":                                     {Marker: aws.String("AAEC")},
		"eyJNYXJrZXIiOiAiQUFFQyIsICJib3RvX3RydW5jYXRlX2Ftb3VudCI6IDJ9": {Marker: aws.String("AAEC"), Printed: 2},
	} {
		got, err := parseResumeToken(text)
		require.NoError(t, err)
		assert.Equal(t, token, got)
		assert.Equal(t, text, token.String())
	}
	for _, text := range []string{"", "x", "e30", "W10=", "eyJib3RvX3RydW5jYXRlX2Ftb3VudCI6LTF9", "eyJPdGhlciI6MX0="} {
		_, err := parseResumeToken(text)
		var usage *usageError
		assert.ErrorAs(t, err, &usage, text)
	}
}

func TestOperationsNameThemselvesInErrors(t *testing.T) {
	client, _ := newClient(t, 0)
	_, err := call(t.Context(), client, "DescribeKey", api.DescribeKey, &kms.DescribeKeyInput{KeyId: aws.String("x")})
	var op *operationError
	require.ErrorAs(t, err, &op)
	assert.Equal(t, "DescribeKey", op.operation)
	var notFound *types.NotFoundException
	assert.ErrorAs(t, err, &notFound)
}
