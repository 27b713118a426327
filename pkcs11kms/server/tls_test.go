package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// writeCertificate writes a new self-signed certificate for 127.0.0.1 and its key, and returns it.
func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) *x509.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}

// trust returns a transport of its own that trusts exactly these certificates.
func trust(t *testing.T, certs ...*x509.Certificate) *http.Transport {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

func TestTLS(t *testing.T) {
	f := newFixture(t, nil)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first := writeCertificate(t, certFile, keyFile, 1)
	certificate, err := LoadCertificate(certFile, keyFile)
	require.NoError(t, err)
	r := f.run(t, Listen{Certificate: certificate})
	serial := func(tr *http.Transport) int64 {
		f.client = &http.Client{Transport: tr}
		got := f.send(t, f.request(t, r.url, "ListKeys", "{}"))
		require.Equal(t, 200, got.StatusCode, got.body)
		require.GreaterOrEqual(t, got.TLS.Version, uint16(tls.VersionTLS12))
		return got.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	old := trust(t, first)
	require.EqualValues(t, 1, serial(old))

	// A reload goes for new connections; those that are open go on.
	second := writeCertificate(t, certFile, keyFile, 2)
	require.NoError(t, certificate.Reload())
	require.EqualValues(t, 1, serial(old))
	require.EqualValues(t, 2, serial(trust(t, second)))

	// Files that cannot be used change nothing.
	require.NoError(t, os.WriteFile(certFile, []byte("no PEM"), 0o600))
	require.ErrorContains(t, certificate.Reload(), "cert.pem")
	require.EqualValues(t, 2, serial(trust(t, second)))
	f.client = &http.Client{Transport: trust(t)}
	require.Equal(t, 200, f.get(t, r.admin+"/healthz").StatusCode, "on loopback the admin pages need no TLS")
}

func TestTLSVersions(t *testing.T) {
	f := newFixture(t, nil)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, certFile, keyFile, 1)
	certificate, err := LoadCertificate(certFile, keyFile)
	require.NoError(t, err)
	r := f.run(t, Listen{Certificate: certificate})
	for version, accepted := range map[uint16]bool{
		tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true,
	} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(r.url, "https://"),
			&tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if accepted {
			require.NoError(t, err, tls.VersionName(version))
			require.NoError(t, conn.Close())
			continue
		}
		require.ErrorContains(t, err, "version", tls.VersionName(version)) // which a client in FIPS 140-3 mode does not even offer
	}
	plain, err := http.Post("http://"+strings.TrimPrefix(r.url, "https://"), keyManagement.codec.contentType, strings.NewReader("{}"))
	require.NoError(t, err)
	require.NoError(t, plain.Body.Close())
	require.Equal(t, http.StatusBadRequest, plain.StatusCode, "no plaintext on a TLS port")
	http.DefaultClient.CloseIdleConnections()
}

// The admin pages speak TLS wherever others can reach them.
func TestAdminWithTLS(t *testing.T) {
	f := newFixture(t, nil)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert := writeCertificate(t, certFile, keyFile, 1)
	certificate, err := LoadCertificate(certFile, keyFile)
	require.NoError(t, err)
	r := f.run(t, Listen{Certificate: certificate, Admin: "0.0.0.0:0"})
	f.client = &http.Client{Transport: trust(t, cert)}
	_, port, err := net.SplitHostPort(r.adminAddr.String())
	require.NoError(t, err)
	require.Equal(t, "ready\n", f.get(t, "https://127.0.0.1:"+port+"/healthz").body)
	require.Equal(t, 400, f.get(t, "http://127.0.0.1:"+port+"/healthz").StatusCode)
}

func TestCertificateThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, other := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "other.pem")
	writeCertificate(t, certFile, other, 1)
	writeCertificate(t, other+".cert", keyFile, 2)
	for name, files := range map[string][2]string{
		"no file":           {filepath.Join(dir, "none.pem"), keyFile},
		"key of another":    {certFile, keyFile},
		"certificate twice": {certFile, certFile},
	} {
		_, err := LoadCertificate(files[0], files[1])
		require.ErrorContains(t, err, "reading the TLS certificate", name)
	}
}

// A private key that others than its owner and a group can read, or that others can change, is not used.
func TestPrivateKeyThatIsOpenToOthersIsRefused(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, certFile, keyFile, 1)
	for mode, refused := range map[os.FileMode]bool{
		0o600: false, 0o400: false, 0o640: false, 0o604: true, 0o644: true, 0o601: true, 0o602: true, 0o620: true, 0o660: true,
	} {
		require.NoError(t, os.Chmod(keyFile, mode))
		_, err := LoadCertificate(certFile, keyFile)
		if !refused {
			require.NoError(t, err, "%#o", mode)
			continue
		}
		require.ErrorContains(t, err, "is open to others", "%#o", mode)
		require.ErrorContains(t, err, "chmod 600", "%#o", mode)
	}
}
