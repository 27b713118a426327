package server

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/keystore"
	"github.com/pkcs11kms/bridge/pkcs11kms/iam"
)

// TestConnectionInPolicies: where a request comes from is what the connection says, whatever its headers say.
func TestConnectionInPolicies(t *testing.T) {
	f := newFixture(t, nil)
	key := f.mustCreate(t, "HMAC_256")
	user := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "asker"}
	_, err := f.bridge.IAM().As(f.bridge.Root()).CreatePrincipal(t.Context(), user, iam.PrincipalOptions{})
	require.NoError(t, err)
	f.key, err = f.bridge.IAM().As(f.bridge.Root()).CreateAccessKey(t.Context(), user)
	require.NoError(t, err)

	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert := writeCertificate(t, certFile, keyFile, 1)
	certificate, err := LoadCertificate(certFile, keyFile)
	require.NoError(t, err)
	plain, secure := f.run(t, Listen{}), f.run(t, Listen{Certificate: certificate})
	f.client.Transport = trust(t, cert)

	for _, test := range []struct {
		condition string
		plain     int
		secure    int
	}{
		{`"IpAddress":{"aws:SourceIp":"127.0.0.0/8"}`, http.StatusOK, http.StatusOK},
		{`"IpAddress":{"aws:SourceIp":"198.51.100.0/24"}`, http.StatusBadRequest, http.StatusBadRequest},
		{`"Bool":{"aws:SecureTransport":"true"}`, http.StatusBadRequest, http.StatusOK},
		{`"Bool":{"aws:SecureTransport":"false"}`, http.StatusOK, http.StatusBadRequest},
		{`"StringEquals":{"aws:UserAgent":"tester/1"}`, http.StatusOK, http.StatusOK},
		{`"StringEquals":{"aws:UserAgent":"tester/2"}`, http.StatusBadRequest, http.StatusBadRequest},
	} {
		policy := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:DescribeKey","Resource":"*","Condition":{` +
			test.condition + `}}}`
		require.NoError(t, f.bridge.IAM().As(f.bridge.Root()).PutPrincipalPolicy(t.Context(), user, "p", policy))
		for url, want := range map[string]int{plain.url: test.plain, secure.url: test.secure} {
			r := f.request(t, url, "DescribeKey", `{"KeyId":"`+*key.KeyId+`"}`)
			r.Header.Set("User-Agent", "tester/1")
			r.Header.Set("X-Forwarded-For", "198.51.100.7")
			r.Header.Set("X-Forwarded-Proto", "https")
			got := f.send(t, r)
			require.Equal(t, want, got.StatusCode, "%s at %s: %s", test.condition, url, got.body)
			if want == http.StatusBadRequest {
				require.Contains(t, got.body, `"AccessDeniedException"`)
			}
		}
	}
}

// An IPv4 address is itself, also where a listener tells it in the form of IPv6 (RFC 4291, 2.5.5.2), and a zone is no part of one.
func TestSourceAddressesHaveOneForm(t *testing.T) {
	f := newFixture(t, nil)
	user := iam.PrincipalName{Type: keystore.PrincipalUser, Name: "asker"}
	_, err := f.bridge.IAM().As(f.bridge.Root()).CreatePrincipal(t.Context(), user, iam.PrincipalOptions{})
	require.NoError(t, err)
	f.key, err = f.bridge.IAM().As(f.bridge.Root()).CreateAccessKey(t.Context(), user)
	require.NoError(t, err)
	for remote, address := range map[string]string{
		"192.0.2.7:4711":              "192.0.2.7",
		"[::ffff:192.0.2.7]:4711":     "192.0.2.7",
		"[2001:db8::7]:4711":          "2001:db8::7",
		"[fe80::7%eth0]:4711":         "fe80::7",
		"[2001:DB8:0:0:0:0:0:7]:4711": "2001:db8::7",
	} {
		policy := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:ListKeys","Resource":"*",` +
			`"Condition":{"StringEquals":{"aws:SourceIp":"` + address + `"}}}}`
		require.NoError(t, f.bridge.IAM().As(f.bridge.Root()).PutPrincipalPolicy(t.Context(), user, "p", policy))
		r := f.request(t, "http://127.0.0.1/", "ListKeys", "{}")
		r.Header.Set("Content-Length", "2") // as net/http hands it over
		r.RemoteAddr = remote
		answer := httptest.NewRecorder()
		f.ServeHTTP(answer, r)
		require.Equal(t, http.StatusOK, answer.Code, "%s: %s", remote, answer.Body)
	}
}
