package iam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

const rootARN = "arn:aws:iam::" + testAccount + ":root"

// target is what the operations are asked about: a user and a role with an inline policy, and an access key of each.
type target struct {
	name           PrincipalName
	arn, accessKey string
}

func newTarget(t *testing.T, r *rig, name PrincipalName) target {
	t.Helper()
	options := PrincipalOptions{Path: "/jwt/", Tags: []keystore.Tag{{Key: "Team", Value: "id"}}}
	if name.Type == keystore.PrincipalGroup {
		options.Tags = nil
	}
	made, err := r.CreatePrincipal(t.Context(), name, options)
	require.NoError(t, err)
	require.NoError(t, r.PutPrincipalPolicy(t.Context(), name, "own", allowMAC))
	if name.Type == keystore.PrincipalGroup {
		return target{name, made.ARN, ""}
	}
	key, err := r.CreateAccessKey(t.Context(), name)
	require.NoError(t, err)
	return target{name, made.ARN, key.ID}
}

// asked is how an operation is asked for, and the resource that it is decided on.
type asked struct {
	resource string
	call     func(context.Context, *Client) error
}

// attachable is the managed policy that the requests attach, and member the user that they put in groups. mustHave makes both.
const attachable, member = "arn:aws:iam::" + testAccount + ":policy/Attachable", "Member"

func (r *rig) mustHave(t *testing.T) {
	t.Helper()
	require.NoError(t, second(r.CreatePolicy(t.Context(), "Attachable", allowMAC, PolicyOptions{})))
	mustCreatePrincipal(t, r.Client, userName(member))
}

// policyRequests are the operations of managed policies, in an order in which they can be asked for.
func policyRequests(arn string) []struct {
	name, resource, shown string
	call                  func(context.Context, *Client) error
} {
	type row = struct {
		name, resource, shown string
		call                  func(context.Context, *Client) error
	}
	shown := "policy " + arn
	tags := []keystore.Tag{{Key: "Stage", Value: "test"}}
	return []row{
		{"CreatePolicy", arn, "policy Fresh", func(ctx context.Context, c *Client) error {
			return second(c.CreatePolicy(ctx, "Fresh", allowMAC, PolicyOptions{Path: "/new/", Description: "text", Tags: tags}))
		}},
		{"GetPolicy", arn, shown, func(ctx context.Context, c *Client) error { return second(c.GetPolicy(ctx, arn)) }},
		{"ListPolicies", "*", "*", func(ctx context.Context, c *Client) error {
			_, _, err := c.ListPolicies(ctx, PolicyFilter{Scope: "Local", OnlyAttached: true, PathPrefix: "/", Usage: "PermissionsPolicy"}, Page{})
			return err
		}},
		{"CreatePolicyVersion", arn, shown, func(ctx context.Context, c *Client) error {
			return second(c.CreatePolicyVersion(ctx, arn, allowMAC, true))
		}},
		{"GetPolicyVersion", arn, shown, func(ctx context.Context, c *Client) error { return second(c.GetPolicyVersion(ctx, arn, "v1")) }},
		{"ListPolicyVersions", arn, shown, func(ctx context.Context, c *Client) error { return second(c.ListPolicyVersions(ctx, arn)) }},
		{"SetDefaultPolicyVersion", arn, shown, func(ctx context.Context, c *Client) error {
			return c.SetDefaultPolicyVersion(ctx, arn, "v1")
		}},
		{"DeletePolicyVersion", arn, shown, func(ctx context.Context, c *Client) error { return c.DeletePolicyVersion(ctx, arn, "v2") }},
		{"ListEntitiesForPolicy", arn, shown, func(ctx context.Context, c *Client) error {
			filter := EntityFilter{Type: keystore.PrincipalUser, PathPrefix: "/", Usage: "PermissionsPolicy"}
			_, _, err := c.ListEntitiesForPolicy(ctx, arn, filter, Page{})
			return err
		}},
		{"TagPolicy", arn, shown, func(ctx context.Context, c *Client) error { return c.TagPolicy(ctx, arn, tags) }},
		{"ListPolicyTags", arn, shown, func(ctx context.Context, c *Client) error { return second(c.ListPolicyTags(ctx, arn)) }},
		{"UntagPolicy", arn, shown, func(ctx context.Context, c *Client) error { return c.UntagPolicy(ctx, arn, []string{"Stage"}) }},
		{"DeletePolicy", arn, shown, func(ctx context.Context, c *Client) error { return c.DeletePolicy(ctx, arn) }},
	}
}

// providerRequests are the operations of OIDC providers, in the same way.
func providerRequests() []struct {
	name, resource, shown string
	call                  func(context.Context, *Client) error
} {
	type row = struct {
		name, resource, shown string
		call                  func(context.Context, *Client) error
	}
	arn := "arn:aws:iam::" + testAccount + ":oidc-provider/oidc.example.org/fresh"
	thumbprints := []string{strings.Repeat("0", 40)}
	return []row{
		{"CreateOpenIDConnectProvider", arn, arn, func(ctx context.Context, c *Client) error {
			return second(c.CreateOpenIDConnectProvider(ctx, "https://oidc.example.org/fresh", ProviderOptions{ClientIDs: []string{"kms"},
				Thumbprints: thumbprints, Tags: []keystore.Tag{{Key: "Stage", Value: "test"}}}))
		}},
		{"GetOpenIDConnectProvider", arn, arn, func(ctx context.Context, c *Client) error {
			return second(c.GetOpenIDConnectProvider(ctx, arn))
		}},
		{"ListOpenIDConnectProviders", "*", "*", func(ctx context.Context, c *Client) error {
			return second(c.ListOpenIDConnectProviders(ctx))
		}},
		{"AddClientIDToOpenIDConnectProvider", arn, arn, func(ctx context.Context, c *Client) error { return c.AddClientID(ctx, arn, "x") }},
		{"RemoveClientIDFromOpenIDConnectProvider", arn, arn, func(ctx context.Context, c *Client) error {
			return c.RemoveClientID(ctx, arn, "x")
		}},
		{"UpdateOpenIDConnectProviderThumbprint", arn, arn, func(ctx context.Context, c *Client) error {
			return c.UpdateProviderThumbprints(ctx, arn, thumbprints)
		}},
		{"DeleteOpenIDConnectProvider", arn, arn, func(ctx context.Context, c *Client) error {
			return c.DeleteOpenIDConnectProvider(ctx, arn)
		}},
	}
}

const freshPolicy = "arn:aws:iam::" + testAccount + ":policy/new/Fresh"

// shown is what a refusal calls the resource of an operation on x: what was asked for, not what is known of it.
func (x target) shown(operation, resource string) string {
	switch {
	case operation == "GetAccessKeyLastUsed":
		return "access key " + x.accessKey
	case resource == x.arn:
		return string(x.name.Type) + " " + x.name.Name
	}
	return resource
}

// requests are the operations of users and roles, by the name in which Type stands for User or Role.
func requests(x target) map[string]asked {
	fresh := PrincipalName{x.name.Type, "Fresh"}
	freshARN := "arn:aws:iam::" + testAccount + ":" + string(x.name.Type) + "/new/Fresh"
	all := map[string]asked{
		"CreateType": {freshARN, func(ctx context.Context, c *Client) error {
			return second(c.CreatePrincipal(ctx, fresh, PrincipalOptions{Path: "/new/"}))
		}},
		"GetType":   {x.arn, func(ctx context.Context, c *Client) error { return second(c.GetPrincipal(ctx, x.name)) }},
		"ListTypes": {"*", func(ctx context.Context, c *Client) error { return second(c.ListPrincipals(ctx, x.name.Type, "")) }},
		"PutTypePolicy": {x.arn, func(ctx context.Context, c *Client) error {
			return c.PutPrincipalPolicy(ctx, x.name, "own", allowMAC)
		}},
		"GetTypePolicy": {x.arn, func(ctx context.Context, c *Client) error {
			return second(c.GetPrincipalPolicy(ctx, x.name, "own"))
		}},
		"ListTypePolicies": {x.arn, func(ctx context.Context, c *Client) error {
			return second(c.ListPrincipalPolicies(ctx, x.name))
		}},
		"TagType": {x.arn, func(ctx context.Context, c *Client) error {
			return c.TagPrincipal(ctx, x.name, []keystore.Tag{{Key: "Stage", Value: "test"}})
		}},
		"UntagType": {x.arn, func(ctx context.Context, c *Client) error {
			return c.UntagPrincipal(ctx, x.name, []string{"Stage"})
		}},
		"ListAttachedTypePolicies": {x.arn, func(ctx context.Context, c *Client) error {
			return second(c.ListAttachedPolicies(ctx, x.name, "/"))
		}},
		"AttachTypePolicy": {x.arn, func(ctx context.Context, c *Client) error { return c.AttachPolicy(ctx, x.name, attachable) }},
		"ListTypeTags":     {x.arn, func(ctx context.Context, c *Client) error { return second(c.ListPrincipalTags(ctx, x.name)) }},
		"CreateAccessKey": {x.arn, func(ctx context.Context, c *Client) error {
			made, err := c.CreateAccessKey(ctx, x.name)
			if err == nil {
				err = c.dir.Client().As(c.dir.Root(testAccount)).DeleteAccessKey(ctx, x.name, made.ID)
			}
			return err
		}},
		"ListAccessKeys": {x.arn, func(ctx context.Context, c *Client) error { return second(c.ListAccessKeys(ctx, x.name)) }},
		"UpdateAccessKey": {x.arn, func(ctx context.Context, c *Client) error {
			return errors.Join(c.UpdateAccessKey(ctx, x.name, x.accessKey, keystore.AccessKeyInactive),
				c.UpdateAccessKey(ctx, PrincipalName{}, x.accessKey, keystore.AccessKeyActive))
		}},
		"GetAccessKeyLastUsed": {x.arn, func(ctx context.Context, c *Client) error {
			_, _, err := c.GetAccessKeyLastUsed(ctx, x.accessKey)
			return err
		}},
	}
	switch x.name.Type {
	case keystore.PrincipalUser:
		all["ListGroupsForUser"] = asked{x.arn, func(ctx context.Context, c *Client) error { return second(c.ListGroups(ctx, x.name.Name)) }}
		for operation, call := range map[string]func(*Client, context.Context, string) error{"ListMFADevices": (*Client).ListMFADevices,
			"ListSigningCertificates": (*Client).ListSigningCertificates, "ListSSHPublicKeys": (*Client).ListSSHPublicKeys,
			"ListServiceSpecificCredentials": (*Client).ListServiceSpecificCredentials,
			"GetLoginProfile": func(c *Client, ctx context.Context, name string) error {
				err := c.GetLoginProfile(ctx, name)
				if errorCode(err) == "NoSuchEntity" {
					err = nil // nobody has one
				}
				return err
			}} {
			all[operation] = asked{x.arn, func(ctx context.Context, c *Client) error { return call(c, ctx, x.name.Name) }}
		}
		return all
	case keystore.PrincipalGroup:
		for operation := range all {
			if strings.HasSuffix(operation, "agType") || operation == "ListTypeTags" || strings.Contains(operation, "AccessKey") {
				delete(all, operation)
			}
		}
		all["GetType"] = asked{x.arn, func(ctx context.Context, c *Client) error {
			_, _, _, err := c.GetGroup(ctx, x.name.Name, Page{})
			return err
		}}
		all["AddUserToType"] = asked{x.arn, func(ctx context.Context, c *Client) error { return c.AddUserToGroup(ctx, x.name.Name, member) }}
		return all
	}
	all["ListInstanceProfilesForRole"] = asked{x.arn, func(ctx context.Context, c *Client) error {
		return c.ListInstanceProfiles(ctx, x.name.Name)
	}}
	all["UpdateRole"] = asked{x.arn, func(ctx context.Context, c *Client) error {
		return c.UpdateRole(ctx, x.name.Name, RoleUpdate{Description: new("other"), MaxSessionDuration: new(int32(7200))})
	}}
	all["UpdateAssumeRolePolicy"] = asked{x.arn, func(ctx context.Context, c *Client) error {
		return c.UpdateTrustPolicy(ctx, x.name.Name, trustsNobody)
	}}
	return all
}

// ending are the operations after which nothing more can be asked, in the order in which they can be.
func ending(x target) []asked {
	all := []asked{
		{"DeleteTypePolicy", func(ctx context.Context, c *Client) error { return c.DeletePrincipalPolicy(ctx, x.name, "own") }},
		{"DetachTypePolicy", func(ctx context.Context, c *Client) error { return c.DetachPolicy(ctx, x.name, attachable) }},
		{"DeleteAccessKey", func(ctx context.Context, c *Client) error { return c.DeleteAccessKey(ctx, x.name, x.accessKey) }},
		{"DeleteType", func(ctx context.Context, c *Client) error { return c.DeletePrincipal(ctx, x.name) }},
	}
	if x.name.Type == keystore.PrincipalGroup {
		all[2] = asked{"RemoveUserFromType", func(ctx context.Context, c *Client) error {
			return c.RemoveUserFromGroup(ctx, x.name.Name, member)
		}}
	}
	return all
}

func allowed(action, resource string) string {
	return `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "` + action + `", "Resource": "` + resource + `"}}`
}

// Every operation of the table is decided by the caller's policies on its own action and on the ARN of what it is about: nobody may
// do anything, a user no more than its policies say.
func TestEveryOperationAsksItsCaller(t *testing.T) {
	r := newRig(t)
	rows := map[string]bool{}
	for op := range ops.All {
		if op.Service == "iam" {
			rows[op.Name] = true
		}
	}
	r.mustHave(t)
	names := map[keystore.PrincipalType]string{keystore.PrincipalUser: "User", keystore.PrincipalRole: "Role",
		keystore.PrincipalGroup: "Group"}
	stranger, admin := r.as(t, "Stranger", ""), PrincipalName{keystore.PrincipalUser, "Admin"}
	administrator := r.as(t, admin.Name, allowMAC)
	check := func(name, shown string, x asked) {
		delete(rows, name)
		action := "iam:" + name
		says := func(who string) string {
			return "User: " + who + " is not authorized to perform: " + action + " on resource: " + shown +
				" because no identity-based policy allows the " + action + " action"
		}
		err := x.call(t.Context(), r.dir.Client())
		assert.Equal(t, "AccessDenied", errorCode(err), "%s of nobody: %v", name, err)
		assert.ErrorContains(t, x.call(t.Context(), stranger), says(stranger.caller.arn), name)

		for _, other := range []string{allowed("kms:*", "*"), allowed(action, x.resource+"x"), allowed(action+"x", x.resource)} {
			require.NoError(t, r.PutPrincipalPolicy(t.Context(), admin, "p", strings.ReplaceAll(other, `"*x"`, `"arn:aws:iam::1:x"`)))
			assert.ErrorContains(t, x.call(t.Context(), administrator), says(administrator.caller.arn), "%s with %s", name, other)
		}
		require.NoError(t, r.PutPrincipalPolicy(t.Context(), admin, "p", allowed(action, x.resource)))
		assert.NoError(t, x.call(t.Context(), administrator), name)
	}
	for _, row := range append(policyRequests(freshPolicy), providerRequests()...) {
		check(row.name, row.shown, asked{row.resource, row.call})
	}
	for _, name := range []PrincipalName{{keystore.PrincipalUser, "Target"}, {keystore.PrincipalRole, "Target"}, groupName("Target")} {
		x := newTarget(t, r, name)
		for operation, how := range requests(x) {
			check(strings.Replace(operation, "Type", names[name.Type], 1), x.shown(operation, how.resource), how)
		}
		for _, end := range ending(x) {
			check(strings.Replace(end.resource, "Type", names[name.Type], 1), x.shown("", x.arn), asked{x.arn, end.call})
		}
	}
	require.Empty(t, rows, "operations of the table that no request was made of")
}

// What is there, where, and whose it is, is told to those alone who may ask: others get the same answer in either case, at the cost of
// the same calls of the store.
func TestWhoMayNotAskLearnsNothing(t *testing.T) {
	r := newRig(t)
	r.mustHave(t)
	there := newTarget(t, r, producer)
	counted, cfg := &countingStore{Store: r.cfg.Store}, r.cfg
	cfg.Store = counted
	stranger := New(cfg).Client().As(r.as(t, "Stranger", "").caller)
	_, err := r.dir.Identify(t.Context(), stranger.caller) // from the cache from now on
	require.NoError(t, err)
	answers := func(x target) map[string]string {
		texts := map[string]string{}
		for operation, how := range requests(x) {
			before := counted.reads
			err := how.call(t.Context(), stranger)
			assert.Equal(t, "AccessDenied", errorCode(err), operation)
			texts[operation] = strings.NewReplacer(x.name.Name, "NAME", x.accessKey, "ID").Replace(err.Error()) +
				fmt.Sprintf(" (%d reads)", counted.reads-before)
		}
		return texts
	}
	require.Equal(t, answers(target{PrincipalName{keystore.PrincipalRole, "None"}, "", "AKIAAAAAAAAAAAAAAAAA"}), answers(there))
	root, err := r.CreateAccessKey(t.Context(), PrincipalName{})
	require.NoError(t, err)
	for _, id := range []string{root.ID, there.accessKey, "AKIAAAAAAAAAAAAAAAAA"} {
		before := counted.reads
		err := stranger.UpdateAccessKey(t.Context(), PrincipalName{}, id, keystore.AccessKeyInactive)
		require.ErrorContains(t, err, " on resource: access key "+id+" because ")
		require.Equal(t, 2, counted.reads-before)
		for _, owner := range []PrincipalName{producer, {keystore.PrincipalRole, "None"}} {
			before := counted.reads
			err := stranger.UpdateAccessKey(t.Context(), owner, id, keystore.AccessKeyInactive)
			require.ErrorContains(t, err, " on resource: role "+owner.Name+" because ")
			require.Equal(t, 2, counted.reads-before)
		}
	}
	reader := r.as(t, "Reader", allowed("iam:GetRole", "*"))
	requireAPIError(t, second(reader.GetPrincipal(t.Context(), PrincipalName{keystore.PrincipalRole, "None"})), "NoSuchEntity",
		"The role with name None cannot be found.")
}

// The access keys of the account's root are the root's alone, whatever a policy says.
func TestAccessKeysOfTheRoot(t *testing.T) {
	r := newRig(t)
	key, err := r.CreateAccessKey(t.Context(), PrincipalName{})
	require.NoError(t, err)
	admin := r.as(t, "Admin", allowed("*", "*"))
	// The answers to these do not say whose an access key is.
	unnamed := map[string]bool{"DeleteAccessKey": true, "UpdateAccessKey": true, "GetAccessKeyLastUsed": true}
	for name, call := range map[string]func() error{
		"CreateAccessKey": func() error { return second(admin.CreateAccessKey(t.Context(), PrincipalName{})) },
		"ListAccessKeys":  func() error { return second(admin.ListAccessKeys(t.Context(), PrincipalName{})) },
		"DeleteAccessKey": func() error { return admin.DeleteAccessKey(t.Context(), PrincipalName{}, key.ID) },
		"UpdateAccessKey": func() error {
			return admin.UpdateAccessKey(t.Context(), PrincipalName{}, key.ID, keystore.AccessKeyInactive)
		},
		"GetAccessKeyLastUsed": func() error { _, _, err := admin.GetAccessKeyLastUsed(t.Context(), key.ID); return err },
	} {
		action, shown := "iam:"+name, rootARN
		if unnamed[name] {
			shown = "access key " + key.ID
		}
		requireAPIError(t, call(), "AccessDenied", "User: "+admin.caller.arn+" is not authorized to perform: "+action+" on resource: "+
			shown+" because no identity-based policy allows the "+action+" action")
	}
	list, err := r.ListAccessKeys(t.Context(), PrincipalName{})
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, keystore.AccessKeyActive, list[0].Status)
}

// An account is that of the caller: another account's users are not there, and its root has no rights here.
func TestAccountsAreApart(t *testing.T) {
	r := newRig(t)
	x := newTarget(t, r, alice)
	other := r.As(r.dir.Root(otherAccount))
	requireAPIError(t, second(other.GetPrincipal(t.Context(), alice)), "NoSuchEntity", "The user with name Alice cannot be found.")
	requireAPIError(t, other.DeleteAccessKey(t.Context(), PrincipalName{}, x.accessKey), "NoSuchEntity",
		"The Access Key with id "+x.accessKey+" cannot be found.")
	list, err := other.ListPrincipals(t.Context(), keystore.PrincipalUser, "")
	require.NoError(t, err)
	require.Empty(t, list)
	namesake := mustCreatePrincipal(t, other, alice)
	require.Equal(t, "arn:aws:iam::"+otherAccount+":user/Alice", namesake.ARN)
	_, caller, err := r.dir.SigningKey(t.Context(), x.accessKey, "20260102", testRegion, "kms")
	require.NoError(t, err)
	require.Equal(t, testAccount, caller.Account())

	third := r.As(r.dir.Root("777788889999"))
	require.Equal(t, "AccessDenied", errorCode(second(third.ListPrincipals(t.Context(), keystore.PrincipalUser, ""))),
		"this service does not answer for it")
}

// Conditions see the caller, the connection, the tags of what is asked about, and what the request gives.
func TestConditions(t *testing.T) {
	r := newRig(t)
	newTarget(t, r, producer)
	when := func(condition string) string {
		return `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "iam:*", "Resource": "*", "Condition": ` + condition + `}}`
	}
	tag := func(c *Client, key, value string) error {
		return c.TagPrincipal(t.Context(), producer, []keystore.Tag{{Key: key, Value: value}})
	}
	get := func(c *Client) error { return second(c.GetPrincipal(t.Context(), producer)) }
	for condition, ask := range map[string]func(*Client) error{
		`{"StringEquals": {"aws:ResourceTag/Team": "id"}}`:       get,
		`{"StringEquals": {"iam:ResourceTag/Team": "id"}}`:       get,
		`{"StringEquals": {"aws:RequestTag/Stage": "test"}}`:     func(c *Client) error { return tag(c, "Stage", "test") },
		`{"ForAnyValue:StringEquals": {"aws:TagKeys": "Other"}}`: func(c *Client) error { return tag(c, "Other", "x") },
		`{"ForAllValues:StringEquals": {"aws:TagKeys": "Other"}, "Null": {"aws:TagKeys": "false"}}`: func(c *Client) error {
			return c.UntagPrincipal(t.Context(), producer, []string{"Other"})
		},
		`{"StringEquals": {"aws:username": "Admin"}}`:                get,
		`{"StringEquals": {"aws:ResourceAccount": "111122223333"}}`:  get,
		`{"DateGreaterThan": {"aws:CurrentTime": "2020-01-01"}}`:     get,
		`{"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}`:            func(c *Client) error { return get(from(c, "192.0.2.7")) },
		`{"NotIpAddress": {"aws:SourceIp": "198.51.100.0/24"}}`:      func(c *Client) error { return get(from(c, "192.0.2.7")) },
		`{"Bool": {"aws:SecureTransport": "false"}}`:                 func(c *Client) error { return get(from(c, "192.0.2.7")) },
		`{"StringEquals": {"aws:PrincipalArn": "` + adminARN + `"}}`: get,
	} {
		admin := PrincipalName{keystore.PrincipalUser, "Admin"}
		c := r.as(t, admin.Name, when(condition))
		assert.NoError(t, ask(c), condition)
		refusing := strings.NewReplacer(`"id"`, `"none"`, `"test"`, `"none"`, `"Other"`, `"None"`, `"Admin"`, `"None"`, `"111122223333"`, `"1"`,
			"2020-01-01", "2999-01-01", "192.0.2.0", "203.0.113.0", "198.51.100.0", "192.0.2.0", `"aws:SecureTransport": "false"`,
			`"aws:SecureTransport": "true"`, adminARN, adminARN+"x").Replace(condition)
		require.NoError(t, r.PutPrincipalPolicy(t.Context(), admin, "p", when(refusing)))
		assert.Equal(t, "AccessDenied", errorCode(ask(c)), refusing)
		require.NoError(t, r.DeletePrincipalPolicy(t.Context(), admin, "p"))
		require.NoError(t, r.DeletePrincipal(t.Context(), admin))
	}
}

const adminARN = "arn:aws:iam::" + testAccount + ":user/Admin"

func from(c *Client, address string) *Client {
	return c.As(c.caller.From(Connection{SourceIP: netip.MustParseAddr(address)}))
}

// An explicit deny is named to those whom another statement allows.
func TestExplicitDeny(t *testing.T) {
	r := newRig(t)
	c := r.as(t, "Admin", `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iam:*", "Resource": "*"},
		{"Effect": "Deny", "Action": "iam:GetUser", "Resource": "*"}]}`)
	requireAPIError(t, second(c.GetPrincipal(t.Context(), PrincipalName{keystore.PrincipalUser, "Admin"})), "AccessDenied", "User: "+adminARN+
		" is not authorized to perform: iam:GetUser on resource: user Admin with an explicit deny in an identity-based policy")
}

// Who changes himself does so once: the change is bound to what permits it, which it changes.
func TestCallersChangeThemselves(t *testing.T) {
	r := newRig(t)
	self := PrincipalName{keystore.PrincipalUser, "Admin"}
	c := r.as(t, self.Name, allowed("iam:*", "*"))
	require.NoError(t, c.TagPrincipal(t.Context(), self, []keystore.Tag{{Key: "Stage", Value: "test"}}))
	key, err := c.CreateAccessKey(t.Context(), self)
	require.NoError(t, err)
	require.NoError(t, c.DeleteAccessKey(t.Context(), self, key.ID))
	require.NoError(t, c.DeletePrincipalPolicy(t.Context(), self, "p"))
	require.Equal(t, "AccessDenied", errorCode(c.TagPrincipal(t.Context(), self, nil)), "at once")
}

// So he does when another process has changed him just now, which this one has not seen yet.
func TestCallersChangeThemselvesAfterOthersHave(t *testing.T) {
	r := newRig(t)
	self := PrincipalName{keystore.PrincipalUser, "Admin"}
	now := time.Now()
	cfg := r.cfg
	cfg.Cache = records.New(cfg.Store, cfg.Log, func() time.Time { return now }) // of another process, in which no time passes
	c := New(cfg).Client().As(r.as(t, self.Name, allowed("iam:*", "*")).caller)
	require.NoError(t, second(c.GetPrincipal(t.Context(), self)))
	require.NoError(t, r.TagPrincipal(t.Context(), self, []keystore.Tag{{Key: "Team", Value: "id"}}))
	require.NoError(t, c.TagPrincipal(t.Context(), self, []keystore.Tag{{Key: "Stage", Value: "test"}}))
	tags, err := r.ListPrincipalTags(t.Context(), self)
	require.NoError(t, err)
	require.Len(t, tags, 2)

	require.NoError(t, second(c.GetPrincipal(t.Context(), self)))
	require.NoError(t, r.DeletePrincipalPolicy(t.Context(), self, "p"))
	require.Equal(t, "AccessDenied", errorCode(c.TagPrincipal(t.Context(), self, []keystore.Tag{{Key: "Stage", Value: "none"}})))
}

// A change counts only if what permits it is as it was: who loses the permission before the change is done is refused.
func TestChangesAreBoundToThePermission(t *testing.T) {
	r := newRig(t)
	x := newTarget(t, r, producer)
	admin := r.as(t, "Admin", allowed("iam:*", "*"))
	r.log.meanwhile = func() {
		assert.NoError(t, r.DeletePrincipalPolicy(t.Context(), PrincipalName{keystore.PrincipalUser, "Admin"}, "p"))
	}
	require.Equal(t, "AccessDenied", errorCode(admin.DeleteAccessKey(t.Context(), x.name, x.accessKey)))
	list, err := r.ListAccessKeys(t.Context(), x.name)
	require.NoError(t, err)
	require.Len(t, list, 1)

	of := r.as(t, "TeamAdmin", `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "iam:*", "Resource": "*",
		"Condition": {"StringEquals": {"iam:ResourceTag/Team": "id"}}}}`)
	for _, owner := range []PrincipalName{x.name, {}} {
		r.log.meanwhile = func() {
			assert.NoError(t, r.TagPrincipal(t.Context(), x.name, []keystore.Tag{{Key: "Team", Value: "other"}}))
		}
		require.Equal(t, "AccessDenied", errorCode(of.UpdateAccessKey(t.Context(), owner, x.accessKey, keystore.AccessKeyInactive)))
		require.NoError(t, r.TagPrincipal(t.Context(), x.name, []keystore.Tag{{Key: "Team", Value: "id"}}))
	}
	list, err = r.ListAccessKeys(t.Context(), x.name)
	require.NoError(t, err)
	require.Equal(t, keystore.AccessKeyActive, list[0].Status)
}

func TestListedAccessKeysHaveTheirStatus(t *testing.T) {
	r := newRig(t)
	x := newTarget(t, r, alice)
	for _, status := range []keystore.AccessKeyStatus{keystore.AccessKeyInactive, keystore.AccessKeyActive} {
		require.NoError(t, r.UpdateAccessKey(t.Context(), x.name, x.accessKey, status))
		list, err := r.ListAccessKeys(t.Context(), x.name)
		require.NoError(t, err)
		require.Equal(t, status, list[0].Status)
	}
	wrong := r.UpdateAccessKey(t.Context(), x.name, x.accessKey, keystore.AccessKeyDeleted)
	require.Equal(t, "ValidationError", errorCode(wrong), "%v", wrong)
}
