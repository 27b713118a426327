package server

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// TestOnlyAProvedRequestIsAUse: one that is denied afterwards is, one with a wrong signature is not.
func TestOnlyAProvedRequestIsAUse(t *testing.T) {
	f := newFixture(t, nil)
	alice := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "Alice"}
	_, err := f.bridge.IAM().As(f.bridge.Root()).CreatePrincipal(t.Context(), alice, iam.PrincipalOptions{})
	require.NoError(t, err)
	denied, err := f.bridge.IAM().As(f.bridge.Root()).CreateAccessKey(t.Context(), alice)
	require.NoError(t, err)
	wrong, err := f.bridge.IAM().As(f.bridge.Root()).CreateAccessKey(t.Context(), alice)
	require.NoError(t, err)
	r := f.run(t, Listen{})
	began := time.Now().Truncate(time.Second)
	ask := func(key iam.AccessKey) int {
		f.key = key
		return f.send(t, f.request(t, r.url, "ListKeys", "{}")).StatusCode
	}
	root := f.key
	require.Equal(t, http.StatusOK, ask(root))
	require.Equal(t, http.StatusBadRequest, ask(denied))
	forged := wrong
	forged.Secret = denied.Secret
	require.Equal(t, http.StatusBadRequest, ask(forged))
	r.stop()
	<-r.ended
	require.NoError(t, f.bridge.Close())

	later, err := pkcs11kms.Open(t.Context(), f.cfg)
	require.NoError(t, err)
	defer later.Close()
	for _, key := range []iam.AccessKey{root, denied} {
		_, used, err := later.IAM().As(later.Root()).GetAccessKeyLastUsed(t.Context(), key.ID)
		require.NoError(t, err)
		require.False(t, used.LastUsedDate.Before(began), "%v", used)
		require.Equal(t, testRegion, used.Region)
		require.Equal(t, "kms", used.ServiceName)
	}
	_, used, err := later.IAM().As(later.Root()).GetAccessKeyLastUsed(t.Context(), wrong.ID)
	require.NoError(t, err)
	require.True(t, used.LastUsedDate.IsZero())
}
