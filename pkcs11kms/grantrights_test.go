package pkcs11kms

import (
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

func TestDenyBeatsGrants(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	byKey, byUser := as(t, c, userName("by-key")), as(t, c, userName("by-user"),
		`{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"kms:GenerateMac","Resource":"*"}]}`)
	mustGrant(t, c, grantInput(key.KeyId, byKey, opMAC))
	mustGrant(t, c, grantInput(key.KeyId, byUser, opMAC))
	putPolicy(t, c, key.KeyId, keyPolicy(grant("Deny", byKey.caller.ARN(), "kms:GenerateMac")))
	_, err := generate(t.Context(), byKey, key.KeyId, []byte("m"))
	requireDenied(t, err, byKey, "GenerateMac", *key.Arn, "with an explicit deny in a resource-based policy")
	_, err = generate(t.Context(), byUser, key.KeyId, []byte("m"))
	requireDenied(t, err, byUser, "GenerateMac", *key.Arn, "with an explicit deny in an identity-based policy")
}

// A grant to the account is to it what a key policy is that names the account: its root has it, and others by their own policies.
func TestGrantToTheAccount(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	with, without := as(t, c, userName("with"), allow("*", "kms:GenerateMac")), as(t, c, userName("without"))
	mustGrant(t, c, grantInput(key.KeyId, c, opMAC))
	_, err := c.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: key.KeyId, BypassPolicyLockoutSafetyCheck: true,
		Policy: ptr(lockoutPolicy)})
	require.NoError(t, err)
	for _, client := range []*Client{c, with} {
		_, err = generate(t.Context(), client, key.KeyId, []byte("m"))
		require.NoError(t, err)
	}
	_, err = generate(t.Context(), without, key.KeyId, []byte("m"))
	requireCode(t, err, "AccessDeniedException")
	_, err = c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
	requireCode(t, err, "AccessDeniedException")
}

// Nobody calls for a service here, so a grant with the ARN of a service's resource gives nothing, but that it can be retired.
func TestGrantWithASourceGivesNothing(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	someone := as(t, c, userName("someone"))
	in := grantInput(key.KeyId, someone, opMAC, opRetire)
	in.Constraints = &types.GrantConstraints{SourceArn: ptr("arn:aws:sqs:us-west-2:111122223333:q")}
	made := mustGrant(t, c, in)
	_, err := generate(t.Context(), someone, key.KeyId, []byte("m"))
	requireCode(t, err, "AccessDeniedException")
	require.Equal(t, in.Constraints, grantsOn(t, c, key.KeyId)[*made.GrantId].Constraints)
	require.NoError(t, retire(someone, kms.RetireGrantInput{GrantToken: made.GrantToken}))
	require.Empty(t, grantsOn(t, c, key.KeyId))
}

// By a grant nobody gives more than that grant gives; by a policy there is no such bound.
func TestGrantsByAGrant(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	parent, child := as(t, c, userName("parent")), as(t, c, userName("child"))
	made := mustGrant(t, c, grantInput(key.KeyId, parent, opMAC, opGrant, opDescribe))
	mustGrant(t, c, grantInput(key.KeyId, parent, opVerify)) // which gives no CreateGrant
	give := func(by *Client, operations ...types.GrantOperation) error {
		_, err := by.CreateGrant(t.Context(), grantInput(key.KeyId, child, operations...))
		return err
	}
	for _, operations := range [][]types.GrantOperation{{opMAC}, {opDescribe, opMAC}, {opMAC, opGrant}, {opMAC, opGrant, opDescribe}} {
		require.NoError(t, give(parent, operations...), operations)
	}
	for _, operations := range [][]types.GrantOperation{{opVerify}, {opMAC, opVerify}, {opRetire}, {opMAC, opGrant, opDescribe, opRetire}} {
		requireDenied(t, give(parent, operations...), parent, "CreateGrant", *key.Arn, noIdentity("CreateGrant"))
	}
	limited := grantInput(key.KeyId, child, opMAC)
	limited.Constraints = &types.GrantConstraints{SourceArn: ptr("arn:aws:sqs:us-west-2:111122223333:q")}
	mustGrant(t, parent, limited)
	require.NoError(t, give(as(t, c, userName("by-policy"), allow("*", "kms:CreateGrant")), opVerify))

	require.NoError(t, revoke(c, key.KeyId, made.GrantId))
	requireCode(t, give(parent, opMAC), "AccessDeniedException")
	_, err := generate(t.Context(), child, key.KeyId, []byte("m"))
	require.NoError(t, err, "what it has given stays")
	require.NoError(t, give(child, opMAC))
}

// A grant is not made by one that ends between the decision and the Commit, also where both have the same grantee.
func TestGrantThatEndsBeforeTheCommit(t *testing.T) {
	for _, to := range []string{"another", "itself"} {
		t.Run(to, func(t *testing.T) {
			first, second, store, _ := twoProcesses(t)
			key := mustCreate(t, first, types.KeySpecHmac256)
			parent, grantee := as(t, first, userName("parent")), as(t, first, userName("another"))
			if to == "itself" {
				grantee = parent
			}
			made := mustGrant(t, first, grantInput(key.KeyId, parent, opMAC, opGrant))
			kept := mustGrant(t, first, grantInput(key.KeyId, parent, opDescribe))
			var once sync.Once
			store.hook(func([]keystore.Change) (err error) {
				once.Do(func() { err = revoke(second, key.KeyId, made.GrantId) })
				return err
			}, nil)
			defer store.hook(nil, nil)
			_, err := parent.CreateGrant(t.Context(), grantInput(key.KeyId, grantee, opMAC))
			requireCode(t, err, "AccessDeniedException")
			require.Len(t, grantsOn(t, first, key.KeyId), 1)
			require.Contains(t, grantsOn(t, first, key.KeyId), *kept.GrantId)
		})
	}
}

func TestWhoMayRetire(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	grantee, retiring := as(t, c, userName("grantee")), as(t, c, userName("retiring"))
	stranger, byPolicy := as(t, c, userName("stranger")), as(t, c, userName("by-policy"), allow("*", "kms:RetireGrant"))
	revoker := as(t, c, userName("revoker"), allow("*", "kms:RevokeGrant"))
	make := func(operations ...types.GrantOperation) *kms.CreateGrantOutput {
		in := grantInput(key.KeyId, grantee, operations...)
		in.RetiringPrincipal = ptr(retiring.caller.ARN())
		return mustGrant(t, c, in)
	}
	for _, who := range []*Client{c, retiring, byPolicy} {
		require.NoError(t, retire(who, kms.RetireGrantInput{GrantToken: make(opMAC).GrantToken}))
		require.NoError(t, retire(who, kms.RetireGrantInput{KeyId: key.Arn, GrantId: make(opMAC).GrantId}))
	}
	require.NoError(t, retire(grantee, kms.RetireGrantInput{KeyId: key.KeyId, GrantId: make(opRetire).GrantId}))

	made, retirable := make(opMAC), make(opRetire)
	for _, who := range []*Client{grantee, stranger, revoker} {
		for _, in := range []kms.RetireGrantInput{{KeyId: key.Arn, GrantId: made.GrantId}} {
			requireDenied(t, retire(who, in), who, "RetireGrant", *key.Arn, noIdentity("RetireGrant"))
		}
		requireDenied(t, retire(who, kms.RetireGrantInput{GrantToken: made.GrantToken}), who, "RetireGrant", "*", noIdentity("RetireGrant"))
	}
	requireCode(t, retire(grantee, kms.RetireGrantInput{KeyId: mustCreate(t, c, types.KeySpecHmac256).KeyId, GrantId: retirable.GrantId}),
		"AccessDeniedException")
	requireAPIError(t, retire(c, kms.RetireGrantInput{KeyId: mustCreate(t, c, types.KeySpecHmac256).KeyId, GrantId: retirable.GrantId}),
		"NotFoundException", "Grant ID "+*retirable.GrantId+" not found")
	putPolicy(t, c, key.KeyId, keyPolicy(grant("Deny", "*", "kms:RetireGrant")))
	for _, who := range []*Client{c, retiring, grantee, byPolicy} {
		requireCode(t, retire(who, kms.RetireGrantInput{KeyId: key.Arn, GrantId: retirable.GrantId}), "AccessDeniedException")
	}
	require.NoError(t, revoke(revoker, key.KeyId, retirable.GrantId))
	requireAPIError(t, revoke(revoker, key.KeyId, retirable.GrantId), "NotFoundException", "Grant ID "+*retirable.GrantId+" not found")
}

// The account as retiring principal leaves it to its policies.
func TestAccountMayRetire(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	in := grantInput(key.KeyId, as(t, c, userName("someone")), opMAC)
	in.RetiringPrincipal = ptr(c.caller.ARN())
	made := mustGrant(t, c, in)
	requireCode(t, retire(as(t, c, userName("without")), kms.RetireGrantInput{GrantToken: made.GrantToken}), "AccessDeniedException")
	with := as(t, c, userName("with"), allow(*key.Arn, "kms:RetireGrant"))
	require.NoError(t, retire(with, kms.RetireGrantInput{GrantToken: made.GrantToken}))
}

func TestConditionsOnGrants(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	someone, other := as(t, c, userName("someone")), as(t, c, userName("other"))
	for condition, want := range map[string][2]*kms.CreateGrantInput{ // taken, refused
		`"ForAllValues:StringEquals":{"kms:GrantOperations":["GenerateMac","VerifyMac"]}`: {
			grantInput(key.KeyId, someone, opMAC), grantInput(key.KeyId, someone, opMAC, opDescribe)},
		`"StringEquals":{"kms:GranteePrincipal":"` + someone.caller.ARN() + `"}`: {
			grantInput(key.KeyId, someone, opMAC), grantInput(key.KeyId, other, opMAC)},
		`"ArnLike":{"kms:RetiringPrincipal":"arn:aws:iam::*:user/o*"}`: {
			{KeyId: key.KeyId, GranteePrincipal: ptr(someone.caller.ARN()), Operations: []types.GrantOperation{opMAC},
				RetiringPrincipal: ptr(other.caller.ARN())}, grantInput(key.KeyId, someone, opMAC)},
		`"StringEquals":{"kms:GrantConstraintSourceArn":"arn:aws:sqs:us-west-2:111122223333:q"}`: {
			{KeyId: key.KeyId, GranteePrincipal: ptr(someone.caller.ARN()), Operations: []types.GrantOperation{opMAC},
				Constraints: &types.GrantConstraints{SourceArn: ptr("arn:aws:sqs:us-west-2:111122223333:q")}},
			grantInput(key.KeyId, someone, opMAC)},
		`"Null":{"kms:GrantConstraintType":"true"}`: {grantInput(key.KeyId, someone, opMAC),
			{KeyId: key.KeyId, GranteePrincipal: ptr(someone.caller.ARN()), Operations: []types.GrantOperation{opMAC},
				Constraints: &types.GrantConstraints{EncryptionContextEquals: map[string]string{"a": "b"}}}},
		`"Bool":{"kms:GrantIsForAWSResource":"false"}`: {grantInput(key.KeyId, someone, opMAC), nil},
		`"Bool":{"kms:GrantIsForAWSResource":"true"}`:  {nil, grantInput(key.KeyId, someone, opMAC)},
	} {
		name := userName("by-" + time.Now().Format("150405.000000000"))
		admin := as(t, c, name, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:CreateGrant","Resource":"*",
			"Condition":{`+condition+`}}]}`)
		if want[0] != nil {
			mustGrant(t, admin, want[0])
		}
		if want[1] != nil {
			_, err := admin.CreateGrant(t.Context(), want[1])
			require.Error(t, err, condition)
			requireCode(t, err, "AccessDeniedException")
		}
	}
}

// A grant is bound to the user or role, not to the name.
func TestGrantsOfPrincipalsThatAreRemoved(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	name := userName("someone")
	first := as(t, c, name)
	in := grantInput(key.KeyId, first, opMAC)
	in.RetiringPrincipal, in.Name = ptr(first.caller.ARN()), ptr("it")
	made := mustGrant(t, c, in)
	require.NoError(t, asRoot(c.bridge).DeletePrincipal(t.Context(), name))
	_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
	requireCode(t, err, "AccessDeniedException")
	namesake := as(t, c, name)
	_, err = generate(t.Context(), namesake, key.KeyId, []byte("m"))
	requireCode(t, err, "AccessDeniedException")
	requireCode(t, retire(namesake, kms.RetireGrantInput{GrantToken: made.GrantToken}), "AccessDeniedException")
	entry := grantsOn(t, c, key.KeyId)[*made.GrantId]
	require.Equal(t, first.caller.ID(), *entry.GranteePrincipal)
	require.Equal(t, first.caller.ID(), *entry.RetiringPrincipal)
	require.NotEqual(t, *made.GrantId, *mustGrant(t, c, in).GrantId, "the same name for somebody else")
	out, err := c.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: key.KeyId, GranteePrincipal: ptr(first.caller.ID())})
	require.NoError(t, err)
	require.Len(t, out.Grants, 1)
}

// Grants are on the object that a key had when they were made: another one with the key's id has none of them.
func TestGrantsAreOnTheKeysObject(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	someone := as(t, c, userName("someone"))
	in := grantInput(key.KeyId, someone, opDescribe, opRetire)
	in.Name, in.RetiringPrincipal = ptr("it"), ptr(someone.caller.ARN())
	made := mustGrant(t, c, in)
	describeIt := func() error {
		_, err := someone.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
		return err
	}
	require.NoError(t, describeIt())
	record, version := storedKey(t, c, key.KeyId)
	record.CKAID = keystore.HexBytes("another object..")
	put(t, c, record.Put(version))
	requireCode(t, describeIt(), "AccessDeniedException")
	requireCode(t, retire(someone, kms.RetireGrantInput{GrantToken: made.GrantToken}), "AccessDeniedException")
	requireCode(t, retire(c, kms.RetireGrantInput{GrantToken: made.GrantToken}), "InvalidGrantTokenException")
	requireCode(t, retire(c, kms.RetireGrantInput{KeyId: key.KeyId, GrantId: made.GrantId}), "NotFoundException")
	requireCode(t, revoke(c, key.KeyId, made.GrantId), "NotFoundException")
	require.Empty(t, grantsOn(t, c, key.KeyId))
	out, err := c.ListRetirableGrants(t.Context(), &kms.ListRetirableGrantsInput{RetiringPrincipal: in.RetiringPrincipal})
	require.NoError(t, err)
	require.Empty(t, out.Grants)

	again := mustGrant(t, c, in)
	require.NotEqual(t, *made.GrantId, *again.GrantId)
	require.NoError(t, describeIt())
	require.NoError(t, revoke(c, key.KeyId, again.GrantId))
	requireCode(t, describeIt(), "AccessDeniedException")
}

// Whatever one process leaves of the removal of very many grants, another goes on with; the key's record goes last.
func TestGrantsGoWithTheirKey(t *testing.T) {
	c, clk, _, gone, kept := due(t)
	_, err := c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: gone.KeyId})
	require.NoError(t, err)
	require.NoError(t, toggle(t.Context(), c, gone.KeyId, true))
	_, err = c.CancelKeyDeletion(t.Context(), &kms.CancelKeyDeletionInput{KeyId: kept.KeyId})
	require.NoError(t, err)
	require.NoError(t, toggle(t.Context(), c, kept.KeyId, true))
	someone := as(t, c, userName("someone"))
	var last *kms.CreateGrantOutput
	for i := range 150 {
		in := grantInput(gone.KeyId, []*Client{c, someone}[i%2], opMAC)
		in.RetiringPrincipal = ptr(someone.caller.ARN())
		last = mustGrant(t, c, in)
	}
	mustGrant(t, c, grantInput(kept.KeyId, someone, opMAC))
	schedule(t, c, gone.KeyId, 7)
	clk.Advance(8 * day)
	require.NoError(t, c.bridge.core.Keys.DestroyDue(t.Context()))
	grants, grantees, counters := storedOf(t, c)
	require.Equal(t, []int{1, 1, 1}, []int{grants, grantees, counters}, "those of the other key")
	_, err = c.bridge.core.Store.Get(t.Context(), keystore.KeyRef(testRegion, testAccount, *gone.KeyId))
	require.ErrorIs(t, err, keystore.ErrNotFound)
	requireCode(t, retire(c, kms.RetireGrantInput{GrantToken: last.GrantToken}), "InvalidGrantTokenException")
	_, err = generate(t.Context(), someone, kept.KeyId, []byte("m"))
	require.NoError(t, err)
}

func TestRemovalOfGrantsGoesOn(t *testing.T) {
	first, second, store, clk := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	for range 140 {
		mustGrant(t, first, grantInput(key.KeyId, first, opMAC))
	}
	schedule(t, first, key.KeyId, 7)
	clk.Advance(7*day + time.Hour)
	batches := 0
	store.hook(func(changes []keystore.Change) error {
		if len(changes) > 30 && changes[0].Op == keystore.Check {
			if batches++; batches == 2 {
				return errDiskFull
			}
		}
		return nil
	}, nil)
	require.ErrorIs(t, first.bridge.core.Keys.DestroyDue(t.Context()), errDiskFull)
	store.hook(nil, nil)
	grants, _, _ := storedOf(t, first)
	require.Equal(t, 140-keystore.MaxChanges+1, grants)
	_, err := second.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
	requireCode(t, err, "NotFoundException")
	finished, err := first.bridge.core.Keys.Tidy(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{*key.KeyId}, finished)
	grants, grantees, counters := storedOf(t, first)
	require.Zero(t, grants+grantees+counters)
}

var errDiskFull = keystore.ErrFull

func TestListsOfGrants(t *testing.T) {
	cfg := newConfig(t)
	clk := newClock()
	cfg.Now = clk.Now
	c := openClient(t, cfg)
	key, second := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	someone, retiring := as(t, c, userName("someone")), as(t, c, roleName("retiring"))
	in := grantInput(key.KeyId, someone, opVerify, opMAC)
	in.Name, in.RetiringPrincipal = ptr("it"), ptr(retiring.caller.ARN())
	made := mustGrant(t, c, in)
	now := clk.Now().UTC().Truncate(time.Millisecond)
	entry := types.GrantListEntry{KeyId: key.Arn, GrantId: made.GrantId, Name: ptr("it"), CreationDate: &now,
		GranteePrincipal: ptr(someone.caller.ARN()), RetiringPrincipal: ptr(retiring.caller.ARN()),
		IssuingAccount: ptr("arn:aws:iam::111122223333:root"), Operations: []types.GrantOperation{opMAC, opVerify}}
	require.Equal(t, map[string]types.GrantListEntry{*made.GrantId: entry}, grantsOn(t, c, key.KeyId))
	for range 5 {
		mustGrant(t, c, grantInput(key.KeyId, c, opMAC))
		on := grantInput(second.KeyId, c, opMAC)
		on.RetiringPrincipal = ptr(retiring.caller.ARN())
		mustGrant(t, c, on)
	}
	unnamed := mustGrant(t, c, grantInput(second.KeyId, c, opMAC))
	require.Equal(t, ptr(""), grantsOn(t, c, second.KeyId)[*unnamed.GrantId].Name)
	list := func(edit func(*kms.ListGrantsInput)) (ids []string) {
		in := &kms.ListGrantsInput{KeyId: key.KeyId, Limit: aws.Int32(2)}
		edit(in)
		for {
			out, err := c.ListGrants(t.Context(), in)
			require.NoError(t, err)
			require.Equal(t, out.NextMarker != nil, out.Truncated)
			for _, grant := range out.Grants {
				ids = append(ids, *grant.GrantId)
			}
			if in.Marker = out.NextMarker; in.Marker == nil {
				return ids
			}
		}
	}
	require.Len(t, list(func(*kms.ListGrantsInput) {}), 6)
	require.Equal(t, []string{*made.GrantId}, list(func(in *kms.ListGrantsInput) { in.GranteePrincipal = ptr(someone.caller.ARN()) }))
	require.Equal(t, []string{*made.GrantId}, list(func(in *kms.ListGrantsInput) { in.GrantId = made.GrantId }))
	require.Equal(t, []string{*made.GrantId}, list(func(in *kms.ListGrantsInput) {
		in.GrantId, in.GranteePrincipal = made.GrantId, ptr(someone.caller.ARN())
	}))
	for name, edit := range map[string]func(*kms.ListGrantsInput){
		"another key":       func(in *kms.ListGrantsInput) { in.KeyId, in.GrantId = second.KeyId, made.GrantId },
		"another grantee":   func(in *kms.ListGrantsInput) { in.GrantId, in.GranteePrincipal = made.GrantId, ptr(c.caller.ARN()) },
		"nobody":            func(in *kms.ListGrantsInput) { in.GranteePrincipal = ptr("arn:aws:iam::111122223333:user/none") },
		"an unknown id":     func(in *kms.ListGrantsInput) { in.GrantId = ptr("g") },
		"service principal": func(in *kms.ListGrantsInput) { in.GranteeServicePrincipal = ptr("rds.amazonaws.com") },
	} {
		require.Empty(t, list(edit), name)
	}
	page, err := c.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: key.KeyId, Limit: aws.Int32(2)})
	require.NoError(t, err)
	_, err = c.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: second.KeyId, Marker: page.NextMarker})
	requireCode(t, err, "InvalidMarkerException")

	retirable := &kms.ListRetirableGrantsInput{RetiringPrincipal: ptr(retiring.caller.ARN()), Limit: aws.Int32(4)}
	out, err := c.ListRetirableGrants(t.Context(), retirable)
	require.NoError(t, err)
	require.Len(t, out.Grants, 4)
	retirable.Marker = out.NextMarker
	rest, err := c.ListRetirableGrants(t.Context(), retirable)
	require.NoError(t, err)
	require.False(t, rest.Truncated)
	require.Len(t, rest.Grants, 2)
	require.Contains(t, append(out.Grants, rest.Grants...), entry)
	none, err := c.ListRetirableGrants(t.Context(), &kms.ListRetirableGrantsInput{RetiringPrincipal: ptr(c.caller.ARN())})
	require.NoError(t, err)
	require.Equal(t, &kms.ListRetirableGrantsOutput{Grants: []types.GrantListEntry{}}, none)
}

// Whatever grantees give to each other, and whatever ends meanwhile, nobody comes to what the first grant did not give.
func TestGrantsNeverGiveMoreThanTheFirst(t *testing.T) {
	c := newClient(t)
	all := []types.GrantOperation{opMAC, opVerify, opDescribe, opRetire, opGrant}
	users := []*Client{as(t, c, userName("a")), as(t, c, userName("b")), as(t, c, roleName("c")), as(t, c, roleName("d"))}
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		some := func() (operations []types.GrantOperation) {
			for _, operation := range all {
				if random.IntN(2) == 0 {
					operations = append(operations, operation)
				}
			}
			return append(operations, opMAC)
		}
		key := mustCreate(t, c, types.KeySpecHmac256)
		first := append(some(), opGrant)
		mustGrant(t, c, grantInput(key.KeyId, users[0], first...))
		var made []*kms.CreateGrantOutput
		for range 40 {
			if len(made) > 0 && random.IntN(6) == 0 {
				_ = revoke(c, key.KeyId, made[random.IntN(len(made))].GrantId) // which may have ended before
				continue
			}
			in := grantInput(key.KeyId, users[random.IntN(len(users))], some()...)
			if random.IntN(4) == 0 {
				in.RetiringPrincipal = in.GranteePrincipal
			}
			out, err := users[random.IntN(len(users))].CreateGrant(t.Context(), in)
			if err == nil {
				made = append(made, out)
				continue
			}
			requireCode(t, err, "AccessDeniedException")
		}
		for _, grant := range grantsOn(t, c, key.KeyId) {
			require.Subset(t, first, grant.Operations, "seed %d", seed)
		}
		for i, user := range users {
			may := map[types.GrantOperation]bool{}
			_, err := generate(t.Context(), user, key.KeyId, []byte("m"))
			may[opMAC] = err == nil
			may[opVerify] = !strings.Contains(verify(t.Context(), user, key.KeyId, []byte("m"), make([]byte, 32)).Error(), "AccessDenied")
			_, err = user.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
			may[opDescribe] = err == nil
			for operation, ok := range may {
				require.False(t, ok && !slices.Contains(first, operation), "seed %d: user %d may %s", seed, i, operation)
			}
		}
	}
	requireNoDiscrepancies(t, c.bridge)
}
