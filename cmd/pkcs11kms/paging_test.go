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
	"github.com/pkcs11kms/bridge/softhsm"
)

// newClient opens a real client with some keys on a token of its own, and returns their ids in the order of the list.
func newClient(t *testing.T, keys int) (*pkcs11kms.Client, []string) {
	t.Helper()
	token := softhsm.NewToken(t)
	store := filepath.Join(t.TempDir(), "kms.db")
	require.NoError(t, sqlite.Create(store))
	client, err := pkcs11kms.New(t.Context(), pkcs11kms.Config{StorePath: store, Regions: map[string]pkcs11kms.Region{
		"us-east-1": {Token: token.URI(token.PINFile), SoftHSMConfig: token.ConfigFile}}})
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

// TestPiecesMakeTheWholeList walks a list by every pair of sizes. Each piece but the last has as many entries as were
// asked for, and only the last has no token.
func TestPiecesMakeTheWholeList(t *testing.T) {
	const keys = 5
	client, all := newClient(t, keys)
	for pageSize := int32(1); pageSize <= keys+1; pageSize++ {
		for maxItems := int32(1); maxItems <= keys+1; maxItems++ {
			t.Run(fmt.Sprintf("%d of pages of %d", maxItems, pageSize), func(t *testing.T) {
				var walked []string
				pages := paging{maxItems: aws.Int32(maxItems), pageSize: aws.Int32(pageSize)}
				for {
					piece, err := collectKeys(t.Context(), client, pages)
					require.NoError(t, err)
					require.LessOrEqual(t, len(piece.Keys), int(maxItems))
					walked = append(walked, idsOf(piece.Keys)...)
					if piece.NextToken == nil {
						break
					}
					require.Len(t, piece.Keys, int(maxItems))
					pages.startingToken = piece.NextToken
				}
				assert.Equal(t, all, walked)
			})
		}
	}
	whole, err := collectKeys(t.Context(), client, paging{pageSize: aws.Int32(2)})
	require.NoError(t, err)
	assert.Equal(t, all, idsOf(whole.Keys))
	assert.Nil(t, whole.NextToken)
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
	list, err := collectKeys(t.Context(), forgetful{client}, paging{})
	require.NoError(t, err)
	assert.Equal(t, all, idsOf(list.Keys))
}

func TestResumeTokens(t *testing.T) {
	for _, token := range []resumeToken{{Printed: 3}, {Marker: aws.String("m")}, {Marker: aws.String("m"), Printed: 1}} {
		got, err := parseResumeToken(token.String())
		require.NoError(t, err)
		assert.Equal(t, token, got)
	}
	// What the aws CLI made of the same place.
	got, err := parseResumeToken("eyJNYXJrZXIiOiBudWxsLCAiYm90b190cnVuY2F0ZV9hbW91bnQiOiAxfQ==")
	require.NoError(t, err)
	assert.Equal(t, resumeToken{Printed: 1}, got)
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
