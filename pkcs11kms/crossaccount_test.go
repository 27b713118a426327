package pkcs11kms

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// noKeyPolicy is why a caller of another account is refused, whatever the reason.
func noKeyPolicy(op string) string {
	return "because no resource-based policy allows the " + actionOf(op) + " action"
}

// aliasOf is the ARN of an alias of an account.
func aliasOf(account, name string) string {
	return "arn:aws:kms:" + testRegion + ":" + account + ":" + name
}

// fillAcross is fillAll for a key of another account, with a grant that there is.
func fillAcross(op, keyID, grantID string, c *Client) func(reflect.Value) {
	return func(in reflect.Value) {
		fillAll(op, keyID, c)(in)
		if id := in.FieldByName("GrantId"); id.IsValid() {
			id.Set(reflect.ValueOf(&grantID))
		}
	}
}

// Each operation does across accounts what its row says: whom the key policy and the own account allow everything may call those that
// have the column, by key ARN and by alias ARN, and is denied the others.
func TestOperationsAcrossAccounts(t *testing.T) {
	c := newClient(t)
	second := inAccount(t, c, secondAccount)
	key := mustCreate(t, c, types.KeySpecHmac256)
	putPolicy(t, c, key.KeyId, keyPolicy(grant("Allow", secondAccount, "kms:*")))
	createAlias(t, c, "alias/shared", key.KeyId)
	n := 0
	for _, op := range operations() {
		if !namesKey(op) {
			continue
		}
		row, ids := rowOf(op), []string{*key.Arn}
		if row.TakesAlias {
			ids = append(ids, aliasOf(testAccount, "alias/shared"))
		}
		for _, id := range ids {
			in := grantInput(key.KeyId, c, opMAC)
			in.RetiringPrincipal = ptr(second.caller.ARN())
			grantID := *mustGrant(t, c, in).GrantId
			before, version := storedKey(t, c, key.KeyId)
			err := invoke(t, t.Context(), second, op, fillAcross(op, id, grantID, c))
			if row.Across && row.Answer != ops.NotSupported {
				if err != nil {
					require.NotContains(t, err.Error(), "AccessDeniedException", "%s of %s", op, id)
				}
				n++
			} else if row.Answer != ops.NotSupported {
				requireDenied(t, err, second, op, id, noKeyPolicy(op))
			}
			after, now := storedKey(t, c, key.KeyId)
			require.Equal(t, before, after, op)
			require.Equal(t, version, now, op)
		}
	}
	require.Greater(t, n, 20)
	_, err := second.ListAliases(t.Context(), &kms.ListAliasesInput{KeyId: key.Arn})
	requireDenied(t, err, second, "ListAliases", *key.Arn, noKeyPolicy("ListAliases"))
	for action, want := range map[string]bool{"kms:GenerateMac": true, "kms:DisableKey": false, "kms:GetKeyPolicy": false} {
		verdict, err := c.bridge.SimulatePolicy(t.Context(), Simulation{Principal: second.caller.ARN(), Action: action, KeyID: *key.Arn})
		require.NoError(t, err)
		require.Equal(t, want, verdict.Allowed, action)
	}
	for _, op := range []string{"GenerateMac", "DescribeKey", "GetKeyRotationStatus", "ListGrants"} {
		require.NoError(t, invoke(t, t.Context(), second, op, fillAll(op, *key.Arn, c)), op)
	}
}

// Whoever is of another account and may do nothing with a key gets one answer, by the same calls of the store: whether there is such a key
// or alias or account or not, whatever policies and conditions say, fresh or cached. No operation does anything for it.
func TestNothingIsRevealedToOtherAccounts(t *testing.T) {
	cfg, store := counting(t)
	c := openClient(t, cfg)
	second := inAccount(t, c, secondAccount)
	const byKind = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:*","Resource":"*",` +
		`"Condition":{"StringEquals":{"kms:KeySpec":"HMAC_256"}}},{"Effect":"Deny","Action":"kms:*","Resource":"*",` +
		`"Condition":{"StringEquals":{"kms:KeySpec":"HMAC_512"}}}]}`
	callers := []*Client{second, userOf(t, second, "all", allow("*", "kms:*")), userOf(t, second, "none"), userOf(t, second, "kinds", byKind)}
	plain, denying := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	longer := mustCreate(t, c, types.KeySpecHmac512)
	putPolicy(t, c, denying.KeyId, keyPolicy(grant("Deny", "*", "kms:Verify*"), grant("Deny", secondAccount, "kms:*")))
	createAlias(t, c, "alias/there", plain.KeyId)
	mustGrant(t, c, grantInput(plain.KeyId, c, opMAC))
	own := "arn:aws:kms:" + testRegion + ":" + testAccount + ":key/"
	keys := []string{*plain.Arn, *denying.Arn, *longer.Arn, own + unknownID, strings.Replace(own, testAccount, "777788889999", 1) + unknownID}
	aliases := []string{aliasOf(testAccount, "alias/there"), aliasOf(testAccount, "alias/none"), aliasOf("777788889999", "alias/none")}
	ask := func(by *Client, op, id string, cached bool) (string, []string) {
		require.NoError(t, c.bridge.core.Cache.Confirm(t.Context()))
		c.bridge.core.Cache.Drop()
		_, err := c.bridge.core.Identities.Identify(t.Context(), by.caller)
		require.NoError(t, err)
		if cached {
			_, _ = c.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
		}
		store.take()
		err = invoke(t, t.Context(), by, op, fillAll(op, id, c))
		requireCode(t, err, "AccessDeniedException")
		require.ErrorContains(t, err, noKeyPolicy(op))
		return strings.ReplaceAll(err.Error(), id, "ID"), store.take()
	}
	for _, op := range operations() {
		if !namesKey(op) || rowOf(op).Answer == ops.NotSupported {
			continue
		}
		for _, by := range callers {
			lists := [][]string{keys}
			if rowOf(op).TakesAlias {
				lists = append(lists, aliases)
			}
			for _, ids := range lists {
				text, calls := ask(by, op, ids[len(ids)-1], false)
				for _, id := range ids {
					for _, cached := range []bool{false, true} {
						otherText, otherCalls := ask(by, op, id, cached)
						require.Equal(t, text, otherText, "%s of %s by %s", op, id, by.caller.ARN())
						require.Equal(t, calls, otherCalls, "%s of %s by %s", op, id, by.caller.ARN())
					}
				}
			}
		}
	}
}

// Across accounts both must allow: the key's policy the account or the user, and the user's own account the user.
func TestBothAccountsMustAllow(t *testing.T) {
	c := newClient(t)
	second := inAccount(t, c, secondAccount)
	key := mustCreate(t, c, types.KeySpecHmac256)
	with, without := userOf(t, second, "with", allow(*key.Arn, "kms:GenerateMac")), userOf(t, second, "without")
	elsewhere := userOf(t, second, "elsewhere", allow("arn:aws:kms:*:"+secondAccount+":key/*", "kms:*"))
	denied := userOf(t, second, "denied", allow("*", "kms:*"), strings.Replace(allow("*", "kms:GenerateMac"), "Allow", "Deny", 1))
	third := inAccount(t, c, "777788889999")
	mac := func(by *Client) error { _, err := generate(t.Context(), by, key.Arn, []byte("m")); return err }
	for name, of := range map[string]struct {
		statement string
		may       []*Client
	}{
		"nobody":            {grant("Allow", testAccount, "kms:*"), nil},
		"the account":       {grant("Allow", secondAccount, "kms:GenerateMac"), []*Client{second, with}},
		"the root's ARN":    {grant("Allow", second.caller.ARN(), "kms:GenerateMac"), []*Client{second, with}},
		"everybody":         {grant("Allow", "*", "kms:GenerateMac"), []*Client{second, with, third}},
		"the user":          {grant("Allow", with.caller.ARN(), "kms:GenerateMac"), []*Client{with}},
		"one without right": {grant("Allow", without.caller.ARN(), "kms:GenerateMac"), nil},
		"another action":    {grant("Allow", secondAccount, "kms:VerifyMac"), nil},
		"but the user": {grant("Allow", secondAccount, "kms:GenerateMac") + "," + grant("Deny", with.caller.ARN(), "kms:GenerateMac"),
			[]*Client{second}},
		"but the account": {grant("Allow", with.caller.ARN(), "kms:GenerateMac") + "," + grant("Deny", secondAccount, "kms:GenerateMac"), nil},
	} {
		putPolicy(t, c, key.KeyId, keyPolicy(of.statement))
		for _, by := range []*Client{second, with, without, elsewhere, denied, third} {
			err := mac(by)
			allowed := false
			for _, may := range of.may {
				allowed = allowed || may == by
			}
			require.Equal(t, allowed, err == nil, "%s: %s: %v", name, by.caller.ARN(), err)
		}
	}
	// Whom the key's account lets learns what is missing of his own; and that counts at once.
	putPolicy(t, c, key.KeyId, keyPolicy(grant("Allow", secondAccount, "kms:GenerateMac")))
	requireDenied(t, mac(without), without, "GenerateMac", *key.Arn, noIdentity("GenerateMac"))
	requireDenied(t, mac(denied), denied, "GenerateMac", *key.Arn, "with an explicit deny in an identity-based policy")
	require.NoError(t, mac(with))
	require.NoError(t, mac(c))
	require.NoError(t, second.IAM().DeletePrincipalPolicy(t.Context(), userName("with"), "p0"))
	requireDenied(t, mac(with), with, "GenerateMac", *key.Arn, noIdentity("GenerateMac"))
	putPolicy(t, c, key.KeyId, keyPolicy())
	requireDenied(t, mac(second), second, "GenerateMac", *key.Arn, noKeyPolicy("GenerateMac"))
}

// Another process refuses within a second whom a key's account has let, too.
func TestPermissionsOfOtherAccountsEndEverywhere(t *testing.T) {
	cfg := newConfig(t)
	c, other := openClient(t, cfg), openClient(t, cfg)
	second := inAccount(t, c, secondAccount)
	key := mustCreate(t, c, types.KeySpecHmac256)
	putPolicy(t, c, key.KeyId, keyPolicy(grant("Allow", secondAccount, "kms:GenerateMac")))
	mac := func() error {
		_, err := generate(t.Context(), other.As(second.caller), key.Arn, []byte("m"))
		return err
	}
	require.Eventually(t, func() bool { return mac() == nil }, 2*time.Second, 10*time.Millisecond)
	putPolicy(t, c, key.KeyId, keyPolicy())
	require.Eventually(t, func() bool { return mac() != nil }, 1500*time.Millisecond, 10*time.Millisecond)
}

// A key policy keeps the unique id of a user of another account: it is shown by its ARN, and by the id when it has gone, and a namesake has
// nothing of it.
func TestKeyPoliciesNameUsersOfOtherAccounts(t *testing.T) {
	c := newClient(t)
	second := inAccount(t, c, secondAccount)
	user := userOf(t, second, "u", allow("*", "kms:*"))
	mine := userOf(t, c, "mine")
	key := mustCreate(t, c, types.KeySpecHmac256)
	document := keyPolicy(grant("Allow", user.caller.ARN(), "kms:GenerateMac"), grant("Allow", mine.caller.ARN(), "kms:GenerateMac"))
	putPolicy(t, c, key.KeyId, document)
	require.Equal(t, document, policyOf(t, c, key.KeyId))
	_, err := generate(t.Context(), user, key.Arn, []byte("m"))
	require.NoError(t, err)
	stored, _ := storedKey(t, c, key.KeyId)
	require.Contains(t, stored.Policy, `"`+secondAccount+"/"+user.caller.ID()+`"`)
	require.Contains(t, stored.Policy, `"`+mine.caller.ID()+`"`)

	require.NoError(t, second.IAM().DeletePrincipalPolicy(t.Context(), userName("u"), "p0"))
	require.NoError(t, second.IAM().DeletePrincipal(t.Context(), userName("u")))
	again := userOf(t, second, "u", allow("*", "kms:*"))
	_, err = generate(t.Context(), again, key.Arn, []byte("m"))
	requireCode(t, err, "AccessDeniedException")
	require.Equal(t, strings.Replace(document, user.caller.ARN(), user.caller.ID(), 1), policyOf(t, c, key.KeyId))
	for _, name := range []string{"arn:aws:iam::" + secondAccount + ":user/nobody", "arn:aws:iam::777788889999:user/u", user.caller.ID(),
		secondAccount + "/" + user.caller.ID(), again.caller.ID(), testAccount + "/" + again.caller.ID()} {
		_, err = c.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: key.KeyId, Policy: ptr(keyPolicy(grant("Allow", name, "kms:*")))})
		requireCode(t, err, "MalformedPolicyDocumentException")
	}
}

// The condition keys of a key are those of the key of another account, and of its account, in policies of either side.
func TestConditionsAcrossAccounts(t *testing.T) {
	c := newClient(t)
	second := inAccount(t, c, secondAccount)
	key := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/shared", key.KeyId)
	theirs := mustCreate(t, second, types.KeySpecHmac256)
	createAlias(t, second, "alias/other", theirs.KeyId)
	putPolicy(t, c, key.KeyId, keyPolicy(grant("Allow", secondAccount, "kms:GenerateMac")))
	for condition, want := range map[string]bool{
		`"StringEquals":{"aws:ResourceAccount":"` + testAccount + `"}`:                      true,
		`"StringEquals":{"aws:ResourceAccount":"` + secondAccount + `"}`:                    false,
		`"StringEquals":{"aws:PrincipalAccount":"` + secondAccount + `"}`:                   true,
		`"StringEquals":{"kms:CallerAccount":"` + testAccount + `"}`:                        false,
		`"ForAnyValue:StringEquals":{"kms:ResourceAliases":"alias/shared"}`:                 true,
		`"ForAnyValue:StringEquals":{"kms:ResourceAliases":["alias/other","alias/shared"]}`: true,
		`"ForAnyValue:StringEquals":{"kms:ResourceAliases":"alias/other"}`:                  false,
		`"StringEquals":{"kms:RequestAlias":"alias/shared"}`:                                false,
	} {
		user := userOf(t, second, "u", strings.Replace(allow("*", "kms:GenerateMac"), `"Resource":"*"`,
			`"Resource":"*","Condition":{`+condition+`}`, 1))
		for range 2 { // from the store, and cached
			_, err := generate(t.Context(), user, key.Arn, []byte("m"))
			require.Equal(t, want, err == nil, "%s: %v", condition, err)
		}
		require.NoError(t, second.IAM().DeletePrincipalPolicy(t.Context(), userName("u"), "p0"))
		require.NoError(t, second.IAM().DeletePrincipal(t.Context(), userName("u")))
	}
}
