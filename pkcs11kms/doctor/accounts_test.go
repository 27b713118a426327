package doctor

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// Doctor examines what all accounts have, says of which it is, and corrects their counters; that nobody else knows of an account hides
// nothing from it.
func TestDoctorExaminesAllAccounts(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	const second = "444455556666"
	_, err := c.CreateAccount(t.Context(), pkcs11kms.NewAccount{ID: second})
	require.NoError(t, err)
	root, err := c.bridge.RootOf(t.Context(), second)
	require.NoError(t, err)
	theirs := &client{c.As(root), c.bridge, c.inside}
	key := mustCreate(t, theirs, "HMAC_256")
	name := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Operator"}
	users := theirs.IAM()
	made, err := users.CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
	require.NoError(t, err)
	require.NoError(t, users.PutPrincipalPolicy(t.Context(), name, "all",
		`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}`))
	mine := mustCreate(t, c, "HMAC_256")
	document := `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + testAccount + `:root"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Allow","Principal":{"AWS":"` + made.ARN + `"},"Action":"kms:GenerateMac","Resource":"*"}]}`
	_, err = c.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: mine.KeyId, Policy: &document})
	require.NoError(t, err)

	r := examine(t.Context(), cfg)
	require.True(t, r.OK(), "%+v", r.Checks)
	require.Equal(t, []Check{{"store", "accounts", StatusOK, "there are 2, all of which are examined", ""}}, r.find("store", "accounts"))
	require.Equal(t, StatusOK, r.find("key", *key.KeyId)[0].Status)
	require.Len(t, r.find("key", *mine.KeyId), 1, "the user that the policy names is there")
	require.Contains(t, r.find("user", "Operator")[0].Hint, "--policy-name all --account-id "+second)
	requireNoDiscrepancies(t, c)

	require.NoError(t, users.DeletePrincipalPolicy(t.Context(), name, "all"))
	require.NoError(t, users.DeletePrincipal(t.Context(), name))
	require.Contains(t, examine(t.Context(), cfg).find("key", *mine.KeyId)[1].Text, second+"/"+made.ID)

	for _, counter := range []keystore.Counter{{Account: second, Name: keystore.CounterRoles}, {Name: keystore.CounterAccounts}} {
		rec, err := c.inside.Store.Get(t.Context(), counter.Put(0).Ref)
		if err != nil {
			require.ErrorIs(t, err, keystore.ErrNotFound)
		}
		counter.N = 7
		put(t, c, counter.Put(rec.Version))
	}
	done, err := Repair(t.Context(), c.Client)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"corrected the counter of the roles of account " + second + " from 7 to 0",
		"corrected the counter of the accounts of the store from 7 to 2"}, done)
	requireNoDiscrepancies(t, c)
}
