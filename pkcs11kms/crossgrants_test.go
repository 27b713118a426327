package pkcs11kms

import (
	"encoding/json"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudtrail"
	cttypes "github.com/aws/aws-sdk-go-v2/service/cloudtrail/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// A grant gives a user of another account what it says, by the unique id; to the account it leaves the rest.
func TestGrantsToOtherAccounts(t *testing.T) {
	c := newClient(t)
	second := inAccount(t, c, secondAccount)
	key := mustCreate(t, c, types.KeySpecHmac256)
	user, with, without := userOf(t, second, "u"), userOf(t, second, "with", allow("*", "kms:*")), userOf(t, second, "without")
	made := mustGrant(t, c, grantInput(key.KeyId, user, opMAC, opDescribe))
	mac := func(by *Client) error { _, err := generate(t.Context(), by, key.Arn, []byte("m")); return err }
	require.NoError(t, mac(user))
	requireCode(t, mac(second), "AccessDeniedException")
	requireCode(t, mac(with), "AccessDeniedException")
	require.Equal(t, user.caller.ARN(), *grantsOn(t, c, key.KeyId)[*made.GrantId].GranteePrincipal)
	_, err := user.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: key.Arn, MacAlgorithm: "HMAC_SHA_256", Message: []byte("m"),
		GrantTokens: []string{*made.GrantToken}})
	require.NoError(t, err)
	mustGrant(t, c, grantInput(key.KeyId, second, opMAC))
	require.NoError(t, mac(second))
	require.NoError(t, mac(with))
	requireCode(t, mac(without), "AccessDeniedException")

	require.NoError(t, second.IAM().DeletePrincipal(t.Context(), userName("u")))
	requireCode(t, mac(userOf(t, second, "u")), "AccessDeniedException")
	require.Equal(t, user.caller.ID(), *grantsOn(t, c, key.KeyId)[*made.GrantId].GranteePrincipal)
	in := grantInput(key.KeyId, c, opMAC)
	in.GranteePrincipal = ptr("arn:aws:iam::" + secondAccount + ":user/nobody")
	_, err = c.CreateGrant(t.Context(), in)
	requireCode(t, err, "InvalidArnException")
}

// Grants are made, listed and revoked from another account where the key policy says so. The root of the account that has made one may
// retire it, and that of the key may not: it revokes.
func TestGrantsMadeByOtherAccounts(t *testing.T) {
	c := newClient(t)
	second := inAccount(t, c, secondAccount)
	key := mustCreate(t, c, types.KeySpecHmac256)
	putPolicy(t, c, key.KeyId, keyPolicy(grant("Allow", secondAccount, "kms:*Grant*")))
	user := userOf(t, second, "u")
	in := grantInput(key.Arn, user, opMAC)
	in.Name = ptr("name")
	made := mustGrant(t, second, in)
	again := mustGrant(t, second, in)
	require.Equal(t, made.GrantId, again.GrantId)
	ours := grantInput(key.Arn, user, opMAC)
	ours.Name = ptr("name")
	require.NotEqual(t, made.GrantId, mustGrant(t, c, ours).GrantId, "the same grant of another account")
	shown := grantsOn(t, second, key.Arn)
	require.Len(t, shown, 2)
	require.Equal(t, second.caller.ARN(), *shown[*made.GrantId].IssuingAccount)
	require.Equal(t, *key.Arn, *shown[*made.GrantId].KeyId)
	_, err := generate(t.Context(), user, key.Arn, []byte("m"))
	require.NoError(t, err)

	third := inAccount(t, c, "777788889999")
	for _, by := range []*Client{c, third, user} {
		requireCode(t, retire(by, kms.RetireGrantInput{KeyId: key.Arn, GrantId: made.GrantId}), "AccessDeniedException")
		requireCode(t, retire(by, kms.RetireGrantInput{GrantToken: made.GrantToken}), "AccessDeniedException")
	}
	require.NoError(t, retire(second, kms.RetireGrantInput{GrantToken: again.GrantToken}))
	made = mustGrant(t, second, in)
	require.NoError(t, retire(second, kms.RetireGrantInput{KeyId: key.Arn, GrantId: made.GrantId}))
	require.NoError(t, revoke(c, key.KeyId, mustGrant(t, second, in).GrantId))
	require.NoError(t, revoke(second, key.Arn, mustGrant(t, second, in).GrantId))
	requireCode(t, revoke(third, key.Arn, mustGrant(t, second, in).GrantId), "AccessDeniedException")
	requireNoDiscrepancies(t, c.bridge)
}

// ListRetirableGrants has the grants on keys of all accounts, a page after the other, of principals of the own account alone.
func TestRetirableGrantsOfAllAccounts(t *testing.T) {
	c := newClient(t)
	second, third := inAccount(t, c, secondAccount), inAccount(t, c, "777788889999")
	retiring := userOf(t, second, "retiring", allow("*", "kms:ListRetirableGrants"))
	want, keys := map[string]string{}, map[string]*string{}
	for _, owner := range []*Client{c, second, third} {
		key := mustCreate(t, owner, types.KeySpecHmac256)
		for range 2 {
			in := grantInput(key.KeyId, owner, opMAC)
			in.RetiringPrincipal = ptr(retiring.caller.ARN())
			made := mustGrant(t, owner, in)
			want[*made.GrantId], keys[*made.GrantId] = *key.Arn, key.Arn
		}
	}
	got := map[string]string{}
	in := &kms.ListRetirableGrantsInput{RetiringPrincipal: ptr(retiring.caller.ARN()), Limit: aws.Int32(1)}
	for {
		out, err := retiring.ListRetirableGrants(t.Context(), in)
		require.NoError(t, err)
		for _, entry := range out.Grants {
			got[*entry.GrantId] = *entry.KeyId
		}
		if in.Marker = out.NextMarker; in.Marker == nil {
			break
		}
		_, err = third.ListRetirableGrants(t.Context(), in) // neither the principal nor the marker is its own
		requireCode(t, err, "AccessDeniedException")
		_, err = third.ListRetirableGrants(t.Context(), &kms.ListRetirableGrantsInput{RetiringPrincipal: ptr(third.caller.ARN()),
			Marker: in.Marker})
		requireCode(t, err, "InvalidMarkerException")
	}
	require.Equal(t, want, got)
	for _, by := range []*Client{c, third} {
		for _, principal := range []string{retiring.caller.ARN(), second.caller.ARN(), "arn:aws:iam::" + secondAccount + ":user/nobody",
			"arn:aws:iam::123412341234:root", "arn:aws:iam::123412341234:user/nobody"} {
			_, err := by.ListRetirableGrants(t.Context(), &kms.ListRetirableGrantsInput{RetiringPrincipal: &principal})
			requireCode(t, err, "AccessDeniedException")
		}
	}
	for id := range want {
		require.NoError(t, retire(retiring, kms.RetireGrantInput{KeyId: keys[id], GrantId: &id}))
	}
}

// eventsOf are the records that an account finds of an operation.
func eventsOf(t *testing.T, c *Client, name string) (found []map[string]any) {
	t.Helper()
	out, err := c.LookupEvents(t.Context(), &cloudtrail.LookupEventsInput{LookupAttributes: []cttypes.LookupAttribute{
		{AttributeKey: cttypes.LookupAttributeKeyEventName, AttributeValue: &name}}})
	require.NoError(t, err)
	for _, event := range out.Events {
		var record map[string]any
		require.NoError(t, json.Unmarshal([]byte(*event.CloudTrailEvent), &record))
		found = append(found, record)
	}
	return found
}

// The use of a key of another account is found by both, and by nobody else: by the key's without the caller's name. What was denied is the
// caller's alone, and says nothing of the key.
func TestBothAccountsFindTheUseOfAKey(t *testing.T) {
	c, _ := newSearched(t, nil)
	second, third := inAccount(t, c, secondAccount), inAccount(t, c, "777788889999")
	key := mustCreate(t, c, types.KeySpecHmac256)
	putPolicy(t, c, key.KeyId, keyPolicy(grant("Allow", secondAccount, "kms:GenerateMac"), grant("Allow", secondAccount, "kms:CreateGrant")))
	createAlias(t, c, "alias/shared", key.KeyId)
	user := userOf(t, second, "u", allow("*", "kms:GenerateMac"))
	user = user.As(user.caller.From(Connection{RequestID: "the-request", AccessKeyID: "AKIATESTTESTTESTTEST", UserAgent: "tester"}))
	_, err := generate(t.Context(), user, ptr(aliasOf(testAccount, "alias/shared")), []byte("m"))
	require.NoError(t, err)
	calling, owning := eventsOf(t, second, "GenerateMac"), eventsOf(t, c, "GenerateMac")
	require.Len(t, calling, 1)
	require.Len(t, owning, 1)
	require.Empty(t, eventsOf(t, third, "GenerateMac"))
	require.Equal(t, calling[0]["sharedEventID"], owning[0]["sharedEventID"])
	require.Len(t, calling[0]["sharedEventID"], 36)
	require.NotEqual(t, calling[0]["eventID"], owning[0]["eventID"])
	require.Equal(t, [2]any{secondAccount, testAccount}, [2]any{calling[0]["recipientAccountId"], owning[0]["recipientAccountId"]})
	require.Equal(t, map[string]any{"type": "AWSAccount", "principalId": user.caller.ID(), "accountId": secondAccount},
		owning[0]["userIdentity"])
	require.Equal(t, user.caller.ARN(), calling[0]["userIdentity"].(map[string]any)["arn"])
	for _, same := range []string{"requestID", "eventTime", "requestParameters", "resources", "sourceIPAddress"} {
		require.Equal(t, calling[0][same], owning[0][same], same)
	}
	require.Equal(t, *key.Arn, owning[0]["resources"].([]any)[0].(map[string]any)["ARN"])
	used, err := c.GetKeyLastUsage(t.Context(), &kms.GetKeyLastUsageInput{KeyId: key.KeyId})
	require.NoError(t, err)
	require.Equal(t, owning[0]["eventID"], *used.KeyLastUsage.CloudTrailEventId)

	made := mustGrant(t, second, grantInput(key.Arn, user, opMAC))
	calling, owning = eventsOf(t, second, "CreateGrant"), eventsOf(t, c, "CreateGrant")
	require.Len(t, calling, 1)
	require.Len(t, owning, 1)
	require.Equal(t, *made.GrantId, owning[0]["responseElements"].(map[string]any)["grantId"])
	require.Equal(t, calling[0]["responseElements"], owning[0]["responseElements"])

	_, err = generate(t.Context(), user, ptr("nonsense"), []byte("m"))
	requireCode(t, err, "NotFoundException")
	for _, id := range []string{*key.Arn, aliasOf(testAccount, "alias/none"), aliasOf(testAccount, "alias/shared"),
		"arn:aws:kms:" + testRegion + ":" + testAccount + ":key/" + unknownID} {
		_, err = third.GenerateMac(t.Context(), &kms.GenerateMacInput{KeyId: &id, MacAlgorithm: "HMAC_SHA_256", Message: []byte("m")})
		requireCode(t, err, "AccessDeniedException")
	}
	require.Len(t, eventsOf(t, c, "GenerateMac"), 1)
	denied := eventsOf(t, third, "GenerateMac")
	require.Len(t, denied, 4)
	for _, record := range denied {
		require.Equal(t, []any{}, record["resources"])
		require.NotContains(t, record, "sharedEventID")
		require.NotContains(t, record, "additionalEventData")
	}
	requireCode(t, retire(third, kms.RetireGrantInput{KeyId: key.Arn, GrantId: made.GrantId}), "AccessDeniedException")
	requireCode(t, retire(third, kms.RetireGrantInput{KeyId: key.Arn, GrantId: ptr(unknownID)}), "AccessDeniedException")
	denied = eventsOf(t, third, "RetireGrant")
	require.Len(t, denied, 2)
	for _, record := range denied {
		require.Equal(t, []any{}, record["resources"])
		require.NotContains(t, record, "additionalEventData")
	}
}

// A role that somebody of another account assumes is found by both; what its trust denied is the caller's alone, and looks the same whether
// there is such a role or not.
func TestBothAccountsFindTheSessionOfARole(t *testing.T) {
	c, _ := newSearched(t, nil)
	second := inAccount(t, c, secondAccount)
	user := userOf(t, second, "u", allow("*", "sts:AssumeRole"))
	role, err := c.IAM().CreatePrincipal(t.Context(), roleName("r"), iam.PrincipalOptions{TrustPolicy: `{"Version":"2012-10-17",` +
		`"Statement":{"Effect":"Allow","Principal":{"AWS":"` + user.caller.ARN() + `"},"Action":"sts:AssumeRole"}}`})
	require.NoError(t, err)
	_, err = user.IAM().AssumeRole(t.Context(), iam.AssumeRoleInput{RoleARN: role.ARN, SessionName: "job"})
	require.NoError(t, err)
	calling, owning := eventsOf(t, second, "AssumeRole"), eventsOf(t, c, "AssumeRole")
	require.Len(t, calling, 1)
	require.Len(t, owning, 1)
	require.Equal(t, calling[0]["sharedEventID"], owning[0]["sharedEventID"])
	require.Len(t, owning[0]["sharedEventID"], 36)
	require.NotEqual(t, calling[0]["eventID"], owning[0]["eventID"])
	require.Equal(t, map[string]any{"type": "AWSAccount", "principalId": user.caller.ID(), "accountId": secondAccount},
		owning[0]["userIdentity"])
	require.Equal(t, calling[0]["responseElements"], owning[0]["responseElements"])
	for _, arn := range []string{role.ARN, role.ARN + "x"} {
		_, err = second.IAM().AssumeRole(t.Context(), iam.AssumeRoleInput{RoleARN: arn, SessionName: "job"})
		require.Error(t, err)
		_, err = userOf(t, second, "by"+arn[len(arn)-1:], allow("*", "sts:*")).IAM().AssumeRole(t.Context(),
			iam.AssumeRoleInput{RoleARN: arn, SessionName: "job"})
		require.ErrorContains(t, err, "AccessDenied")
	}
	require.Len(t, eventsOf(t, c, "AssumeRole"), 1)
	denied := eventsOf(t, second, "AssumeRole")
	require.Len(t, denied, 5)
	for i, record := range denied[:4] {
		require.NotContains(t, record, "sharedEventID")
		require.Equal(t, len(denied[(i+2)%4]["resources"].([]any)), len(record["resources"].([]any)))
	}
}
