package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// Certificate is a TLS certificate with its key that can be read again while it serves. Safe for concurrent use.
type Certificate struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
}

// LoadCertificate reads a certificate chain and its private key, both PEM.
func LoadCertificate(certFile, keyFile string) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile}
	return c, c.Reload()
}

// Reload reads the files again. When they cannot be used, the certificate stays as it was.
func (c *Certificate) Reload() error {
	info, err := os.Stat(c.keyFile)
	if err == nil && info.Mode().Perm()&0o027 != 0 {
		return fmt.Errorf("the TLS key %q is open to others (mode %#o): chmod 600 it, and replace it if others may have read it",
			c.keyFile, info.Mode().Perm())
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err == nil && fips140.Enabled() && !approved(pair.Leaf.PublicKey) {
		err = errors.New("its key is not approved in FIPS 140-3 mode, which takes RSA of at least 2048 bits, P-256, P-384, P-521 and Ed25519")
	}
	if err != nil {
		return fmt.Errorf("reading the TLS certificate %q: %w", c.certFile, err)
	}
	c.current.Store(&pair)
	return nil
}

// approved tells whether a server may prove itself by the key (FIPS 186-5). Of clients crypto/tls asks as much itself, and of
// servers what it can sign with.
func approved(public any) bool {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= 2048
	case *ecdsa.PublicKey:
		return key.Curve != elliptic.P224()
	}
	return true // Ed25519, since LoadX509KeyPair takes no others
}

func (c *Certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}
