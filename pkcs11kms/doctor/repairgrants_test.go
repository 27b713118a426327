package doctor

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// mustGrant makes a grant of GenerateMac, and returns its record.
func mustGrant(t *testing.T, c *client, keyID *string, grantee string) keystore.Grant {
	t.Helper()
	out, err := c.CreateGrant(t.Context(), &kms.CreateGrantInput{KeyId: keyID, GranteePrincipal: &grantee,
		Operations: []types.GrantOperation{types.GrantOperationGenerateMac}})
	require.NoError(t, err)
	rec, err := c.inside.Store.Get(t.Context(), keystore.GrantRef(testRegion, testAccount, *out.GrantId))
	require.NoError(t, err)
	grant, err := keystore.DecodeGrant(rec)
	require.NoError(t, err)
	return grant
}

// copyOf is a grant as only a defect or an edit by hand could have made it.
func copyOf(grant keystore.Grant, digit string, edit func(*keystore.Grant)) keystore.Change {
	grant.ID = strings.Repeat(digit, 64)
	edit(&grant)
	return grant.Put(0)
}

func TestRepairOfGrants(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	key, plain := mustCreate(t, c, types.KeySpecHmac256), mustCreate(t, c, types.KeySpecHmac256)
	name := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "gone"}
	root := c.bridge.Root().ARN()
	users := c.bridge.IAM().As(c.bridge.Root())
	gone, err := users.CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
	require.NoError(t, err)
	good := mustGrant(t, c, key.KeyId, root)
	mustGrant(t, c, plain.KeyId, root)
	requireNoDiscrepancies(t, c)

	mustGrant(t, c, key.KeyId, gone.ARN)
	require.NoError(t, users.DeletePrincipal(t.Context(), name))
	put(t, c, copyOf(good, "a", func(g *keystore.Grant) { g.Key = unknownID }))
	put(t, c, copyOf(good, "b", func(g *keystore.Grant) { g.CKAID = keystore.HexBytes("another") }))
	put(t, c, copyOf(good, "c", func(g *keystore.Grant) { g.Operations = []string{"DescribeKey"} }))
	put(t, c, keystore.Grantee{Region: testRegion, Account: testAccount, Key: *plain.KeyId,
		Principal: "111122223333/AIDA" + strings.Repeat("A", 17), CKAID: keystore.HexBytes("x"),
		Gives: []keystore.OperationSet{{Operations: []string{"GenerateMac"}, Grants: 1}}}.Put(0))

	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	require.Contains(t, r.find("key", unknownID), Check{"key", unknownID, StatusWarning,
		"has 1 grants that nobody can use, such as " + strings.Repeat("a", 64) + ": the key is not in the store", "pkcs11kms doctor --repair"})
	done, err := doRepair(t, c)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"removed 1 grants on the key " + unknownID + " that nobody could use",
		"removed 2 grants on the key " + *key.KeyId + " that nobody could use",
		"corrected what the grants on the key " + *key.KeyId + " give to " + testAccount + "/" + testAccount,
		"corrected what the grants on the key " + *key.KeyId + " give to " + testAccount + "/" + gone.ID,
		"corrected what the grants on the key " + *plain.KeyId + " give to 111122223333/AIDA" + strings.Repeat("A", 17),
	}, done)
	requireNoDiscrepancies(t, c)
	out, err := c.ListGrants(t.Context(), &kms.ListGrantsInput{KeyId: key.KeyId})
	require.NoError(t, err)
	require.Len(t, out.Grants, 2, "the one that was made, and the one that gives something else")
	_, err = c.RevokeGrant(t.Context(), &kms.RevokeGrantInput{KeyId: key.KeyId, GrantId: aws.String(strings.Repeat("c", 64))})
	require.NoError(t, err)
	requireNoDiscrepancies(t, c)

	counter := keystore.Counter{Region: testRegion, Account: testAccount, Name: keystore.CounterGrants + *key.KeyId, N: 7}
	rec, err := c.inside.Store.Get(t.Context(), counter.Put(0).Ref)
	require.NoError(t, err)
	put(t, c, counter.Put(rec.Version))
	done, err = doRepair(t, c)
	require.NoError(t, err)
	require.Equal(t, []string{"corrected the number of grants on the key " + *key.KeyId + " from 7 to 1"}, done)
	requireNoDiscrepancies(t, c)
}

func doRepair(t *testing.T, c *client) ([]string, error) { return Repair(t.Context(), c.Client) }

// What a session is given is of its role: it is not void, and no policy that names it is of somebody gone, as long as there is the role.
func TestSessionsAreThereAsLongAsTheirRole(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	key := mustCreate(t, c, types.KeySpecHmac256)
	name := iam.PrincipalName{Type: keystore.PrincipalRole, Name: "Role"}
	users := c.bridge.IAM().As(c.bridge.Root())
	_, err := users.CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
	require.NoError(t, err)
	session := "arn:aws:sts::" + testAccount + ":assumed-role/Role/job"
	mustGrant(t, c, key.KeyId, session)
	root := `{"Effect": "Allow", "Principal": {"AWS": "` + testAccount + `"}, "Action": "kms:*", "Resource": "*"}`
	named := `{"Effect": "Allow", "Principal": {"AWS": "` + session + `"}, "Action": "kms:GenerateMac", "Resource": "*"}`
	_, err = c.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: key.KeyId,
		Policy: aws.String(`{"Version": "2012-10-17", "Statement": [` + root + `, ` + named + `]}`)})
	require.NoError(t, err)
	requireNoDiscrepancies(t, c)
	for _, check := range examine(t.Context(), cfg).find("key", *key.KeyId) {
		require.Equal(t, StatusOK, check.Status, check.Text)
	}
	require.NoError(t, users.DeletePrincipal(t.Context(), name))
	var texts string
	for _, check := range examine(t.Context(), cfg).find("key", *key.KeyId) {
		texts += check.Text
	}
	require.Regexp(t, "its key policy names users or roles that were deleted: AROA[A-Z2-7]{17}:job", texts)
}
