package pkcs11kms

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// TestLastUseOfAnAccessKey: noted by one process, written at its end, read by another.
func TestLastUseOfAnAccessKey(t *testing.T) {
	cfg := newConfig(t)
	b := openClient(t, cfg).bridge
	cfg.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6, time.Local) }
	serving := openClient(t, cfg).bridge
	alice := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Alice"}
	_, err := asRoot(b).CreatePrincipal(t.Context(), alice, iam.PrincipalOptions{})
	require.NoError(t, err)
	root, err := asRoot(b).CreateAccessKey(t.Context(), iam.PrincipalName{})
	require.NoError(t, err)
	key, err := asRoot(b).CreateAccessKey(t.Context(), alice)
	require.NoError(t, err)
	never := iam.AccessKeyLastUsed{ServiceName: "N/A", Region: "N/A"}
	owner, used, err := asRoot(b).GetAccessKeyLastUsed(t.Context(), key.ID)
	require.NoError(t, err)
	require.Equal(t, alice, owner)
	require.Equal(t, never, used)

	before, err := b.core.Store.ChangedSince(t.Context(), "")
	require.NoError(t, err)
	serving.AccessKeyUsed(b.Root(), key.ID, testRegion)
	after, err := b.core.Store.ChangedSince(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, before, after, "a request writes nothing")
	require.NoError(t, serving.Close())

	_, used, err = asRoot(b).GetAccessKeyLastUsed(t.Context(), key.ID)
	require.NoError(t, err)
	date := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local).UTC()
	require.Equal(t, iam.AccessKeyLastUsed{LastUsedDate: date, ServiceName: "kms", Region: testRegion}, used)
	list, err := asRoot(b).ListAccessKeys(t.Context(), alice)
	require.NoError(t, err)
	require.Equal(t, used, list[0].LastUsed)
	owner, used, err = asRoot(b).GetAccessKeyLastUsed(t.Context(), root.ID)
	require.NoError(t, err)
	require.Equal(t, iam.PrincipalName{}, owner)
	require.Equal(t, never, used)
	requireNoDiscrepancies(t, b)

	require.NoError(t, asRoot(b).DeleteAccessKey(t.Context(), alice, key.ID))
	_, _, err = asRoot(b).GetAccessKeyLastUsed(t.Context(), key.ID)
	requireAPIError(t, err, "AccessDenied", "User: arn:aws:iam::111122223333:root is not authorized to perform: "+
		"iam:GetAccessKeyLastUsed on resource: access key "+key.ID)
	_, _, err = asRoot(b).GetAccessKeyLastUsed(t.Context(), "short")
	require.ErrorContains(t, err, "ValidationError")
}
