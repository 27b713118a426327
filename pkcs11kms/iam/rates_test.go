package iam

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/internal/ops"
)

// Every operation has a rate, which an account has for itself: reads and changes of AWS IAM have one each, AWS STS has its own.
func TestRatesOfAnAccount(t *testing.T) {
	for op := range ops.All {
		if (op.Service == "iam" || op.Service == "sts") && op.Answer != ops.ActionOnly {
			require.NotNil(t, op.Rate, op.Name)
		}
	}
	r := newRig(t)
	now := time.Now()
	cfg := r.cfg
	cfg.NoRates, cfg.Now = false, func() time.Time { return now }
	dir := New(cfg)
	root, other := dir.Client().As(dir.Root(testAccount)), dir.Client().As(dir.Root(otherAccount))
	list := func(c *Client) error { return second(c.ListPrincipals(t.Context(), keystore.PrincipalUser, "")) }
	for range 100 {
		require.NoError(t, list(root))
	}
	requireAPIError(t, list(root), "ThrottlingException", "Rate exceeded")
	require.NoError(t, list(other))
	require.NoError(t, second(root.GetCallerIdentity(t.Context())))
	mustCreatePrincipal(t, root, alice)
	for i := range 49 {
		require.NoError(t, root.TagPrincipal(t.Context(), alice, nil), i)
	}
	require.Error(t, root.TagPrincipal(t.Context(), alice, nil))
	now = now.Add(time.Second / 50)
	require.NoError(t, list(root))
	require.NoError(t, root.TagPrincipal(t.Context(), alice, nil))
}

// Where roles have no access keys, none is made, and those that there are let nobody in.
func TestRoleAccessKeysOff(t *testing.T) {
	r := newRig(t)
	mustCreatePrincipal(t, r.Client, producer)
	mustCreatePrincipal(t, r.Client, alice)
	keys := map[PrincipalName]string{}
	for _, name := range []PrincipalName{producer, alice} {
		made, err := r.CreateAccessKey(t.Context(), name)
		require.NoError(t, err)
		keys[name] = made.ID
	}
	cfg := r.cfg
	cfg.NoRoleAccessKeys = true
	dir := New(cfg)
	root := dir.Client().As(dir.Root(testAccount))
	requireAPIError(t, second(root.CreateAccessKey(t.Context(), producer)), "ValidationError",
		"This service makes no access keys of roles (role-access-keys): assume the role.")
	_, _, err := dir.SigningKey(t.Context(), keys[producer], "20261201", testRegion, "kms")
	require.ErrorIs(t, err, ErrUnknownAccessKey)
	_, _, err = dir.SigningKey(t.Context(), keys[alice], "20261201", testRegion, "kms")
	require.NoError(t, err)
	require.NoError(t, second(root.CreateAccessKey(t.Context(), alice)))
	require.NoError(t, root.DeleteAccessKey(t.Context(), producer, keys[producer]))
}
