package statedir

import (
	"fmt"
	"path/filepath"
)

// ListenConfig is what a state directory says to its server. Empty fields are not configured.
type ListenConfig struct {
	API     string // host:port of the API
	Admin   string // host:port or unix:PATH of the admin listener, or off
	TLSCert string // absolute path of the certificate chain, PEM
	TLSKey  string // absolute path of its private key, PEM; there when TLSCert is

	LogRequests string // which requests are logged: all, errors or off
	ReusePort   bool   // by ListenShared
}

// LoadListenConfig reads the part of a state directory's config.yaml that is for its server, with the care and the
// errors of Load. Relative paths in the file begin at the state directory, so that it can be moved.
func LoadListenConfig(dir string) (ListenConfig, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ListenConfig{}, err
	}
	if err := checkStateDir(dir); err != nil {
		return ListenConfig{}, err
	}
	path := filepath.Join(dir, configFile)
	state, err := readConfig(path)
	if err != nil {
		return ListenConfig{}, err
	}
	if (state.TLS.Cert == "") != (state.TLS.Key == "") {
		return ListenConfig{}, setupError(fmt.Sprintf("invalid %s: tls has only one of cert and key", path),
			"name the files of both the certificate chain and its private key", nil)
	}
	if err := checkLogRequests(state.Log.Requests); err != nil {
		return ListenConfig{}, invalidConfig(dir, fmt.Errorf("log.requests: %w", err))
	}
	return ListenConfig{API: state.Listen, Admin: state.AdminListen, TLSCert: inDir(dir, state.TLS.Cert), TLSKey: inDir(dir, state.TLS.Key),
		LogRequests: state.Log.Requests, ReusePort: state.ReusePort}, nil
}

// checkLogRequests refuses what is no value of log.requests. An empty text means the default.
func checkLogRequests(text string) error {
	switch text {
	case "", "all", "errors", "off":
		return nil
	}
	return fmt.Errorf("%q is not one of all, errors, off", text)
}
