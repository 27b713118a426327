package pkcs11kms

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

const secondAccount = "444455556666"

// inAccount makes an account, and returns the client of its root.
func inAccount(t testing.TB, c *Client, id string) *Client {
	t.Helper()
	_, err := c.CreateAccount(t.Context(), NewAccount{ID: id, Agreed: true})
	require.NoError(t, err)
	root, err := c.bridge.RootOf(t.Context(), id)
	require.NoError(t, err)
	return c.As(root)
}

// userOf makes a user of the account of a root, with policies of its own, and returns the client that acts in its name.
func userOf(t testing.TB, root *Client, name string, policies ...string) *Client {
	t.Helper()
	made, err := root.IAM().CreatePrincipal(t.Context(), userName(name), iam.PrincipalOptions{})
	require.NoError(t, err)
	for i, document := range policies {
		require.NoError(t, root.IAM().PutPrincipalPolicy(t.Context(), userName(name), fmt.Sprintf("p%d", i), document))
	}
	caller, err := root.bridge.Caller(t.Context(), made.ARN)
	require.NoError(t, err)
	return root.As(caller)
}

// requireRefusal asserts that an administrative request was refused for a reason.
func requireRefusal(t testing.TB, err error, problem string) *RefusedError {
	t.Helper()
	var refused *RefusedError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Problem, problem)
	return refused
}

// An account that one process makes is one in every other, within a second. Before that its root is nobody.
func TestAccountsAreMadeWhileOthersRun(t *testing.T) {
	cfg := newConfig(t)
	c, other := openClient(t, cfg), openClient(t, cfg)
	early := other.As(other.bridge.core.Identities.Root(secondAccount))
	_, err := early.ListKeys(t.Context(), nil)
	requireCode(t, err, "AccessDeniedException")
	_, err = other.bridge.RootOf(t.Context(), secondAccount)
	require.ErrorContains(t, err, "NoSuchEntity")
	second := inAccount(t, c, secondAccount)
	key, err := second.IAM().CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { _, err := early.ListKeys(t.Context(), nil); return err == nil }, 2*time.Second, 10*time.Millisecond)
	_, caller, err := other.bridge.SigningKey(t.Context(), key.ID, "20261201", testRegion, "kms")
	require.NoError(t, err)
	require.Equal(t, second.caller, caller)

	made, err := other.ListAccounts(t.Context())
	require.NoError(t, err)
	require.Len(t, made, 2)
	require.Equal(t, [4]string{testAccount, secondAccount, "arn:aws:iam::" + testAccount + ":root", second.caller.ARN()},
		[4]string{made[0].ID, made[1].ID, made[0].ARN, made[1].ARN})
	require.WithinDuration(t, time.Now(), made[1].Created, time.Minute)
	_, err = c.CreateAccount(t.Context(), NewAccount{ID: secondAccount})
	requireRefusal(t, err, "already")
	_, err = c.CreateAccount(t.Context(), NewAccount{ID: testAccount})
	requireRefusal(t, err, "already")
	for _, wrong := range []string{"", "44445555666", "4444555566667", "44445555666x"} {
		_, err = c.CreateAccount(t.Context(), NewAccount{ID: wrong})
		requireRefusal(t, err, "12 digits")
	}
	for _, wrong := range []string{strings.Repeat("n", keystore.MaxAccountName+1), "a\nb", "a\xff"} {
		_, err = c.CreateAccount(t.Context(), NewAccount{ID: "777788889999", Name: wrong})
		requireRefusal(t, err, "the account's name")
	}
	requireNoDiscrepancies(t, c.bridge)
}

// What is about the whole of the service is for the account that the configuration names.
func TestOtherAccountsDoNotAdministrate(t *testing.T) {
	c := newClient(t)
	second := inAccount(t, c, secondAccount)
	_, err := second.ListAccounts(t.Context())
	requireCode(t, err, "AccessDeniedException")
	_, err = second.CreateAccount(t.Context(), NewAccount{ID: "777788889999"})
	requireCode(t, err, "AccessDeniedException")
	_, err = userOf(t, c, "someone", allow("*", "kms:*")).CreateAccount(t.Context(), NewAccount{ID: "777788889999"})
	requireCode(t, err, "AccessDeniedException")
	_, err = userOf(t, c, "operator", allow("*", "pkcs11kms:*")).CreateAccount(t.Context(), NewAccount{ID: "777788889999"})
	require.NoError(t, err)
}

// There are 1,000 accounts at most, the configured one among them.
func TestAccountsAreBounded(t *testing.T) {
	c := newClient(t)
	inAccount(t, c, secondAccount)
	counter := keystore.Counter{Name: keystore.CounterAccounts, N: 999}
	rec, err := c.bridge.core.Store.Get(t.Context(), counter.Put(0).Ref)
	require.NoError(t, err)
	put(t, c, counter.Put(rec.Version))
	_, err = c.CreateAccount(t.Context(), NewAccount{ID: "777788889999"})
	require.NoError(t, err)
	_, err = c.CreateAccount(t.Context(), NewAccount{ID: "777788880000"})
	requireRefusal(t, err, "there are 1000 accounts already")
}

// Each account has its own names, lists and default policy; the root of one may do nothing with a key of another.
func TestAccountsAreApart(t *testing.T) {
	c := newClient(t)
	second := inAccount(t, c, secondAccount)
	mine, theirs := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, second, types.KeySpecHmac256)
	require.Equal(t, secondAccount, *theirs.AWSAccountId)
	require.Equal(t, defaultPolicyOf(second.caller), policyOf(t, second, theirs.KeyId))
	for client, key := range map[*Client]*types.KeyMetadata{c: mine, second: theirs} {
		createAlias(t, client, "alias/same", key.KeyId)
		_, err := client.IAM().CreatePrincipal(t.Context(), userName("same"), iam.PrincipalOptions{})
		require.NoError(t, err)
		keys, err := client.ListKeys(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, []types.KeyListEntry{{KeyArn: key.Arn, KeyId: key.KeyId}}, keys.Keys)
		aliases, err := client.ListAliases(t.Context(), nil)
		require.NoError(t, err)
		require.Len(t, aliases.Aliases, 1)
		require.Equal(t, *key.KeyId, *aliases.Aliases[0].TargetKeyId)
		users, err := client.IAM().ListPrincipals(t.Context(), keystore.PrincipalUser, "")
		require.NoError(t, err)
		require.Len(t, users, 1)
		_, err = generate(t.Context(), client, ptr("alias/same"), []byte("m"))
		require.NoError(t, err)
	}
	for client, key := range map[*Client]*types.KeyMetadata{c: theirs, second: mine} {
		_, err := generate(t.Context(), client, key.KeyId, []byte("m"))
		requireCode(t, err, "NotFoundException") // a bare id is of the own account
		_, err = generate(t.Context(), client, key.Arn, []byte("m"))
		requireCode(t, err, "AccessDeniedException")
	}
	n, err := c.bridge.CountKeys(t.Context(), testRegion)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	requireNoDiscrepancies(t, c.bridge)
}

// Of the keys that others hold, the request rate and the quota are their own.
func TestAccountsHaveTheirOwnQuotasAndRates(t *testing.T) {
	cfg := newConfig(t)
	cfg.Quotas = Quotas{Keys: 1}
	c := openClient(t, cfg)
	second := inAccount(t, c, secondAccount)
	mine := mustCreate(t, c, types.KeySpecHmac256)
	mustCreate(t, second, types.KeySpecHmac256)
	_, err := second.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: "HMAC_256", KeyUsage: "GENERATE_VERIFY_MAC"})
	requireCode(t, err, "LimitExceededException")
	putPolicy(t, c, mine.KeyId, keyPolicy(grant("Allow", secondAccount, "kms:*")))
	throttled := func(client *Client) error {
		for range 200 {
			if _, err := client.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: mine.Arn}); err != nil {
				return err
			}
		}
		return nil
	}
	requireCode(t, throttled(second), "ThrottlingException")
	_, err = c.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: mine.Arn})
	require.NoError(t, err, "the caller's account pays")
}

// What names the number of an account, or everybody, is found before the account makes it count.
func TestMentionsOfAnAccountThatIsNotThereYet(t *testing.T) {
	c := newClient(t)
	named, everybody, denying := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256),
		mustCreate(t, c, types.KeySpecHmac256)
	putPolicy(t, c, named.KeyId, keyPolicy(grant("Allow", "arn:aws:iam::"+secondAccount+":root", "kms:GenerateMac")))
	putPolicy(t, c, everybody.KeyId, keyPolicy(grant("Allow", "*", "kms:DescribeKey")))
	putPolicy(t, c, denying.KeyId, keyPolicy(grant("Deny", secondAccount, "kms:*")))
	granted := mustCreate(t, c, types.KeySpecHmac256)
	in := grantInput(granted.KeyId, c, opMAC)
	in.GranteePrincipal = ptr("arn:aws:iam::" + secondAccount + ":root")
	made := mustGrant(t, c, in)
	_, err := c.IAM().CreatePrincipal(t.Context(), roleName("trusting"), iam.PrincipalOptions{TrustPolicy: `{"Version":"2012-10-17",` +
		`"Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + secondAccount + `:root"},"Action":"sts:AssumeRole"}}`})
	require.NoError(t, err)
	_, err = c.CreateAccount(t.Context(), NewAccount{ID: secondAccount})
	refused := requireRefusal(t, err, "4 policies and grants name the account "+secondAccount+" or everybody")
	for _, place := range []string{"key policy of " + *named.Arn + ": statement 2", "key policy of " + *everybody.Arn + ": statement 2",
		"grant " + *made.GrantId, "trust policy of the role trusting of account " + testAccount + ": statement 1", "--yes"} {
		assert.Contains(t, refused.Advice, place)
	}
	assert.NotContains(t, refused.Advice, *denying.Arn)
	_, err = c.bridge.RootOf(t.Context(), secondAccount)
	require.Error(t, err)
	inAccount(t, c, secondAccount)
}

// A store tells its accounts whatever the configuration says, so that no other hides what it holds.
func TestAccountsStayWhenTheConfigurationChanges(t *testing.T) {
	cfg := newConfig(t)
	b, err := openAt(t.Context(), cfg)
	require.NoError(t, err)
	client, err := b.Client("")
	require.NoError(t, err)
	mine := mustCreate(t, client.As(b.Root()), types.KeySpecHmac256)
	theirs := mustCreate(t, inAccount(t, client.As(b.Root()), secondAccount), types.KeySpecHmac256)
	require.NoError(t, b.Close())
	cfg.AccountID = secondAccount
	c := openClient(t, cfg)
	require.Equal(t, secondAccount, c.caller.Account())
	_, err = generate(t.Context(), c, theirs.Arn, []byte("m"))
	require.NoError(t, err)
	first, err := c.bridge.RootOf(t.Context(), testAccount)
	require.NoError(t, err)
	_, err = generate(t.Context(), c.As(first), mine.Arn, []byte("m"))
	require.NoError(t, err)
}
