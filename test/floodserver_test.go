package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// unitSetting reads a setting of docs/pkcs11kms.service.
func unitSetting(t *testing.T, name string) string {
	t.Helper()
	unit, err := os.ReadFile("../docs/pkcs11kms.service")
	require.NoError(t, err)
	found := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindSubmatch(unit)
	require.NotNil(t, found, name)
	return string(found[1])
}

// floodedServer is a server that may open only so many descriptors.
type floodedServer struct {
	*served
	descriptors int

	mu   sync.Mutex // guards peak
	peak int        // descriptors that were open at once, as far as anybody looked
}

// startFlooded starts the binary that users have on a state directory, with a limit of descriptors as the unit sets it, or
// what this process may give when that is less.
func startFlooded(t *testing.T, d *stateDir, descriptors int, flags ...string) *floodedServer {
	t.Helper()
	var hard syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &hard))
	if uint64(descriptors) > hard.Max {
		t.Logf("this machine allows %d descriptors, not %d", hard.Max, descriptors)
		descriptors = int(hard.Max)
	}
	limited := []string{"-c", `ulimit -n "$0" && exec "$@"`, strconv.Itoa(descriptors), executable(t, usersBinary), "serve"}
	cmd := exec.Command("sh", append(limited, flags...)...)
	return &floodedServer{served: startServed(t, d, cmd, patience), descriptors: descriptors}
}

// stop ends the server, which must have been the one that was started, and well to the end.
func (s *floodedServer) stop(t *testing.T) {
	t.Helper()
	s.served.stop(t)
	for _, bad := range []string{"Accept error", syscall.EMFILE.Error(), "level=ERROR"} {
		assert.NotContains(t, s.log.String(), bad)
	}
}

// look notes how many descriptors are open.
func (s *floodedServer) look(t *testing.T) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	assert.NoError(t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peak = max(s.peak, len(entries))
}

// memory is the most that the server has had resident, in bytes.
func (s *floodedServer) memory(t *testing.T) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	require.NoError(t, err)
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	require.NotNil(t, found)
	kib, err := strconv.Atoi(string(found[1]))
	require.NoError(t, err)
	return kib << 10
}

// memoryMax reads the unit's MemoryMax, in bytes.
func memoryMax(t *testing.T) int {
	gib, found := strings.CutSuffix(unitSetting(t, "MemoryMax"), "G")
	require.True(t, found)
	n, err := strconv.Atoi(gib)
	require.NoError(t, err)
	return n << 30
}

// selfSigned writes a certificate for 127.0.0.1 and its key.
func selfSigned(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "flood"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return certFile, keyFile
}
