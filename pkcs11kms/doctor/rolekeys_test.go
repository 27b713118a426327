package doctor

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// Access keys of roles are listed, as a warning where nobody can use them.
func TestDoctorListsAccessKeysOfRoles(t *testing.T) {
	cfg := newConfig(t)
	c := openClient(t, cfg)
	root := c.bridge.IAM().As(c.bridge.Root())
	ids := map[keystore.PrincipalType]string{}
	for _, kind := range []keystore.PrincipalType{keystore.PrincipalUser, keystore.PrincipalRole} {
		name := iam.PrincipalName{Type: kind, Name: "who"}
		_, err := root.CreatePrincipal(t.Context(), name, iam.PrincipalOptions{})
		require.NoError(t, err)
		key, err := root.CreateAccessKey(t.Context(), name)
		require.NoError(t, err)
		ids[kind] = key.ID
	}
	key := ids[keystore.PrincipalRole]
	r := examine(t.Context(), cfg)
	require.Empty(t, r.find("user", "who"))
	require.Contains(t, r.find("role", "who"),
		Check{"role", "who", StatusOK, "has the access key " + key + ", Active; in AWS sessions alone act for a role", ""})
	cfg.NoRoleAccessKeys = true
	require.Contains(t, examine(t.Context(), cfg).find("role", "who"), Check{"role", "who", StatusWarning,
		"has the access key " + key + ", which nobody can use: role-access-keys is off",
		"have its user assume the role; then: pkcs11kms iam delete-access-key --access-key-id " + key})
}
