package clients

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
	"github.com/pkcs11kms/bridge/pkcs11kms/kmstest"
)

// roleWith makes a role that may do one thing with one key, and returns what its service signs with.
func roleWith(t *testing.T, srv *kmstest.Server, name, action, key string) target {
	return roleOf(t, srv, asRoot(srv.Bridge()), name, action, key)
}

// roleOf is roleWith for the account of a root.
func roleOf(t *testing.T, srv *kmstest.Server, root *iam.Client, name, action, key string) target {
	role := iam.PrincipalName{Type: keystore.PrincipalRole, Name: name}
	_, err := root.CreatePrincipal(t.Context(), role, iam.PrincipalOptions{})
	require.NoError(t, err)
	policy := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"` + action + `","Resource":"` + key + `"}]}`
	require.NoError(t, root.PutPrincipalPolicy(t.Context(), role, "tokens", policy))
	made, err := root.CreateAccessKey(t.Context(), role)
	require.NoError(t, err)
	to := targetOf(srv)
	to.AccessKey, to.Secret = made.ID, made.Secret
	return to
}

// TestProducerAndConsumer: one access key makes MACs, another verifies them, and neither can do anything else.
func TestProducerAndConsumer(t *testing.T) {
	srv := newServer(t)
	key, other := newKey(t, inProcess(t, srv), "HMAC_256"), newKey(t, inProcess(t, srv), "HMAC_256")
	producer := roleWith(t, srv, "JwtProducer", "kms:GenerateMac", key)
	consumer := roleWith(t, srv, "JwtConsumer", "kms:VerifyMac", key)
	const account = "arn:aws:iam::000000000000:"
	onEachClient(t, func(t *testing.T, c client) {
		input := members{"KeyId": key, "MacAlgorithm": "HMAC_SHA_256", "Message": base64Of(message)}
		input["Mac"] = c.must(t, producer, "GenerateMac", without(input, "Mac"))["Mac"]
		require.Equal(t, true, c.must(t, consumer, "VerifyMac", input)["MacValid"])

		denied := func(to target, role, operation, resource string, in members) {
			c.refused(t, c.do(t, to, operation, in), "AccessDeniedException", "User: "+account+"role/"+role+
				" is not authorized to perform: kms:"+operation+" on resource: "+resource+
				" because no identity-based policy allows the kms:"+operation+" action")
		}
		denied(producer, "JwtProducer", "VerifyMac", key, input)
		denied(consumer, "JwtConsumer", "GenerateMac", key, without(input, "Mac"))
		for role, to := range map[string]target{"JwtProducer": producer, "JwtConsumer": consumer} {
			denied(to, role, "DescribeKey", other, members{"KeyId": other})
			denied(to, role, "ListKeys", "*", members{"Limit": 10})
			denied(to, role, "PutKeyPolicy", key, members{"KeyId": key, "PolicyName": "default",
				"Policy": `{"Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}]}`})
		}
	})
}

func without(input members, name string) members {
	rest := members{}
	for other, value := range input {
		if other != name {
			rest[other] = value
		}
	}
	return rest
}

// asRoot administrates users, roles and access keys as the account's root.
func asRoot(bridge *pkcs11kms.Bridge) *iam.Client { return bridge.IAM().As(bridge.Root()) }
