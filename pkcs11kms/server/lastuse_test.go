package server

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms"
)

// TestOnlyAProvedRequestIsAUse: one that is denied afterwards is, one with a wrong signature is not.
func TestOnlyAProvedRequestIsAUse(t *testing.T) {
	f := newFixture(t, nil)
	alice := pkcs11kms.PrincipalName{Type: keystore.PrincipalUser, Name: "Alice"}
	_, err := f.bridge.CreatePrincipal(t.Context(), alice, pkcs11kms.PrincipalOptions{})
	require.NoError(t, err)
	denied, err := f.bridge.CreateAccessKey(t.Context(), alice)
	require.NoError(t, err)
	wrong, err := f.bridge.CreateAccessKey(t.Context(), alice)
	require.NoError(t, err)
	r := f.run(t, Listen{})
	began := time.Now().Truncate(time.Second)
	ask := func(key pkcs11kms.AccessKey) int {
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
	for _, key := range []pkcs11kms.AccessKey{root, denied} {
		_, used, err := later.GetAccessKeyLastUsed(t.Context(), key.ID)
		require.NoError(t, err)
		require.False(t, used.LastUsedDate.Before(began), "%v", used)
		require.Equal(t, testRegion, used.Region)
		require.Equal(t, "kms", used.ServiceName)
	}
	_, used, err := later.GetAccessKeyLastUsed(t.Context(), wrong.ID)
	require.NoError(t, err)
	require.True(t, used.LastUsedDate.IsZero())
}
