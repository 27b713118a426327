package pkcs11kms

import (
	"encoding/base64"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/policy"
)

const trustAccount = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:*"}]}`

// mustRole makes a role that everybody of the account may assume, with policies.
func mustRole(t testing.TB, c *Client, name string, policies ...string) {
	t.Helper()
	_, err := asRoot(c.bridge).CreatePrincipal(t.Context(), roleName(name), iam.PrincipalOptions{TrustPolicy: trustAccount})
	require.NoError(t, err)
	for i, document := range policies {
		require.NoError(t, asRoot(c.bridge).PutPrincipalPolicy(t.Context(), roleName(name), string(rune('a'+i)), document))
	}
}

// inSession is the client of a session of a role that by has begun, as a server finds it by the token; with a session policy, or "".
func inSession(t testing.TB, by *Client, role, name, sessionPolicy string) *Client {
	t.Helper()
	in := iam.AssumeRoleInput{RoleARN: arnOfPrincipal(roleName(role)), SessionName: name}
	if sessionPolicy != "" {
		in.Policy = &sessionPolicy
	}
	made, err := by.IAM().AssumeRole(t.Context(), in)
	require.NoError(t, err)
	_, caller, err := by.bridge.SessionKey(t.Context(), made.AccessKeyID, made.SessionToken, testDate, testRegion, "kms")
	require.NoError(t, err)
	require.Equal(t, made.ARN, caller.ARN())
	return by.As(caller)
}

// What a session may with a key: what its role's policies and its session policy allow together, what the key policy gives to the role as
// the session policy allows it, and what the key policy gives to the session.
func TestSessionsAndKeyPolicies(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	user := as(t, c, userName("User"))
	mustRole(t, c, "Role")
	free := inSession(t, user, "Role", "free", "")
	bounded := inSession(t, user, "Role", "bounded", allow("*", "kms:VerifyMac"))
	mac := func(s *Client) error {
		_, err := generate(t.Context(), s, key.KeyId, []byte("m"))
		return err
	}
	requireDenied(t, mac(free), free, "GenerateMac", *key.Arn, noIdentity("GenerateMac"))

	require.NoError(t, asRoot(c.bridge).PutPrincipalPolicy(t.Context(), roleName("Role"), "own", allow("*", "kms:*")))
	require.NoError(t, mac(free))
	requireDenied(t, mac(bounded), bounded, "GenerateMac", *key.Arn, "because no session policy allows the kms:GenerateMac action")
	require.NoError(t, asRoot(c.bridge).DeletePrincipalPolicy(t.Context(), roleName("Role"), "own"))

	putPolicy(t, c, key.KeyId, keyPolicy(grant("Allow", arnOfPrincipal(roleName("Role")), "kms:GenerateMac")))
	require.NoError(t, mac(free))
	requireCode(t, mac(bounded), "AccessDeniedException")
	putPolicy(t, c, key.KeyId, keyPolicy(grant("Allow", bounded.caller.ARN(), "kms:GenerateMac")))
	require.NoError(t, mac(bounded))
	requireCode(t, mac(free), "AccessDeniedException")
	require.Contains(t, policyOf(t, c, key.KeyId), `"`+bounded.caller.ARN()+`"`)
	stored, err := c.bridge.core.Store.Get(t.Context(), keystore.KeyRef(testRegion, testAccount, *key.KeyId))
	require.NoError(t, err)
	require.NotContains(t, string(stored.Value), "assumed-role", "the key policy is bound to the role's id")

	deny := `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"kms:*","Resource":"*"}]}`
	require.NoError(t, asRoot(c.bridge).PutPrincipalPolicy(t.Context(), roleName("Role"), "no", deny))
	requireDenied(t, mac(bounded), bounded, "GenerateMac", *key.Arn, "with an explicit deny in an identity-based policy")
	require.NoError(t, asRoot(c.bridge).DeletePrincipalPolicy(t.Context(), roleName("Role"), "no"))
	require.NoError(t, mac(bounded))

	require.NoError(t, asRoot(c.bridge).DeletePrincipal(t.Context(), roleName("Role")))
	requireCode(t, mac(bounded), "AccessDeniedException")
	require.Contains(t, policyOf(t, c, key.KeyId), `"`+bounded.caller.ID()+`"`)
	mustRole(t, c, "Role")
	requireCode(t, mac(bounded), "AccessDeniedException")
	requireCode(t, mac(inSession(t, user, "Role", "bounded", "")), "AccessDeniedException")

	_, err = c.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: key.KeyId,
		Policy: ptr(keyPolicy(grant("Allow", strings.Replace(bounded.caller.ARN(), "/Role/", "/None/", 1), "kms:GenerateMac")))})
	requireCode(t, err, "MalformedPolicyDocumentException")
}

// A grant to a session is that session's alone; one to its role is each session's, as its session policy allows.
func TestSessionsAndGrants(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	user := as(t, c, userName("User"))
	mustRole(t, c, "Role")
	one, two := inSession(t, user, "Role", "one", ""), inSession(t, user, "Role", "two", allow("*", "kms:VerifyMac"))
	mac := func(s *Client) error {
		_, err := generate(t.Context(), s, key.KeyId, []byte("m"))
		return err
	}
	made := mustGrant(t, c, grantInput(key.KeyId, two, opMAC, opRetire))
	require.NoError(t, mac(two), "whatever its session policy says")
	requireCode(t, mac(one), "AccessDeniedException")
	require.NoError(t, mac(inSession(t, user, "Role", "two", "")), "another session of the same role and name")
	require.Equal(t, two.caller.ARN(), *grantsOn(t, c, key.KeyId)[*made.GrantId].GranteePrincipal)
	require.Error(t, retire(one, kms.RetireGrantInput{GrantToken: made.GrantToken}))
	require.NoError(t, retire(two, kms.RetireGrantInput{GrantToken: made.GrantToken}))
	requireCode(t, mac(two), "AccessDeniedException")

	byRole, err := c.CreateGrant(t.Context(), &kms.CreateGrantInput{KeyId: key.KeyId, GranteePrincipal: ptr(arnOfPrincipal(roleName("Role"))),
		Operations: []types.GrantOperation{opMAC}})
	require.NoError(t, err)
	require.NoError(t, mac(one))
	requireCode(t, mac(two), "AccessDeniedException")
	require.NoError(t, revoke(c, key.KeyId, byRole.GrantId))
	requireCode(t, mac(one), "AccessDeniedException")

	retirable := grantInput(key.KeyId, one, opMAC)
	retirable.RetiringPrincipal = ptr(two.caller.ARN())
	mustGrant(t, c, retirable)
	list, err := c.ListRetirableGrants(t.Context(), &kms.ListRetirableGrantsInput{RetiringPrincipal: ptr(two.caller.ARN())})
	require.NoError(t, err)
	require.Len(t, list.Grants, 1)
	require.Equal(t, two.caller.ARN(), *list.Grants[0].RetiringPrincipal)
}

// Tokens are opened without the HSM: of 10,000 altered ones it hears nothing, in a process that has opened one before. A session works in
// each process of the store.
func TestForgedTokensAskTheHSMNothing(t *testing.T) {
	cfg, m := through(t)
	c := openClient(t, cfg)
	user := as(t, c, userName("User"))
	mustRole(t, c, "Role", allow("*", "kms:GenerateMac"))
	key := mustCreate(t, c, types.KeySpecHmac256)
	made, err := user.IAM().AssumeRole(t.Context(), iam.AssumeRoleInput{RoleARN: arnOfPrincipal(roleName("Role")), SessionName: "job"})
	require.NoError(t, err)
	other := openClient(t, cfg)
	try := func(token string) (Caller, error) {
		_, caller, err := other.bridge.SessionKey(t.Context(), made.AccessKeyID, token, testDate, testRegion, "kms")
		return caller, err
	}
	caller, err := try(made.SessionToken)
	require.NoError(t, err)
	_, err = generate(t.Context(), other.As(caller), key.KeyId, []byte("m"))
	require.NoError(t, err)
	signed := func() int { return m.Counters()["C_SignInit"].Calls + m.Counters()["C_FindObjectsInit"].Calls }
	before := signed()
	raw, err := base64.StdEncoding.DecodeString(made.SessionToken)
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(3, 4))
	for range 10_000 {
		altered := slices.Clone(raw)
		altered[random.IntN(len(raw))] ^= byte(1 + random.IntN(255))
		_, err := try(base64.StdEncoding.EncodeToString(altered))
		require.ErrorIs(t, err, iam.ErrUnknownAccessKey)
	}
	require.Equal(t, before, signed())
	for range 100 {
		_, err := try(made.SessionToken)
		require.NoError(t, err)
	}
	require.Equal(t, before, signed())
}

// A session that nobody has begun may what one would that begins now.
func TestSimulatedSessions(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	mustRole(t, c, "Role", allow("*", "kms:GenerateMac"))
	ask := Simulation{Principal: "arn:aws:sts::" + testAccount + ":assumed-role/Role/job", Action: "kms:GenerateMac", KeyID: *key.KeyId}
	verdict, err := c.bridge.SimulatePolicy(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, verdict.Allowed)
	ask.Session = allow("*", "kms:VerifyMac")
	verdict, err = c.bridge.SimulatePolicy(t.Context(), ask)
	require.NoError(t, err)
	require.Equal(t, policy.NoSessionAllow, verdict.Reason)
	putPolicy(t, c, key.KeyId, keyPolicy(grant("Allow", ask.Principal, "kms:GenerateMac")))
	verdict, err = c.bridge.SimulatePolicy(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, verdict.Allowed, "named by the key policy")
	ask.Principal = arnOfPrincipal(roleName("Role"))
	_, err = c.bridge.SimulatePolicy(t.Context(), ask)
	requireCode(t, err, "ValidationException")
	ask.Principal = "arn:aws:sts::" + testAccount + ":assumed-role/None/job"
	_, err = c.bridge.SimulatePolicy(t.Context(), ask)
	requireCode(t, err, "NoSuchEntity")
}
