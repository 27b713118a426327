package pkcs11kms

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// Whoever may do nothing with a key gets the same answer, by the same calls of the store and none of the token, whether
// there is such a key or not: fresh in the store or cached, by id or by alias, whatever its policy says.
func TestExistenceIsNotRevealed(t *testing.T) {
	cfg, store := counting(t)
	c := openClient(t, cfg)
	plain, denying := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	aliased := mustCreate(t, c, types.KeySpecHmac256)
	stranger := as(t, c, userName("stranger"), `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*",
		"Condition":{"ForAnyValue:StringEquals":{"kms:ResourceAliases":"alias/none"}}}]}`)
	putPolicy(t, c, denying.KeyId, keyPolicy(grant("Deny", stranger.caller.ARN(), "kms:*")))
	createAlias(t, c, "alias/there", aliased.KeyId)
	require.NoError(t, c.region.Token.Close()) // whatever asks the token from here on fails in another way

	type answer struct {
		err   string
		calls []string
	}
	ask := func(op, id string, cached bool) answer {
		require.NoError(t, c.bridge.core.Cache.Confirm(t.Context())) // so that the poller has nothing to drop meanwhile
		c.bridge.core.Cache.Drop()
		_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: plain.KeyId})
		require.NoError(t, err)
		_, err = c.bridge.core.Identities.Identify(t.Context(), stranger.caller)
		require.NoError(t, err)
		if cached && id != unknownID && id != "alias/none" {
			_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
			require.NoError(t, err)
		}
		store.take()
		err = invoke(t, t.Context(), stranger, op, fillAll(op, id, c))
		requireCode(t, err, "AccessDeniedException")
		return answer{strings.ReplaceAll(err.Error(), id, "ID"), store.take()}
	}
	for _, op := range operations() {
		if !namesKey(op) {
			continue
		}
		want := ask(op, unknownID, false)
		require.Contains(t, want.err, "AccessDeniedException: User: "+stranger.caller.ARN()+" is not authorized to perform: kms:", op)
		for _, key := range []*types.KeyMetadata{plain, denying} {
			for _, cached := range []bool{false, true} {
				require.Equal(t, want, ask(op, *key.KeyId, cached), "%s, cached: %v", op, cached)
			}
		}
	}
	for _, op := range []string{"GenerateMac", "VerifyMac", "DescribeKey"} {
		want := ask(op, "alias/none", false)
		require.Equal(t, 1, len(slices.DeleteFunc(slices.Clone(want.calls), func(call string) bool { return call != "Get alias" })), op)
		for _, cached := range []bool{false, true} {
			require.Equal(t, want, ask(op, "alias/there", cached), "%s, cached: %v", op, cached)
		}
	}
}

// Whoever may use any key by a policy of its own is told that one is not there.
func TestMissingKeysAreToldToTheEntitled(t *testing.T) {
	c := newClient(t)
	admin := as(t, c, userName("admin"), allow("*", "kms:*"))
	_, err := admin.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: ptr(unknownID)})
	requireAPIError(t, err, "NotFoundException", "Key '"+arnOf(unknownID)+"' does not exist")
	_, err = admin.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: ptr("alias/none")})
	requireAPIError(t, err, "NotFoundException", "Alias "+"arn:aws:kms:"+testRegion+":"+testAccount+":alias/none is not found.")
}
