package iam

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
)

// Everybody is told who he is, whatever policies say; nobody is not.
func TestGetCallerIdentity(t *testing.T) {
	r := newRig(t)
	const deny = `{"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}}`
	root, err := r.GetCallerIdentity(t.Context())
	require.NoError(t, err)
	require.Equal(t, CallerIdentity{testAccount, testAccount, rootARN}, root)
	alice := r.as(t, "Alice", deny)
	who, err := alice.GetCallerIdentity(t.Context())
	require.NoError(t, err)
	require.Equal(t, CallerIdentity{alice.caller.id, testAccount, "arn:aws:iam::" + testAccount + ":user/Alice"}, who)
	name, err := alice.Name(t.Context())
	require.NoError(t, err)
	require.Equal(t, PrincipalName{keystore.PrincipalUser, "Alice"}, name)
	_, err = r.dir.Client().GetCallerIdentity(t.Context())
	require.Equal(t, "AccessDenied", errorCode(err))
}

// The root is a user that has an id and an ARN and no name, to those alone who may ask for it.
func TestTheRootAsAUser(t *testing.T) {
	r := newRig(t)
	found, err := r.GetPrincipal(t.Context(), PrincipalName{})
	require.NoError(t, err)
	require.Equal(t, Principal{ID: testAccount, ARN: rootARN}, found)
	_, err = r.as(t, "Stranger", "").GetPrincipal(t.Context(), PrincipalName{})
	require.Equal(t, "AccessDenied", errorCode(err))
}

// A role's trust policy is another after it was updated, if it has a form that a role may be made with.
func TestUpdateTrustPolicy(t *testing.T) {
	r := newRig(t)
	mustCreatePrincipal(t, r.Client, producer)
	const trust = trustsNobody
	require.NoError(t, r.UpdateTrustPolicy(t.Context(), producer.Name, trust))
	found, err := r.GetPrincipal(t.Context(), producer)
	require.NoError(t, err)
	require.Equal(t, trust, found.TrustPolicy)
	require.Equal(t, "MalformedPolicyDocument", errorCode(r.UpdateTrustPolicy(t.Context(), producer.Name, "[]")))
	require.Equal(t, "ValidationError", errorCode(r.UpdateTrustPolicy(t.Context(), producer.Name, "")))
	require.Equal(t, "NoSuchEntity", errorCode(r.UpdateTrustPolicy(t.Context(), "None", trust)))
}
