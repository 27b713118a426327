package iam

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

const policyPrefix = "arn:aws:iam::" + testAccount + ":policy/"

func mustCreatePolicy(t testing.TB, c *Client, name, document string) Policy {
	t.Helper()
	made, err := c.CreatePolicy(t.Context(), name, document, PolicyOptions{})
	require.NoError(t, err)
	return made
}

func TestPolicyLife(t *testing.T) {
	r := newRig(t)
	options := PolicyOptions{Path: "/jwt/", Description: "makes", Tags: []keystore.Tag{{Key: "Stage", Value: "test"}}}
	made, err := r.CreatePolicy(t.Context(), "Mac", allowMAC, options)
	require.NoError(t, err)
	require.Equal(t, Policy{Name: "Mac", ID: made.ID, ARN: policyPrefix + "jwt/Mac", PolicyOptions: options, DefaultVersion: "v1",
		Created: made.Created, Updated: made.Created}, made)
	require.Regexp(t, `^ANPA[A-Z2-7]{17}$`, made.ID)
	found, err := r.GetPolicy(t.Context(), made.ARN)
	require.NoError(t, err)
	require.Equal(t, made, found)
	requireAPIError(t, second(r.CreatePolicy(t.Context(), "mAC", allowMAC, PolicyOptions{})), "EntityAlreadyExists",
		"A policy called mAC already exists. Duplicate names are not allowed.")

	other := allowed("kms:VerifyMac", "*")
	for n := 2; n <= 5; n++ {
		version, err := r.CreatePolicyVersion(t.Context(), made.ARN, other, n == 3)
		require.NoError(t, err)
		require.Equal(t, PolicyVersion{ID: fmt.Sprint("v", n), IsDefault: n == 3, Created: version.Created}, version)
	}
	requireAPIError(t, second(r.CreatePolicyVersion(t.Context(), made.ARN, other, false)), "LimitExceeded",
		"A managed policy can have up to 5 versions. Before you create a new version, you must delete an existing version.")
	requireAPIError(t, r.DeletePolicyVersion(t.Context(), made.ARN, "v3"), "DeleteConflict", "Cannot delete the default version of a policy.")
	require.NoError(t, r.DeletePolicyVersion(t.Context(), made.ARN, "v5"))
	version, err := r.CreatePolicyVersion(t.Context(), made.ARN, other, false)
	require.NoError(t, err)
	require.Equal(t, "v6", version.ID, "numbers are not used again")
	list, err := r.ListPolicyVersions(t.Context(), made.ARN)
	require.NoError(t, err)
	ids := ""
	for _, v := range list {
		require.Empty(t, v.Document)
		ids += fmt.Sprint(v.ID, v.IsDefault, " ")
	}
	require.Equal(t, "v6false v4false v3true v2false v1false ", ids)
	first, err := r.GetPolicyVersion(t.Context(), made.ARN, "v1")
	require.NoError(t, err)
	require.Equal(t, allowMAC, first.Document)
	for _, id := range []string{"v7", "v99999999999999999999", "v5", "v1.x"} {
		requireAPIError(t, second(r.GetPolicyVersion(t.Context(), made.ARN, id)), "NoSuchEntity",
			"Policy "+made.ARN+" version "+id+" does not exist or is not attachable.")
	}
	require.NoError(t, r.SetDefaultPolicyVersion(t.Context(), made.ARN, "v1"))
	requireAPIError(t, r.DeletePolicy(t.Context(), made.ARN), "DeleteConflict", "This policy has more than one version. Before you delete a "+
		"policy, you must delete the policy's versions. The default version is deleted with the policy.")
	for _, id := range []string{"v2", "v3", "v4", "v6"} {
		require.NoError(t, r.DeletePolicyVersion(t.Context(), made.ARN, id))
	}
	require.NoError(t, r.TagPolicy(t.Context(), made.ARN, []keystore.Tag{{Key: "stage", Value: "live"}}))
	tags, err := r.ListPolicyTags(t.Context(), made.ARN)
	require.NoError(t, err)
	require.Equal(t, []keystore.Tag{{Key: "Stage", Value: "test"}, {Key: "stage", Value: "live"}}, tags, "keys know case")
	requireAPIError(t, r.TagPolicy(t.Context(), made.ARN, []keystore.Tag{{Key: "a"}, {Key: "a"}}), "InvalidInput", "Duplicate tag keys found.")
	require.NoError(t, r.UntagPolicy(t.Context(), made.ARN, []string{"Stage", "none"}))
	require.NoError(t, r.DeletePolicy(t.Context(), made.ARN))
	gone := "Policy " + made.ARN + " was not found."
	requireAPIError(t, second(r.GetPolicy(t.Context(), made.ARN)), "NoSuchEntity", gone)
	requireAPIError(t, r.DeletePolicy(t.Context(), made.ARN), "NoSuchEntity", gone)
}

func TestFormOfPolicies(t *testing.T) {
	r := newRig(t)
	for name, tc := range map[string]struct {
		name, document, path string
		code, text           string
	}{
		"name":       {"a b", allowMAC, "/", "ValidationError", "The specified value for policyName is invalid."},
		"long name":  {strings.Repeat("x", 129), allowMAC, "/", "ValidationError", "less than or equal to 128"},
		"path":       {"p", allowMAC, "/a", "ValidationError", "'path'"},
		"wrong path": {"p", allowMAC, "/!/", "ValidationError", "'path'"},
		"document":   {"p", "{", "/", "MalformedPolicyDocument", ""},
		"principal": {"p", `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}}`, "/",
			"MalformedPolicyDocument", ""},
		"long": {"p", ofWeight(maxManagedPolicy + 1), "/", "LimitExceeded", "Cannot exceed quota for PolicySize: 6144"},
	} {
		_, err := r.CreatePolicy(t.Context(), tc.name, tc.document, PolicyOptions{Path: tc.path})
		assert.Equal(t, tc.code, errorCode(err), "%s: %v", name, err)
		assert.ErrorContains(t, err, tc.text, name)
	}
	require.NoError(t, second(r.CreatePolicy(t.Context(), "p", ofWeight(maxManagedPolicy), PolicyOptions{Path: "/a/b.c/"})))
	mustCreatePrincipal(t, r.Client, alice)
	requireAPIError(t, r.AttachPolicy(t.Context(), alice, "arn:aws:iam::111122223333:role/x"), "ValidationError",
		"ARN arn:aws:iam::111122223333:role/x is not valid.")
	for _, arn := range []string{"arn:aws:iam::aws:policy/AdministratorAccess", policyPrefix + "none", policyPrefix + "a/p",
		policyPrefix + "a/b.c/P", "arn:aws:iam::" + otherAccount + ":policy/a/b.c/p", "arn:aws-cn:iam::" + testAccount + ":policy/a/b.c/p"} {
		requireAPIError(t, r.AttachPolicy(t.Context(), alice, arn), "NoSuchEntity", "Policy "+arn+" does not exist or is not attachable.")
		requireAPIError(t, r.DetachPolicy(t.Context(), alice, arn), "NoSuchEntity", "Policy "+arn+" was not found.")
		requireAPIError(t, second(r.GetPolicy(t.Context(), arn)), "NoSuchEntity", "Policy "+arn+" was not found.")
	}
	require.NoError(t, r.AttachPolicy(t.Context(), alice, policyPrefix+"a/b.c/p"))
}

// What is attached is counted and listed, and stays until it is detached.
func TestAttachments(t *testing.T) {
	r := newRig(t)
	mac := mustCreatePolicy(t, r.Client, "Mac", allowMAC)
	admins := groupName("Admins")
	names := []PrincipalName{alice, producer, admins}
	for _, name := range names {
		mustCreatePrincipal(t, r.Client, name)
		require.NoError(t, r.AttachPolicy(t.Context(), name, mac.ARN))
		require.NoError(t, r.AttachPolicy(t.Context(), name, mac.ARN), "it stays attached")
	}
	found, err := r.GetPolicy(t.Context(), mac.ARN)
	require.NoError(t, err)
	require.Equal(t, 3, found.AttachmentCount)
	list, err := r.ListAttachedPolicies(t.Context(), producer, "")
	require.NoError(t, err)
	require.Equal(t, []AttachedPolicy{{"Mac", mac.ARN}}, list)
	for wanted, filter := range map[string]EntityFilter{"user": {Type: keystore.PrincipalUser}, "role": {Type: keystore.PrincipalRole},
		"group": {Type: keystore.PrincipalGroup}, "group role user": {}, "": {PathPrefix: "/x/"}} {
		var got []string
		for after := ""; ; {
			page, next, err := r.ListEntitiesForPolicy(t.Context(), mac.ARN, filter, Page{After: after, Limit: 1})
			require.NoError(t, err)
			for _, entity := range page {
				got = append(got, string(entity.Type))
			}
			if after = next; next == "" {
				break
			}
		}
		require.ElementsMatch(t, strings.Fields(wanted), got)
	}
	requireAPIError(t, r.DeletePolicy(t.Context(), mac.ARN), "DeleteConflict", "Cannot delete a policy attached to entities.")
	for i := range maxAttached - 1 {
		require.NoError(t, r.AttachPolicy(t.Context(), producer, mustCreatePolicy(t, r.Client, fmt.Sprint("p", i), allowMAC).ARN))
	}
	more := mustCreatePolicy(t, r.Client, "more", allowMAC)
	requireAPIError(t, r.AttachPolicy(t.Context(), producer, more.ARN), "LimitExceeded", "Cannot exceed quota for PoliciesPerRole: 10")
	for _, name := range names {
		requireAPIError(t, r.DeletePrincipal(t.Context(), name), "DeleteConflict", "Cannot delete entity, must detach all policies first.")
		require.NoError(t, r.DetachPolicy(t.Context(), name, mac.ARN))
		requireAPIError(t, r.DetachPolicy(t.Context(), name, mac.ARN), "NoSuchEntity", "Policy "+mac.ARN+" was not found.")
	}
	require.NoError(t, r.DeletePolicy(t.Context(), mac.ARN))
	attached, next, err := r.ListPolicies(t.Context(), PolicyFilter{OnlyAttached: true}, Page{})
	require.NoError(t, err)
	require.Len(t, attached, maxAttached-1)
	require.Empty(t, next)
}

func TestPolicyQuota(t *testing.T) {
	r := newRig(t)
	_, err := r.cfg.Store.Commit(t.Context(), keystore.Counter{Account: testAccount, Name: "policies", N: 1499}.Put(0))
	require.NoError(t, err)
	mustCreatePolicy(t, r.Client, "last", allowMAC)
	requireAPIError(t, second(r.CreatePolicy(t.Context(), "more", allowMAC, PolicyOptions{})), "LimitExceeded",
		"Cannot exceed quota for PoliciesPerAccount: 1500")
	require.NoError(t, r.DeletePolicy(t.Context(), policyPrefix+"last"))
	mustCreatePolicy(t, r.Client, "more", allowMAC)
}

func TestGroups(t *testing.T) {
	r := newRig(t)
	admins := groupName("Admins")
	made, err := r.CreatePrincipal(t.Context(), admins, PrincipalOptions{Path: "/ops/"})
	require.NoError(t, err)
	require.Equal(t, "arn:aws:iam::"+testAccount+":group/ops/Admins", made.ARN)
	require.Regexp(t, `^AGPA[A-Z2-7]{17}$`, made.ID)
	_, err = r.dir.Caller(t.Context(), made.ARN)
	require.Equal(t, "NoSuchEntity", errorCode(err), "a group is nobody who can act")
	_, ok, err := r.dir.ARNToID(t.Context(), made.ARN)
	require.NoError(t, err)
	require.False(t, ok, "nor can a key policy name it")
	require.Equal(t, "ValidationError", errorCode(second(r.CreateAccessKey(t.Context(), admins))))
	require.Equal(t, "ValidationError", errorCode(r.TagPrincipal(t.Context(), admins, nil)))
	for _, options := range []PrincipalOptions{{Tags: []keystore.Tag{{Key: "k"}}}, {Description: "x"}, {TrustPolicy: "{}"}} {
		require.Equal(t, "ValidationError", errorCode(second(r.CreatePrincipal(t.Context(), groupName("Other"), options))))
	}
	for _, name := range []string{"Alice", "Bob", "carol"} {
		mustCreatePrincipal(t, r.Client, userName(name))
		require.NoError(t, r.AddUserToGroup(t.Context(), "Admins", name))
		require.NoError(t, r.AddUserToGroup(t.Context(), "Admins", name), "who is in it stays so")
	}
	requireAPIError(t, r.AddUserToGroup(t.Context(), "Admins", "None"), "NoSuchEntity", "The user with name None cannot be found.")
	requireAPIError(t, r.AddUserToGroup(t.Context(), "None", "Alice"), "NoSuchEntity", "The group with name None cannot be found.")
	var users []string
	for after := ""; ; {
		group, page, next, err := r.GetGroup(t.Context(), "Admins", Page{After: after, Limit: 2})
		require.NoError(t, err)
		require.Equal(t, made, group)
		for _, user := range page {
			users = append(users, user.Name)
		}
		if after = next; next == "" {
			break
		}
	}
	require.ElementsMatch(t, []string{"Alice", "Bob", "carol"}, users)
	for i := range maxGroupsPerUser - 1 {
		mustCreatePrincipal(t, r.Client, groupName(fmt.Sprint("g", i)))
		require.NoError(t, r.AddUserToGroup(t.Context(), fmt.Sprint("g", i), "Alice"))
	}
	mustCreatePrincipal(t, r.Client, groupName("more"))
	requireAPIError(t, r.AddUserToGroup(t.Context(), "more", "Alice"), "LimitExceeded", "Cannot exceed quota for GroupsPerUser: 10")
	groups, err := r.ListGroups(t.Context(), "Alice")
	require.NoError(t, err)
	require.Len(t, groups, maxGroupsPerUser)
	require.Equal(t, "Admins", groups[0].Name)
	requireAPIError(t, r.DeletePrincipal(t.Context(), admins), "DeleteConflict", removeUsersFirst)
	requireAPIError(t, r.DeletePrincipal(t.Context(), alice), "DeleteConflict", removeUsersFirst)
	for _, name := range []string{"Alice", "Bob", "carol"} {
		require.NoError(t, r.RemoveUserFromGroup(t.Context(), "Admins", name))
		require.NoError(t, r.RemoveUserFromGroup(t.Context(), "Admins", name))
	}
	require.NoError(t, r.DeletePrincipal(t.Context(), admins))
}

// A page of a list costs the same wherever it is, and however much there is.
func TestPagesCostTheSame(t *testing.T) {
	r := newRig(t)
	const many = 3000
	var changes []keystore.Change
	for i := range many {
		p := keystore.Principal{Account: testAccount, ID: keystore.PrincipalID(keystore.PrincipalRole, randomBase32(17)),
			Type: keystore.PrincipalRole, Name: fmt.Sprintf("role-%05d", i), Path: "/", Created: time.Now()}
		if changes = append(changes, p.Put(0)); len(changes) == keystore.MaxChanges || i == many-1 {
			_, err := r.cfg.Store.Commit(t.Context(), changes...)
			require.NoError(t, err)
			changes = nil
		}
	}
	counted, cfg := &countingStore{Store: r.cfg.Store}, r.cfg
	cfg.Store = counted
	client := New(cfg).Client().As(r.dir.Root(testAccount))
	seen, costs := 0, map[int]bool{}
	for after := ""; ; {
		counted.reads, counted.records = 0, 0
		page, next, err := client.PagePrincipals(t.Context(), keystore.PrincipalRole, "/", Page{After: after, Limit: 100})
		require.NoError(t, err)
		require.LessOrEqual(t, counted.records, 101)
		costs[counted.reads] = true
		for _, p := range page {
			require.Equal(t, fmt.Sprintf("role-%05d", seen), p.Name)
			seen++
		}
		if after = next; next == "" {
			break
		}
	}
	require.Equal(t, many, seen)
	require.Equal(t, map[int]bool{2: true}, costs)
	nothing, next, err := client.PagePrincipals(t.Context(), keystore.PrincipalRole, "/x/", Page{Limit: 100})
	require.NoError(t, err)
	require.Empty(t, nothing, "of these 100 none fits")
	require.NotEmpty(t, next, "and there are more")
}
