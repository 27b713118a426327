package pkcs11kms

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"
)

// A policy comes back byte for byte, also when it names users and roles.
func TestKeyPolicyComesBackAsItWas(t *testing.T) {
	c := newClient(t)
	user := as(t, c, userName("reader"))
	key := mustCreate(t, c, types.KeySpecHmac256)
	require.Equal(t, defaultPolicyOf(c.bridge.Root()), policyOf(t, c, key.KeyId))

	document := "{ \"Statement\" :\t[\n" + grant("Allow", "111122223333", "kms:*") +
		" ,\r\n {\"Sid\":\"caf\u00e9 \\u0041\", \"Effect\":\"Allow\",\n" +
		`"Principal":{"AWS":["` + user.caller.ARN() + `", "444455556666"]}, "Action":["kms:DescribeKey"],"Resource":["*"]} ] }`
	putPolicy(t, c, key.KeyId, document)
	require.Equal(t, document, policyOf(t, c, key.KeyId))
	_, err := user.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: key.KeyId})
	require.NoError(t, err)

	made, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC", Policy: &document})
	require.NoError(t, err)
	require.Equal(t, document, policyOf(t, c, made.KeyMetadata.KeyId))
	_, err = user.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: made.KeyMetadata.KeyId})
	require.NoError(t, err)
}

// A policy means the principal that there was when it was saved. A namesake made later has no access, and the policy then
// shows the unique id, which cannot be saved again.
func TestKeyPolicyBindsToTheUniqueID(t *testing.T) {
	c := newClient(t)
	name := roleName("JwtProducer")
	first := as(t, c, name)
	key := mustCreate(t, c, types.KeySpecHmac256)
	document := keyPolicy(grant("Allow", first.caller.ARN(), "kms:GenerateMac"))
	putPolicy(t, c, key.KeyId, document)
	_, err := generate(t.Context(), first, key.KeyId, []byte("m"))
	require.NoError(t, err)

	require.NoError(t, asRoot(c.bridge).DeletePrincipal(t.Context(), name))
	second := as(t, c, name)
	require.Equal(t, first.caller.ARN(), second.caller.ARN())
	for _, who := range []*Client{first, second} {
		_, err = generate(t.Context(), who, key.KeyId, []byte("m"))
		requireDenied(t, err, who, "GenerateMac", *key.Arn, noIdentity("GenerateMac"))
	}
	shown := policyOf(t, c, key.KeyId)
	require.Equal(t, strings.Replace(document, first.caller.ARN(), first.caller.ID(), 1), shown)
	_, err = c.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: key.KeyId, Policy: &shown})
	requireAPIErrorLike(t, err, "MalformedPolicyDocumentException", invalidPrincipalsText+" Statement*: invalid principal *")
}

func TestKeyPolicyRefusals(t *testing.T) {
	c := newClient(t)
	key := mustCreate(t, c, types.KeySpecHmac256)
	admin := as(t, c, userName("admin"), allow("*", "kms:PutKeyPolicy"))
	put := func(who *Client, document string, bypass bool) error {
		_, err := who.PutKeyPolicy(t.Context(),
			&kms.PutKeyPolicyInput{KeyId: key.KeyId, Policy: &document, BypassPolicyLockoutSafetyCheck: bypass})
		return err
	}
	const malformed = "MalformedPolicyDocumentException"
	for _, principal := range []string{"arn:aws:iam::111122223333:user/nobody", "arn:aws:iam::111122223333:group/all",
		"arn:aws:iam::444455556666:user/u", "arn:aws-cn:iam::111122223333:root", "arn:aws:sts::111122223333:assumed-role/r/s",
		"AIDAAAAAAAAAAAAAAAAAA", "nonsense"} {
		requireAPIErrorLike(t, put(c, keyPolicy(grant("Allow", principal, "kms:*")), false), malformed,
			invalidPrincipalsText+" Statement*: invalid principal \"*")
	}
	only := func(statement string) string { return `{"Version":"2012-10-17","Statement":[` + statement + `]}` }
	for _, document := range []string{ // nobody could change it again, at least not the caller
		only(grant("Allow", c.caller.ARN(), "kms:Describe*")),
		only(grant("Allow", admin.caller.ARN(), "kms:*")),
		keyPolicy(grant("Deny", "*", "kms:Put*")),
	} {
		requireAPIError(t, put(c, document, false), malformed, lockoutText)
	}
	require.NoError(t, put(admin, keyPolicy(), false), "the account, and a policy of the user's own")
	require.NoError(t, put(admin, only(grant("Allow", admin.caller.ARN(), "kms:PutKeyPolicy")), false))
	err := put(c, keyPolicy(), false)
	requireDenied(t, err, c, "PutKeyPolicy", *key.Arn, "because no resource-based policy allows the kms:PutKeyPolicy action")
	require.NoError(t, put(admin, only(grant("Allow", "444455556666", "kms:*")), true), "locked out on purpose")
	requireDenied(t, put(admin, keyPolicy(), false), admin, "PutKeyPolicy", *key.Arn,
		"because no resource-based policy allows the kms:PutKeyPolicy action")

	var malformedError *types.MalformedPolicyDocumentException
	for _, document := range []string{"{", "[]", `{"Statement":[]}`,
		only(`{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"arn:aws:kms:*"}`),
		only(`{"Effect":"Allow","Action":"kms:*","Resource":"*"}`),
		only(`{"Effect":"Allow","Effect":"Deny","Principal":"*","Action":"kms:*","Resource":"*"}`)} {
		_, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC", Policy: &document})
		require.ErrorAs(t, err, &malformedError, document)
	}
	// A denial is told only to those whom something allows.
	named := as(t, c, userName("named"), allow("*", "kms:DescribeKey"))
	other := mustCreate(t, c, types.KeySpecHmac256)
	putPolicy(t, c, other.KeyId, keyPolicy(grant("Deny", named.caller.ARN(), "kms:DescribeKey")))
	_, err = named.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: other.KeyId})
	requireDenied(t, err, named, "DescribeKey", *other.Arn, "with an explicit deny in a resource-based policy")
}

// Operations on aliases need permissions on the alias and on every key that they concern.
func TestAliasPermissions(t *testing.T) {
	c := newClient(t)
	from, to := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	aliasARN := "arn:aws:kms:" + testRegion + ":" + testAccount + ":alias/app"
	create := func(who *Client) error {
		_, err := who.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: ptr("alias/app"), TargetKeyId: from.KeyId})
		return err
	}
	update := func(who *Client) error {
		_, err := who.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: ptr("alias/app"), TargetKeyId: to.KeyId})
		return err
	}
	remove := func(who *Client) error {
		_, err := who.DeleteAlias(t.Context(), &kms.DeleteAliasInput{AliasName: ptr("alias/app")})
		return err
	}
	steps := []struct {
		action string
		call   func(*Client) error
		keys   []*types.KeyMetadata
	}{
		{"CreateAlias", create, []*types.KeyMetadata{from}},
		{"UpdateAlias", update, []*types.KeyMetadata{to, from}},
		{"DeleteAlias", remove, []*types.KeyMetadata{to}},
	}
	for _, step := range steps {
		needed := []string{aliasARN}
		for _, key := range step.keys {
			needed = append(needed, *key.Arn)
		}
		for i, missing := range needed {
			// The answer does not name the key that the alias leads to.
			shown := missing
			if i > 1 || step.action == "DeleteAlias" {
				shown = aliasARN
			}
			name := userName(step.action + "-" + string(rune('a'+i)))
			policies := []string{}
			for _, resource := range needed {
				if resource != missing {
					policies = append(policies, allow(resource, "kms:"+step.action))
				}
			}
			who := as(t, c, name, policies...)
			requireDenied(t, step.call(who), who, step.action, shown, noIdentity(step.action))
		}
		policies := []string{}
		for _, resource := range needed {
			policies = append(policies, allow(resource, "kms:"+step.action))
		}
		require.NoError(t, step.call(as(t, c, userName(step.action), policies...)))
	}
	// A key policy can give the permission on the key, never the one on the alias.
	named := as(t, c, userName("named"))
	putPolicy(t, c, from.KeyId, keyPolicy(grant("Allow", named.caller.ARN(), "kms:CreateAlias")))
	requireDenied(t, create(named), named, "CreateAlias", aliasARN, noIdentity("CreateAlias"))
	require.NoError(t, asRoot(c.bridge).PutPrincipalPolicy(t.Context(), userName("named"), "p", allow(aliasARN, "kms:CreateAlias")))
	require.NoError(t, create(named))
}
