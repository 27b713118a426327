package pkcs11kms

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/keystore/sqlite"
)

// countingStore is a real store that notes what is asked of it, but for the poller's looks.
type countingStore struct {
	keystore.Store
	mu    sync.Mutex
	calls []string
}

func (s *countingStore) note(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
}

// take returns the calls since the last take.
func (s *countingStore) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

func (s *countingStore) Get(ctx context.Context, ref keystore.Ref) (keystore.Record, error) {
	s.note("Get " + string(ref.Kind))
	return s.Store.Get(ctx, ref)
}

func (s *countingStore) List(ctx context.Context, kind keystore.Kind, region, account, after string, limit int) ([]keystore.Record, error) {
	s.note("List " + string(kind))
	return s.Store.List(ctx, kind, region, account, after, limit)
}

func (s *countingStore) Lookup(ctx context.Context, index keystore.Index, value string, after keystore.Ref, limit int) ([]keystore.Record, error) {
	s.note("Lookup " + string(index))
	return s.Store.Lookup(ctx, index, value, after, limit)
}

func (s *countingStore) Commit(ctx context.Context, changes ...keystore.Change) (uint64, error) {
	s.note("Commit")
	return s.Store.Commit(ctx, changes...)
}

// countingClient is a client of a real token and of a store that counts.
func countingClient(t *testing.T) (*Client, *countingStore) {
	cfg := newConfig(t)
	real, err := sqlite.Open(t.Context(), cfg.StorePath, sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, real.Close()) })
	store := &countingStore{Store: real}
	cfg.Store, cfg.StorePath = store, ""
	return openClient(t, cfg), store
}

// Whoever may do nothing with a key gets the same answer, by the same calls of the store and none of the token, whether
// there is such a key or not: fresh in the store or cached, by id or by alias, whatever its policy says.
func TestExistenceIsNotRevealed(t *testing.T) {
	c, store := countingClient(t)
	plain, denying, aliased := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	stranger := as(t, c, userName("stranger"), `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*",
		"Condition":{"ForAnyValue:StringEquals":{"kms:ResourceAliases":"alias/none"}}}]}`)
	putPolicy(t, c, denying.KeyId, keyPolicy(grant("Deny", stranger.caller.arn, "kms:*")))
	createAlias(t, c, "alias/there", aliased.KeyId)
	require.NoError(t, c.region.token.Close()) // whatever asks the token from here on fails in another way

	type answer struct {
		err   string
		calls []string
	}
	ask := func(op, id string, cached bool) answer {
		c.bridge.cache.mu.Lock()
		c.bridge.cache.drop()
		c.bridge.cache.mu.Unlock()
		_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: plain.KeyId})
		require.NoError(t, err)
		_, err = c.bridge.principal(t.Context(), stranger.caller.id)
		require.NoError(t, err)
		if cached && id != unknownID && id != "alias/none" {
			_, err := c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
			require.NoError(t, err)
		}
		store.take()
		err = invoke(t, t.Context(), stranger, op, fillAll(op, id, c))
		require.Error(t, err)
		return answer{strings.ReplaceAll(err.Error(), id, "ID"), store.take()}
	}
	for _, op := range operations() {
		if !namesKey(op) {
			continue
		}
		want := ask(op, unknownID, false)
		require.Contains(t, want.err, "AccessDeniedException: User: "+stranger.caller.arn+" is not authorized to perform: kms:", op)
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
