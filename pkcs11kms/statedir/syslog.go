package statedir

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

// syslogYAML is the section audit.syslog of config.yaml.
type syslogYAML struct {
	Address    string `yaml:"address"`
	CA         string `yaml:"ca,omitempty"`
	Cert       string `yaml:"cert,omitempty"`
	Key        string `yaml:"key,omitempty"`
	ServerName string `yaml:"server-name,omitempty"`
	Facility   *int   `yaml:"facility,omitempty"`
}

// options returns what the section says, and nil where there is none. What the files hold is looked at when the audit log is opened.
func (s *syslogYAML) options(dir string) (*audit.SyslogOptions, error) {
	if s == nil {
		return nil, nil
	}
	o := &audit.SyslogOptions{Address: s.Address, CA: inDir(dir, s.CA), Cert: inDir(dir, s.Cert), Key: inDir(dir, s.Key),
		ServerName: s.ServerName, Facility: audit.DefaultFacility}
	host, port, err := net.SplitHostPort(s.Address)
	number, portErr := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil, host == "", portErr != nil, number == 0, strings.Contains(s.Address, "/"):
		return nil, fmt.Errorf("audit.syslog.address is %q, not HOST:PORT, such as logs.example:6514: there is TLS alone", s.Address)
	case (s.Cert == "") != (s.Key == ""):
		return nil, fmt.Errorf("audit.syslog has only one of cert and key")
	case s.Facility != nil && (*s.Facility < 1 || *s.Facility > 23):
		return nil, fmt.Errorf("audit.syslog.facility is %d, not one of 1 to 23", *s.Facility)
	case s.Facility != nil:
		o.Facility = *s.Facility
	}
	return o, nil
}

// inDir is a path that begins at the state directory, so that that can be moved.
func inDir(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
