package audit

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
)

// tls makes the configuration of a connection from the files, which may have changed since the last one.
func (s *syslogSink) tls() (*tls.Config, error) {
	host, _, err := net.SplitHostPort(s.o.Address)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", s.o.Address, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if s.o.ServerName != "" {
		config.ServerName = s.o.ServerName
	}
	if s.o.CA != "" {
		text, err := os.ReadFile(s.o.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ca: %q has no certificate in PEM", s.o.CA)
		}
	}
	if s.o.Cert != "" || s.o.Key != "" {
		pair, err := tls.LoadX509KeyPair(s.o.Cert, s.o.Key)
		if err != nil {
			return nil, fmt.Errorf("cert and key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
