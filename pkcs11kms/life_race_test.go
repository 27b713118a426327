package pkcs11kms

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pkcs11kms/bridge/test/contention"
)

// contenders are users of keys of the clients' account.
func contenders(t *testing.T, clients []*Client, keys int) (ids []string, users []*contention.User) {
	for range keys {
		ids = append(ids, *mustCreate(t, clients[0], types.KeySpecHmac256).KeyId)
	}
	for i, c := range clients {
		users = append(users, contention.NewUser(c, ids, i, len(clients), 1))
	}
	return ids, users
}

func claims(users []*contention.User) (all []contention.Claim) {
	for _, u := range users {
		all = append(all, u.Claim)
	}
	return all
}

// Four instances make changes of the same ten keys. Afterwards everything agrees with everything. (Processes do the same
// in the tests of the whole.)
func TestLifeUnderFire(t *testing.T) {
	cfg := newConfig(t)
	clients := make([]*Client, 4)
	for i := range clients {
		clients[i] = openClient(t, cfg)
	}
	keys, users := contenders(t, clients, 10)
	var group errgroup.Group
	for _, u := range users {
		group.Go(func() error { return u.Work(t.Context(), 150) })
	}
	require.NoError(t, group.Wait())

	c := clients[0]
	require.NoError(t, contention.Judge(t.Context(), c.bridge.core.Store, testRegion, testAccount, keys, claims(users)...))
	finished, err := c.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Empty(t, finished)
	requireNoDiscrepancies(t, c.bridge)
	require.NoError(t, c.bridge.core.Store.Verify(t.Context()))
	requireNothingHalfMade(t, c, len(keys))
}
