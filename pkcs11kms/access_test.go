package pkcs11kms

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/records"
)

func roleName(name string) iam.PrincipalName {
	return iam.PrincipalName{Type: keystore.PrincipalRole, Name: name}
}

func userName(name string) iam.PrincipalName {
	return iam.PrincipalName{Type: keystore.PrincipalUser, Name: name}
}

// as makes a user or role with policies of its own, and returns the client that acts in its name.
func as(t testing.TB, c *Client, name iam.PrincipalName, policies ...string) *Client {
	made, err := asRoot(c.bridge).CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
	require.NoError(t, err)
	for i, document := range policies {
		require.NoError(t, asRoot(c.bridge).PutPrincipalPolicy(t.Context(), name, fmt.Sprintf("p%d", i), document))
	}
	caller, err := c.bridge.Caller(t.Context(), made.ARN)
	require.NoError(t, err)
	return c.As(caller)
}

// allow is a policy of a user or role that allows actions on a resource.
func allow(resource string, actions ...string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["` + strings.Join(actions, `","`) + `"],` +
		`"Resource":"` + resource + `"}]}`
}

// keyPolicy is a key policy of statements, besides the one that leaves the key to the account.
func keyPolicy(statements ...string) string {
	const standard = `{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + testAccount + `:root"},"Action":"kms:*","Resource":"*"}`
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(append([]string{standard}, statements...), ",") + `]}`
}

// grant is a statement of a key policy that allows principals an action.
func grant(effect, principal, action string) string {
	return `{"Effect":"` + effect + `","Principal":{"AWS":"` + principal + `"},"Action":"` + action + `","Resource":"*"}`
}

func putPolicy(t testing.TB, c *Client, keyID *string, document string) {
	_, err := c.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: keyID, Policy: &document})
	require.NoError(t, err)
}

func policyOf(t testing.TB, c *Client, keyID *string) string {
	out, err := c.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: keyID})
	require.NoError(t, err)
	return *out.Policy
}

func requireDenied(t testing.TB, err error, c *Client, action, resource, because string) {
	t.Helper()
	requireAPIError(t, err, "AccessDeniedException",
		fmt.Sprintf("User: %s is not authorized to perform: kms:%s on resource: %s %s", c.caller.ARN(), action, resource, because))
}

func noIdentity(action string) string {
	return "because no identity-based policy allows the kms:" + action + " action"
}

func arnOfPrincipal(name iam.PrincipalName) string {
	return fmt.Sprintf("arn:aws:iam::%s:%s/%s", testAccount, name.Type, name.Name)
}

// The case that this exists for: who makes tokens cannot check them, who checks them cannot make them, and neither can do
// anything else. Once by policies of the roles, once by the key policy.
func TestProducerAndConsumer(t *testing.T) {
	c := newClient(t)
	ways := map[string]func(t *testing.T, key *types.KeyMetadata, producer, consumer iam.PrincipalName) (*Client, *Client){
		"policies of the roles": func(t *testing.T, key *types.KeyMetadata, producer, consumer iam.PrincipalName) (*Client, *Client) {
			return as(t, c, producer, allow(*key.Arn, "kms:GenerateMac")), as(t, c, consumer, allow(*key.Arn, "kms:VerifyMac"))
		},
		"key policy": func(t *testing.T, key *types.KeyMetadata, producer, consumer iam.PrincipalName) (*Client, *Client) {
			p, v := as(t, c, producer), as(t, c, consumer)
			putPolicy(t, c, key.KeyId, keyPolicy(grant("Allow", p.caller.ARN(), "kms:GenerateMac"), grant("Allow", v.caller.ARN(), "kms:VerifyMac")))
			return p, v
		},
	}
	for way, grantAccess := range ways {
		t.Run(way, func(t *testing.T) {
			key, other := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
			suffix := strings.ReplaceAll(way, " ", "-")
			producer, consumer := grantAccess(t, key, roleName("JwtProducer-"+suffix), roleName("JwtConsumer-"+suffix))
			message := []byte("header.payload")

			mac, err := generate(t.Context(), producer, key.KeyId, message)
			require.NoError(t, err)
			require.NoError(t, verify(t.Context(), consumer, key.KeyId, message, mac))
			requireAPIError(t, verify(t.Context(), consumer, key.KeyId, []byte("tampered"), mac), "KMSInvalidMacException", "")

			requireDenied(t, verify(t.Context(), producer, key.KeyId, message, mac), producer, "VerifyMac", *key.Arn, noIdentity("VerifyMac"))
			_, err = generate(t.Context(), consumer, key.KeyId, message)
			requireDenied(t, err, consumer, "GenerateMac", *key.Arn, noIdentity("GenerateMac"))
			for _, who := range []*Client{producer, consumer} {
				open := keyPolicy(grant("Allow", "*", "kms:*"))
				_, err = who.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: key.KeyId, Policy: &open})
				requireDenied(t, err, who, "PutKeyPolicy", *key.Arn, noIdentity("PutKeyPolicy"))
				_, err = who.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: other.KeyId})
				requireDenied(t, err, who, "DescribeKey", *other.Arn, noIdentity("DescribeKey"))
				_, err = who.ListKeys(t.Context(), nil)
				requireDenied(t, err, who, "ListKeys", "*", noIdentity("ListKeys"))
				_, err = generate(t.Context(), who, other.KeyId, message)
				requireCode(t, err, "AccessDeniedException")
			}
			_, err = producer.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
			require.NoError(t, err)
			_, err = consumer.NewMAC(t.Context(), *key.KeyId, types.MacAlgorithmSpecHmacSha256)
			requireDenied(t, err, consumer, "GenerateMac", *key.Arn, noIdentity("GenerateMac"))
		})
	}
}

// What is taken away counts in every process within the second that the cache allows: a policy, a statement, a principal.
func TestPermissionsEndEverywhere(t *testing.T) {
	first, second, _, clk := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	for name, end := range map[string]func(t *testing.T, name iam.PrincipalName){
		"its policy": func(t *testing.T, name iam.PrincipalName) {
			require.NoError(t, asRoot(second.bridge).DeletePrincipalPolicy(t.Context(), name, "p0"))
		},
		"a statement": func(t *testing.T, name iam.PrincipalName) {
			require.NoError(t, asRoot(second.bridge).PutPrincipalPolicy(t.Context(), name, "p0", allow(*key.Arn, "kms:DescribeKey")))
		},
		"a deny in the key policy": func(t *testing.T, name iam.PrincipalName) {
			putPolicy(t, second, key.KeyId, keyPolicy(grant("Deny", arnOfPrincipal(name), "kms:GenerateMac")))
		},
		"the principal": func(t *testing.T, name iam.PrincipalName) {
			require.NoError(t, asRoot(second.bridge).DeletePrincipalPolicy(t.Context(), name, "p0"))
			require.NoError(t, asRoot(second.bridge).DeletePrincipal(t.Context(), name))
		},
	} {
		t.Run(name, func(t *testing.T) {
			name := userName(strings.ReplaceAll(name, " ", "-"))
			client := as(t, first, name, allow(*key.Arn, "kms:GenerateMac"))
			_, err := generate(t.Context(), client, key.KeyId, []byte("m"))
			require.NoError(t, err)
			end(t, name)
			clk.Advance(records.MaxAge + time.Millisecond) // the poller confirms by the clock that this test sets
			_, err = generate(t.Context(), client, key.KeyId, []byte("m"))
			require.ErrorContains(t, err, "AccessDeniedException")
		})
	}
}

// A grant counts at once, in every process: a refusal is decided on what the store says now.
func TestPermissionsBeginAtOnce(t *testing.T) {
	first, second, store, _ := twoProcesses(t)
	key := mustCreate(t, first, types.KeySpecHmac256)
	client := as(t, first, userName("late"))
	_, err := generate(t.Context(), client, key.KeyId, []byte("m"))
	requireDenied(t, err, client, "GenerateMac", *key.Arn, noIdentity("GenerateMac"))
	require.NoError(t, first.bridge.core.Cache.Confirm(t.Context()))
	store.stuck.Store(true) // what is cached stays so
	waitForPoller(t, store)
	putPolicy(t, second, key.KeyId, keyPolicy(grant("Allow", client.caller.ARN(), "kms:GenerateMac")))
	_, err = generate(t.Context(), client, key.KeyId, []byte("m"))
	require.NoError(t, err)
}
