package clients

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGrants: a role without a policy for it makes MACs by a grant that each client makes, as long as that lasts, and can do no more.
func TestGrants(t *testing.T) {
	srv := newServer(t)
	producer, root := roleWith(t, srv, "JwtProducer", "kms:ListKeys", "*"), targetOf(srv)
	const account = "arn:aws:iam::000000000000:"
	onEachClient(t, func(t *testing.T, c client) {
		key := newKey(t, inProcess(t, srv), "HMAC_256")
		input := members{"KeyId": key, "MacAlgorithm": "HMAC_SHA_256", "Message": base64Of(message)}
		denied := func(operation string, in members) {
			c.refused(t, c.do(t, producer, operation, in), "AccessDeniedException", "User: "+account+"role/JwtProducer"+
				" is not authorized to perform: kms:"+operation+" on resource: "+key+
				" because no identity-based policy allows the kms:"+operation+" action")
		}
		denied("GenerateMac", input)
		asked := members{"KeyId": key, "GranteePrincipal": account + "role/JwtProducer", "Operations": []string{"GenerateMac", "RetireGrant"},
			"Name": "jwt"}
		made := c.must(t, root, "CreateGrant", asked)
		again := c.must(t, root, "CreateGrant", asked)
		require.Equal(t, made["GrantId"], again["GrantId"])
		require.NotEqual(t, made["GrantToken"], again["GrantToken"])
		grants := c.must(t, root, "ListGrants", members{"KeyId": key})["Grants"].([]any)
		require.Len(t, grants, 1)
		require.Equal(t, made["GrantId"], grants[0].(map[string]any)["GrantId"])

		mac := c.must(t, producer, "GenerateMac", input)["Mac"]
		with := members{"GrantTokens": []any{made["GrantToken"], again["GrantToken"]}}
		for name, value := range input {
			with[name] = value
		}
		require.Equal(t, mac, c.must(t, producer, "GenerateMac", with)["Mac"])
		denied("DescribeKey", members{"KeyId": key})
		denied("RevokeGrant", members{"KeyId": key, "GrantId": made["GrantId"]})
		c.must(t, producer, "RetireGrant", members{"GrantToken": made["GrantToken"]})
		denied("GenerateMac", input)
		c.refused(t, c.do(t, root, "GenerateMac", with), "InvalidGrantTokenException", "The grant token is not valid.")
	})
}
