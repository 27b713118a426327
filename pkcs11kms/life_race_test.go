package pkcs11kms

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// lifeChange makes one random change of one of the keys, or of one of a few aliases that all clients fight over.
func lifeChange(ctx context.Context, c *Client, keys []*types.KeyMetadata, r *rand.Rand) error {
	key := keys[r.IntN(len(keys))].KeyId
	name := fmt.Sprintf("alias/fought-over-%d", r.IntN(12))
	var err error
	switch r.IntN(9) {
	case 0, 1:
		_, err = c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &name, TargetKeyId: key})
	case 2, 3:
		_, err = c.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: &name, TargetKeyId: key})
	case 4:
		_, err = c.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: &name})
	case 5:
		_, err = c.TagResource(ctx, &kms.TagResourceInput{KeyId: key, Tags: []types.Tag{{TagKey: aws.String(fmt.Sprint(r.IntN(60))), TagValue: aws.String("v")}}})
	case 6:
		_, err = c.UntagResource(ctx, &kms.UntagResourceInput{KeyId: key, TagKeys: []string{fmt.Sprint(r.IntN(60))}})
	case 7:
		err = toggle(ctx, c, key, r.IntN(2) == 0)
	case 8:
		if _, err = c.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: key}); err == nil || r.IntN(2) == 0 {
			_, err = c.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: key})
		}
	}
	return err
}

// Four instances make 500 changes each on the same ten keys. Afterwards everything agrees with everything.
func TestLifeUnderFire(t *testing.T) {
	cfg := newConfig(t)
	clients := make([]*Client, 4)
	for i := range clients {
		clients[i] = openClient(t, cfg)
	}
	keys := make([]*types.KeyMetadata, 10)
	for i := range keys {
		keys[i] = mustCreate(t, clients[0], types.KeySpecHmac256)
	}
	refusals := map[string]bool{"AlreadyExistsException": true, "NotFoundException": true, "KMSInvalidStateException": true,
		"LimitExceededException": true, "TagException": true}
	ended := make(chan struct{})
	for i, c := range clients {
		go func() {
			defer func() { ended <- struct{}{} }()
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for range 500 {
				err := lifeChange(t.Context(), c, keys, r)
				var api smithy.APIError
				if err != nil && (!assert.ErrorAs(t, err, &api) || !assert.True(t, refusals[api.ErrorCode()], "%v", err)) {
					return
				}
			}
		}()
	}
	for range clients {
		<-ended
	}

	c := clients[0]
	out, err := c.ListAliases(t.Context(), &kms.ListAliasesInput{Limit: aws.Int32(100)})
	require.NoError(t, err)
	targets := map[string]int{}
	for _, alias := range out.Aliases {
		targets[*alias.TargetKeyId]++
	}
	for _, key := range keys {
		record := recordOf(t, c, *key.KeyId)
		require.Equal(t, targets[*key.KeyId], record.Aliases, "the key's count of its aliases")
		require.LessOrEqual(t, len(record.Tags), 50)
		require.Len(t, aliasesOf(t, c, key.KeyId), targets[*key.KeyId], "the index agrees with the records")
	}
	done, err := c.bridge.Repair(t.Context())
	require.NoError(t, err)
	require.Empty(t, done, "nothing is to be repaired")
	require.NoError(t, c.bridge.store.Verify(t.Context()))
	requireNothingHalfMade(t, c, len(keys))
}

func recordOf(t *testing.T, c *Client, id string) keystore.Key {
	rec, err := c.bridge.store.Get(t.Context(), keystore.KeyRef(testRegion, testAccount, id))
	require.NoError(t, err)
	record, err := keystore.DecodeKey(rec)
	require.NoError(t, err)
	return record
}
