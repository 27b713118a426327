package pkcs11kms

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

// The simulation says what the call does, with the condition keys that every request has.
func TestSimulationsAreTrue(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	createAlias(t, c, "alias/a", key.KeyId)
	for name, deny := range map[string]string{
		"open": "", "bypass": can("Deny", "kms:PutKeyPolicy", `"Bool":{"kms:BypassPolicyLockoutSafetyCheck":"false"}`),
		"window": can("Deny", "kms:ScheduleKeyDeletion", `"NumericLessThanEquals":{"kms:ScheduleKeyDeletionPendingWindowInDays":"30"}`),
		"origin": can("Deny", "kms:CreateKey", `"StringEquals":{"kms:KeyOrigin":"AWS_KMS"}`),
		"alias":  can("Deny", "kms:DescribeKey", `"StringEquals":{"kms:RequestAlias":"alias/a"}`),
	} {
		policies := []string{allow("*", "kms:*")}
		if deny != "" {
			policies = append(policies, statements(deny))
		}
		user := as(t, c, userName(name), policies...)
		check := func(action, keyID string, err error) {
			t.Helper()
			v, simulated := c.bridge.SimulatePolicy(t.Context(), Simulation{Principal: user.caller.ARN(), Action: action, KeyID: keyID})
			require.NoError(t, simulated)
			require.Equal(t, err == nil, v.Allowed, "%s for %s: %v", action, name, err)
		}
		document := keyPolicy()
		_, err := user.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: key.KeyId, Policy: &document})
		check("kms:PutKeyPolicy", *key.KeyId, err)
		_, err = user.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC"})
		check("kms:CreateKey", "", err)
		_, err = user.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: ptr("alias/a")})
		check("kms:DescribeKey", "alias/a", err)
		doomed := mustCreate(t, c, types.KeySpecHmac256)
		_, err = user.ScheduleKeyDeletion(t.Context(), &kms.ScheduleKeyDeletionInput{KeyId: doomed.KeyId})
		check("kms:ScheduleKeyDeletion", *doomed.KeyId, err)
		_, err = c.bridge.SimulatePolicy(t.Context(), Simulation{Principal: user.caller.ARN(), Action: "kms:EnableKey", KeyID: "alias/a"})
		requireAPIError(t, err, "NotFoundException", "Invalid keyId 'alias/a'")
	}
}

func TestSimulationsKnowGrants(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	user := as(t, c, userName("someone"))
	mustGrant(t, c, grantInput(key.KeyId, user, opMAC, opGrant))
	for action, want := range map[string]bool{"kms:GenerateMac": true, "kms:VerifyMac": false, "kms:CreateGrant": false} {
		v, err := c.bridge.SimulatePolicy(t.Context(), Simulation{Principal: user.caller.ARN(), Action: action, KeyID: *key.KeyId})
		require.NoError(t, err)
		require.Equal(t, want, v.Allowed, action)
		require.Equal(t, want, v.Reason == policy.AllowedByGrant, action)
	}
	for operation, want := range map[string]bool{"GenerateMac": true, "VerifyMac": false} {
		v, err := c.bridge.SimulatePolicy(t.Context(), Simulation{Principal: user.caller.ARN(), Action: "kms:CreateGrant", KeyID: *key.KeyId,
			Context: map[string][]string{"kms:GrantOperations": {operation}}})
		require.NoError(t, err)
		require.Equal(t, want, v.Allowed, operation)
	}
}
