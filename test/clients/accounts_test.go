package clients

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// The accounts of the producer, which has the key, and of the consumer.
const (
	owner    = "000000000000"
	consumes = "444455556666"
)

// TestProducerAndConsumerOfTwoAccounts: the producer makes MACs with a key of its own account, and the consumer of another account verifies
// them by the ARN of the key or of an alias, since the key policy lets that account and its own policy lets the role. It can do nothing
// else, and a third account, or a role whose own account does not let it, nothing at all.
func TestProducerAndConsumerOfTwoAccounts(t *testing.T) {
	srv := newServer(t)
	library := inProcess(t, srv)
	key, alias := newKey(t, library, "HMAC_256"), "alias/tokens"
	_, err := library.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: bareID(key)})
	require.NoError(t, err)
	policy := `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + owner + `:root"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + consumes + `:root"},"Action":"kms:VerifyMac","Resource":"*"}]}`
	_, err = library.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &key, Policy: &policy})
	require.NoError(t, err)
	second, third := kmstest.MustCreateAccount(t, srv.Bridge(), consumes), kmstest.MustCreateAccount(t, srv.Bridge(), "777788889999")
	producer := roleWith(t, srv, "JwtProducer", "kms:GenerateMac", key)
	consumer := roleOf(t, srv, second.IAM(), "JwtConsumer", "kms:*", "*")
	unlet := roleOf(t, srv, second.IAM(), "Unlet", "kms:VerifyMac", strings.Replace(key, owner, consumes, 1))
	stranger := roleOf(t, srv, third.IAM(), "Stranger", "kms:*", "*")
	aliasARN := strings.Replace(key, "key/"+*bareID(key), alias, 1)
	onEachClient(t, func(t *testing.T, c client) {
		input := members{"KeyId": key, "MacAlgorithm": "HMAC_SHA_256", "Message": base64Of(message)}
		input["Mac"] = c.must(t, producer, "GenerateMac", without(input, "Mac"))["Mac"]
		for _, id := range []string{key, aliasARN} {
			input["KeyId"] = id
			out := c.must(t, consumer, "VerifyMac", input)
			require.Equal(t, []any{true, key}, []any{out["MacValid"], out["KeyId"]})
			denied := func(to target, who, operation, why string, in members) {
				c.refused(t, c.do(t, to, operation, in), "AccessDeniedException", "User: arn:aws:iam::"+who+" is not authorized to perform: kms:"+
					operation+" on resource: "+id+" because no "+why+"-based policy allows the kms:"+operation+" action")
			}
			denied(consumer, consumes+":role/JwtConsumer", "GenerateMac", "resource", without(input, "Mac"))
			denied(consumer, consumes+":role/JwtConsumer", "DescribeKey", "resource", members{"KeyId": id})
			denied(unlet, consumes+":role/Unlet", "VerifyMac", "identity", input)
			denied(stranger, "777788889999:role/Stranger", "VerifyMac", "resource", input)
		}
		listed := c.must(t, consumer, "ListKeys", members{"Limit": 10})["Keys"]
		require.Empty(t, listed)
		c.refused(t, c.do(t, consumer, "DisableKey", members{"KeyId": key}), "AccessDeniedException", "User: arn:aws:iam::"+consumes+
			":role/JwtConsumer is not authorized to perform: kms:DisableKey on resource: "+key+
			" because no resource-based policy allows the kms:DisableKey action")
		c.refused(t, c.do(t, consumer, "VerifyMac", with(input, "KeyId", *bareID(key))), "NotFoundException",
			"Key '"+strings.Replace(key, owner, consumes, 1)+"' does not exist")
	})
}

// TestGrantsAcrossAccounts: a role of another account makes MACs by a grant of each client, without any policy for it, and gives it back.
func TestGrantsAcrossAccounts(t *testing.T) {
	srv := newServer(t)
	root, second := targetOf(srv), kmstest.MustCreateAccount(t, srv.Bridge(), consumes)
	consumer := roleOf(t, srv, second.IAM(), "JwtConsumer", "kms:ListKeys", "*")
	onEachClient(t, func(t *testing.T, c client) {
		key := newKey(t, inProcess(t, srv), "HMAC_256")
		input := members{"KeyId": key, "MacAlgorithm": "HMAC_SHA_256", "Message": base64Of(message)}
		require.NotNil(t, c.do(t, consumer, "GenerateMac", input).Refusal)
		made := c.must(t, root, "CreateGrant", members{"KeyId": key, "GranteePrincipal": "arn:aws:iam::" + consumes + ":role/JwtConsumer",
			"Operations": []string{"GenerateMac", "RetireGrant"}})
		require.NotEmpty(t, c.must(t, consumer, "GenerateMac", input)["Mac"])
		c.must(t, consumer, "RetireGrant", members{"KeyId": key, "GrantId": made["GrantId"]})
		require.NotNil(t, c.do(t, consumer, "GenerateMac", input).Refusal)
	})
}

// bareID is the id in the ARN of a key.
func bareID(arn string) *string {
	_, id, _ := strings.Cut(arn, "/")
	return &id
}

// with is an input with another value of a member.
func with(input members, name, value string) members {
	other := without(input, name)
	other[name] = value
	return other
}
