package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
	"github.com/pkcs11kms/bridge/pkcs11kms/server"
	"github.com/pkcs11kms/bridge/pkcs11kms/statedir"
)

// prepare reads what flags and config.yaml say and loads the certificate. A development server makes its state
// directory here.
func (s *serving) prepare(ctx context.Context) (server.Listen, error) {
	var err error
	if s.dir, err = s.app.directory(); err != nil {
		return server.Listen{}, err
	}
	if err := s.checkFlags(); err != nil {
		return server.Listen{}, err
	}
	if s.dev {
		if err := s.makeDevDirectory(ctx); err != nil {
			return server.Listen{}, err
		}
	}
	file, err := statedir.LoadListenConfig(s.dir)
	if err != nil {
		return server.Listen{}, err
	}
	s.complete(file)
	if err := s.checkListeners(); err != nil {
		return server.Listen{}, err
	}
	listen := server.Listen{API: s.listen.API, Admin: s.listen.Admin, AllowPlaintext: s.plaintext, LoopbackOnly: s.dev}
	if listen.Admin == adminOff {
		listen.Admin = ""
	}
	if s.reusePort {
		listen.Drain = reuseDrain
		listen.ListenAPI = func(ctx context.Context, network, address string) (net.Listener, error) {
			return statedir.ListenShared(ctx, s.dir, network, address)
		}
	}
	if s.listen.TLSCert != "" {
		if listen.Certificate, err = server.LoadCertificate(s.listen.TLSCert, s.listen.TLSKey); err != nil {
			return server.Listen{}, &environmentError{err, "give a certificate chain and the private key that fits it, both in PEM"}
		}
	}
	return listen, nil
}

func (s *serving) checkFlags() error {
	if (s.listen.TLSCert == "") != (s.listen.TLSKey == "") {
		return usagef("the arguments --tls-cert and --tls-key are required together")
	}
	if s.dev && s.plaintext {
		return usagef("--allow-plaintext does not go with --dev, which listens on this machine only")
	}
	if s.onHang != hangWait && s.onHang != hangExit {
		return usagef("argument --on-hang: %q is neither %s nor %s", s.onHang, hangWait, hangExit)
	}
	if _, err := statedir.NoSessionCopies(s.copies); err != nil {
		return usagef("argument --session-copies: %v", err)
	}
	if s.requests != "" && !slices.Contains(logRequests(), s.requests) {
		return usagef("argument --log-requests: %q is not one of %s", s.requests, strings.Join(logRequests(), ", "))
	}
	if s.hangTime < time.Second {
		return usagef("argument --hang-time: %v is shorter than a second", s.hangTime)
	}
	return nil
}

// complete fills in from config.yaml what the flags leave open, and the defaults.
func (s *serving) complete(file statedir.ListenConfig) {
	s.listen.API = firstOf(s.listen.API, file.API, defaultListen)
	s.listen.Admin = firstOf(s.listen.Admin, file.Admin, defaultAdmin)
	s.requests = firstOf(s.requests, file.LogRequests)
	s.listen.Services = file.Services
	if !s.reuseGiven {
		s.reusePort = file.ReusePort
	}
	if s.listen.TLSCert == "" {
		s.listen.TLSCert, s.listen.TLSKey = file.TLSCert, file.TLSKey
	}
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// checkListeners refuses addresses that cannot be meant, as far as they are known: before a token is asked for anything.
func (s *serving) checkListeners() error {
	if s.plaintext && s.listen.TLSCert != "" {
		return usagef("--allow-plaintext does not go with a TLS certificate")
	}
	if err := s.checkAddress("listen", s.listen.API); err != nil {
		return err
	}
	if strings.HasPrefix(s.listen.Admin, unixPrefix) || s.listen.Admin == adminOff {
		return nil
	}
	return s.checkAddress("admin-listen", s.listen.Admin)
}

func (s *serving) checkAddress(flag, address string) error {
	if address == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil || strings.HasPrefix(address, unixPrefix) {
		return usagef("argument --%s: %q is not HOST:PORT", flag, address)
	}
	if s.dev && !server.IsLocal(address) {
		return &usageError{err: fmt.Errorf("argument --%s: a development server does not listen on %q", flag, address),
			hint: "with --dev only this machine may reach it: use an address such as " + defaultListen}
	}
	return nil
}

const unixPrefix = "unix:"

// checkAudit refuses to serve others without a record of it, or with one that a power cut may take back.
func (s *serving) checkAudit(cfg *statedir.Config) error {
	if cfg.Audit != audit.Discard && cfg.AuditOptions.Syslog == nil {
		s.audited = cfg.AuditDir
	}
	if cfg.AuditStdout {
		stdout, ok := s.app.stdout.(*os.File)
		if !ok {
			return errors.New("audit.stdout: standard output is no file")
		}
		cfg.AuditOptions.Stdout, s.announced = stdout, s.app.stderr
	}
	switch {
	case s.dev:
		return nil
	case cfg.Audit == audit.Discard:
		return &environmentError{fmt.Errorf("config.yaml of %q has audit.file: off, and a server answers nobody without an audit log", s.dir),
			"take it out, or serve with --dev, for trying out"}
	case cfg.AuditOptions.Fsync == audit.FsyncOff:
		return &environmentError{fmt.Errorf("config.yaml of %q has audit.fsync: off, by which a power cut takes back records of changes", s.dir),
			"use group or always, or serve with --dev, for trying out"}
	}
	return nil
}
