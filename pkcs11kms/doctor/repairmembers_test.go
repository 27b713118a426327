package doctor

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// Who has a policy and who is in a group is counted and listed as the records of users, roles and groups say.
func TestRepairOfMembers(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	root := c.bridge.IAM().As(c.bridge.Root())
	user, group := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "u"}, iam.PrincipalName{Type: keystore.PrincipalGroup, Name: "g"}
	ids := map[iam.PrincipalName]string{}
	for _, name := range []iam.PrincipalName{user, group} {
		made, err := root.CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
		require.NoError(t, err)
		ids[name] = made.ID
	}
	policy, err := root.CreatePolicy(t.Context(), "p",
		`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}`, iam.PolicyOptions{})
	require.NoError(t, err)
	require.NoError(t, root.AttachPolicy(t.Context(), user, policy.ARN))
	require.NoError(t, root.AttachPolicy(t.Context(), group, policy.ARN))
	require.NoError(t, root.AddUserToGroup(t.Context(), "g", "u"))
	requireNoDiscrepancies(t, c)

	read := func(ref keystore.Ref) keystore.Record {
		rec, err := c.inside.Store.Get(t.Context(), ref)
		require.NoError(t, err)
		return rec
	}
	listed := keystore.Member{Account: testAccount, Of: policy.ID, ID: ids[user]}.Ref()
	put(t, c, keystore.Change{Op: keystore.Delete, Ref: listed, Expect: read(listed).Version})
	counter := keystore.Counter{Account: testAccount, Name: keystore.CounterMembers + ids[group], N: 7}
	put(t, c, counter.Put(read(counter.Put(0).Ref).Version))
	nobody := "ANPA" + strings.Repeat("A", 17)
	put(t, c, keystore.Member{Account: testAccount, Of: nobody, ID: ids[user]}.Put(0))
	policies := keystore.Counter{Account: testAccount, Name: keystore.CounterPolicies, N: 3}
	put(t, c, policies.Put(read(policies.Put(0).Ref).Version))

	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	require.Contains(t, r.find("store", policy.ID), Check{"store", policy.ID, StatusWarning,
		"2 users, roles and groups have it, and its counter says 2; 1 records that list them are wrong", "pkcs11kms doctor --repair"})
	done, err := doRepair(t, c)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"corrected who has " + policy.ID, "corrected who has " + ids[group], "corrected who has " + nobody,
		"corrected the counter of the policies of account " + testAccount + " from 3 to 1"}, done)
	requireNoDiscrepancies(t, c)
	list, _, err := root.ListEntitiesForPolicy(t.Context(), policy.ARN, iam.EntityFilter{}, iam.Page{})
	require.NoError(t, err)
	require.Len(t, list, 2)
}

// A policy that somebody has and that is gone is told, and not passed over; it keeps those from everything but their end.
func TestMissingPolicyIsTold(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	root := c.bridge.IAM().As(c.bridge.Root())
	user := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "u"}
	_, err := root.CreatePrincipal(t.Context(), user, iam.PrincipalOptions{})
	require.NoError(t, err)
	policy, err := root.CreatePolicy(t.Context(), "p",
		`{"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "kms:*", "Resource": "*"}}`, iam.PolicyOptions{})
	require.NoError(t, err)
	require.NoError(t, root.AttachPolicy(t.Context(), user, policy.ARN))
	ref := keystore.ManagedPolicyRef(testAccount, policy.ID)
	rec, err := c.inside.Store.Get(t.Context(), ref)
	require.NoError(t, err)
	put(t, c, keystore.Change{Op: keystore.Delete, Ref: ref, Expect: rec.Version})
	r := examine(t.Context(), cfg)
	require.False(t, r.OK())
	require.Contains(t, r.find("user", "u"), Check{"user", "u", StatusError, "what it has of " + policy.ID +
		" is not in the store, and may have denied something: it may do nothing",
		"restore the store from a backup; or delete the user and make it anew"})
	require.NoError(t, root.DeletePrincipal(t.Context(), user))
	_, err = doRepair(t, c)
	require.NoError(t, err)
	requireNoDiscrepancies(t, c)
}
